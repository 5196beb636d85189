// What the warpgroups of Hopper (sm_90a) need for products that read shared memory by themselves
// (wgmma), and the barriers by which warps pass that memory on.
//
// The sum of m64nNk16 in a warp is N / 8 fragments like those of mma.m16n8k16, of rows 16 · (warp
// in its group) on, and so is A in registers: see tensor_core.cuh.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace caravan::cuda {

// A tile of kRows rows of two-byte elements in panels of 64 columns, each row of a panel 128 bytes
// whose 16-byte chunks are permuted: the 128-byte swizzle. The tile is aligned to 1,024 bytes.
template <int kRows>
struct PanelTile {
  static constexpr int kPanelBytes = kRows * 128;

  static constexpr int Bytes(int cols) { return cols / 64 * kPanelBytes; }
  __device__ static uint32_t Offset(int row, int chunk) {
    return static_cast<uint32_t>(chunk / 8 * kPanelBytes + row * 128 +
                                 ((chunk % 8) ^ (row & 7)) * 16);
  }
};

// Matrix descriptors (PTX ISA, "Matrix descriptor"): address, leading and stride offsets in units
// of 16 bytes, 128-byte swizzle. Eight rows of a panel are 1,024 bytes.
__device__ inline uint64_t MatrixDescriptor(uint32_t shared, uint32_t leading_bytes) {
  return static_cast<uint64_t>((shared & 0x3FFFF) >> 4) |
         static_cast<uint64_t>(leading_bytes >> 4) << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

__device__ inline void FenceWarpgroup() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until all but the latest N groups of products are done.
template <int N>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Keeps the compiler from moving uses of registers that a product is writing across this point.
template <int kTiles>
__device__ __forceinline__ void HoldRegisters(float (&sum)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sum[n][i])::"memory");
  }
}

// clang-format off
#define CARAVAN_REGISTERS_4 "%0, %1, %2, %3"
#define CARAVAN_REGISTERS_8 CARAVAN_REGISTERS_4 ", %4, %5, %6, %7"
#define CARAVAN_REGISTERS_16 CARAVAN_REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define CARAVAN_REGISTERS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CARAVAN_REGISTERS_64 \
  CARAVAN_REGISTERS_32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CARAVAN_FRAGMENT(i) "+f"(sum[i][0]), "+f"(sum[i][1]), "+f"(sum[i][2]), "+f"(sum[i][3])
#define CARAVAN_FRAGMENTS_8(i) \
  CARAVAN_FRAGMENT(i), CARAVAN_FRAGMENT(i + 1), CARAVAN_FRAGMENT(i + 2), CARAVAN_FRAGMENT(i + 3), \
  CARAVAN_FRAGMENT(i + 4), CARAVAN_FRAGMENT(i + 5), CARAVAN_FRAGMENT(i + 6), CARAVAN_FRAGMENT(i + 7)
// sum (+)= A · Bᵀ, A [64, 16] and B [128, 16] by descriptor.
#define CARAVAN_SCORES(type) \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; " \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" CARAVAN_REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 0; }" \
               : CARAVAN_FRAGMENTS_8(0), CARAVAN_FRAGMENTS_8(8) \
               : "l"(a), "l"(b), "r"(accumulate ? 1 : 0))
// sum += A · B, A [64, 16] in registers, B [16, 128] or [16, 64] by descriptor.
#define CARAVAN_VALUES_128(type) \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type \
               " {" CARAVAN_REGISTERS_64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;" \
               : CARAVAN_FRAGMENTS_8(0), CARAVAN_FRAGMENTS_8(8) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define CARAVAN_VALUES_64(type) \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type \
               " {" CARAVAN_REGISTERS_32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;" \
               : CARAVAN_FRAGMENTS_8(0) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
// sum += A · Bᵀ, A [64, 16] and B [8 · tiles, 16] by descriptor.
#define CARAVAN_ROWS(columns, type, registers, a_register, b_register, ...) \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type \
               " {" registers "}, " a_register ", " b_register ", 1, 1, 1, 0, 0;" \
               : __VA_ARGS__ : "l"(a), "l"(b))
#define CARAVAN_ROWS_8(type) \
  CARAVAN_ROWS("8", type, CARAVAN_REGISTERS_4, "%4", "%5", CARAVAN_FRAGMENT(0))
