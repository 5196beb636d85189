// What a warp needs to feed tensor cores, portable from sm_80 on: asynchronous copies into shared
// memory, swizzled tiles there, matrix fragments, and their product.
//
// Fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): lane l holds of the
// 16 x 8 sum rows l / 4 (elements 0, 1) and l / 4 + 8 (2, 3), columns 2 (l % 4) and the next.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace caravan::cuda {

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Starts to copy 16 bytes to shared memory, past L1; zeroes where `valid` is not set, and then
// `source` is not read.
__device__ inline void CopyAsync16(uint32_t shared, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Makes one group of the copies that this thread has started since the last one.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the latest N groups of this thread have arrived.
template <int N>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// A tile of rows of kCols two-byte elements in shared memory, whose 16-byte chunks are permuted
// within each row so that one chunk of eight successive rows lies in all 32 banks.
template <int kCols>
struct SwizzledTile {
  static constexpr int kChunks = kCols / 8;
  static_assert(kChunks % 4 == 0);

  static constexpr int Bytes(int rows) { return rows * kCols * 2; }
  __device__ static int Phase(int row) { return kChunks % 8 == 0 ? row & 7 : (row >> 1) & 3; }
  __device__ static uint32_t Offset(int row, int chunk) {
    return static_cast<uint32_t>(row * kChunks + (chunk ^ Phase(row))) * 16;
  }
};

// Where a lane reads its part of 16 x 16 elements: row `row` of a tile, and of each pair of chunks
// the first or second. Chunk pair p of the tile at `base` is At(base, p).
template <int kCols>
struct FragmentAddress {
  __device__ FragmentAddress(int row, int half)
      : row_bytes(static_cast<uint32_t>(row * kCols * 2)),
        chunk_bytes(static_cast<uint32_t>(half ^ SwizzledTile<kCols>::Phase(row)) * 16) {}
  __device__ uint32_t At(uint32_t base, int pair) const {
    return base + row_bytes + (chunk_bytes ^ static_cast<uint32_t>(pair * 32));
  }
  // 16 · n rows further down: the phase is the same there.
  __device__ uint32_t At(uint32_t base, int n, int pair) const {
    return At(base + static_cast<uint32_t>(n * 16 * kCols * 2), pair);
  }

  uint32_t row_bytes;
  uint32_t chunk_bytes;
};

// The addresses of the three kinds of operand, for lane l: A [16 rows, 16 k], B stored as [16
// columns, 16 k], B stored as [16 k, 16 columns] (which LoadTransposed reads).
template <int kCols>
__device__ FragmentAddress<kCols> AddressOfA(int lane) {
  return {lane % 16, lane / 16};
}
template <int kCols>
__device__ FragmentAddress<kCols> AddressOfColumnsB(int lane) {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2};
}
template <int kCols>
__device__ FragmentAddress<kCols> AddressOfRowsB(int lane) {
  return {lane % 16, lane / 16};
}

// Four 8 x 8 matrices of two-byte elements, row l % 8 of matrix l / 8 at lane l's address.
__device__ inline void LoadFragment(uint32_t shared, uint32_t (&f)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
               : "r"(shared)
               : "memory");
}
__device__ inline void LoadTransposed(uint32_t shared, uint32_t (&f)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
               : "r"(shared)
               : "memory");
}

// sum += a · b for 16 x 16 a, 16 x 8 b of T in fragments.
template <typename T>
__device__ void MultiplyAdd(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ inline void MultiplyAdd<__half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ inline void MultiplyAdd<__nv_bfloat16>(float (&sum)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two neighbours of a fragment, rounded to nearest.
template <typename T>
__device__ uint32_t PackPair(float low, float high);
template <>
__device__ inline uint32_t PackPair<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ inline uint32_t PackPair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// 2^x within 2 steps of float32 (CUDA C++ Programming Guide, exp2f); 0 below 2^-126.
__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace caravan::cuda