#define CARAVAN_ROWS_16(type) \
  CARAVAN_ROWS("16", type, CARAVAN_REGISTERS_8, "%8", "%9", CARAVAN_FRAGMENT(0), CARAVAN_FRAGMENT(1))
#define CARAVAN_ROWS_32(type) \
  CARAVAN_ROWS("32", type, CARAVAN_REGISTERS_16, "%16", "%17", CARAVAN_FRAGMENT(0), \
               CARAVAN_FRAGMENT(1), CARAVAN_FRAGMENT(2), CARAVAN_FRAGMENT(3))
#define CARAVAN_ROWS_64(type) \
  CARAVAN_ROWS("64", type, CARAVAN_REGISTERS_32, "%32", "%33", CARAVAN_FRAGMENTS_8(0))
#define CARAVAN_BY_TYPE(product) \
  if constexpr (std::is_same_v<T, __half>) { product("f16"); } else { product("bf16"); }
// clang-format on

template <typename T, int kTiles>
__device__ __forceinline__ void AddRows(float (&sum)[kTiles][4], uint64_t a, uint64_t b) {
  if constexpr (kTiles == 1) {
    CARAVAN_BY_TYPE(CARAVAN_ROWS_8);
  } else if constexpr (kTiles == 2) {
    CARAVAN_BY_TYPE(CARAVAN_ROWS_16);
  } else if constexpr (kTiles == 4) {
    CARAVAN_BY_TYPE(CARAVAN_ROWS_32);
  } else {
    static_assert(kTiles == 8);
    CARAVAN_BY_TYPE(CARAVAN_ROWS_64);
  }
}

template <typename T>
__device__ __forceinline__ void MultiplyRows(float (&sum)[16][4], uint64_t a, uint64_t b,
                                             bool accumulate) {
  if constexpr (std::is_same_v<T, __half>) {
    CARAVAN_SCORES("f16");
  } else {
    CARAVAN_SCORES("bf16");
  }
}

template <typename T>
__device__ __forceinline__ void AddProduct(float (&sum)[16][4], const uint32_t (&a)[4],
                                           uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    CARAVAN_VALUES_128("f16");
  } else {
    CARAVAN_VALUES_128("bf16");
  }
}

template <typename T>
__device__ __forceinline__ void AddProduct(float (&sum)[8][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same_v<T, __half>) {
    CARAVAN_VALUES_64("f16");
  } else {
    CARAVAN_VALUES_64("bf16");
  }
}

#undef CARAVAN_ROWS
#undef CARAVAN_BY_TYPE
#undef CARAVAN_ROWS_8
#undef CARAVAN_ROWS_16
#undef CARAVAN_ROWS_32
#undef CARAVAN_ROWS_64
#undef CARAVAN_REGISTERS_4
#undef CARAVAN_REGISTERS_8
#undef CARAVAN_REGISTERS_16
#undef CARAVAN_REGISTERS_32
#undef CARAVAN_REGISTERS_64
#undef CARAVAN_FRAGMENT
#undef CARAVAN_FRAGMENTS_8
#undef CARAVAN_SCORES
#undef CARAVAN_VALUES_128
#undef CARAVAN_VALUES_64

// Registers of each thread of the warpgroup from here on: the producer of copies needs few, so that
// those that multiply get more.
template <int kRegisters>
__device__ void ReleaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void ClaimRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// What this thread has written to shared memory, or knows to be written, is visible to later
// products.
__device__ inline void PublishToProducts() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Barriers in shared memory (PTX ISA, "mbarrier"): a phase ends after `arrivals` arrivals.
__device__ inline void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives as soon as all asynchronous copies that this thread has started are there.
__device__ inline void ArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Waits for the end of the phase with this parity: 0 of the first one.
__device__ inline void WaitForPhase(uint32_t barrier, int parity) {
  asm volatile(
      "{ .reg .pred done; retry: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
      "@!done bra retry; }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Waits for the `threads` threads that meet at one of the block's numbered barriers.
__device__ inline void SyncThreads(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// Counts as `threads` do there, without waiting.
__device__ inline void ArriveAt(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace caravan::cuda
