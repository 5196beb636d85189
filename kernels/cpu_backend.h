// How the CPU twins of the operators run: which instructions, how many threads. Process-wide.
#pragma once

#include <cstdint>

namespace caravan {

// Each includes the ones before it. AVX2 stands for AVX2 + FMA + F16C, AVX-512 for F + BW + DQ +
// VL. kAvx2 and kAvx512 give equal bits; kPortable has no fused multiply-add and rounds more often.
enum class CpuIsa : uint8_t { kPortable, kAvx2, kAvx512 };

const char* NameOf(CpuIsa isa);  // "portable", "avx2", "avx512"

// The best that this machine has.
CpuIsa BestCpuIsa();

// What the operators use: BestCpuIsa, unless the environment variable CARAVAN_CPU_ISA names another
// one at the first call, or SetCpuIsa was called. An ISA that the machine lacks aborts.
CpuIsa ActiveCpuIsa();
void SetCpuIsa(CpuIsa isa);  // not while an operator runs

// Threads that one operator may use, the calling one included; at first the environment variable
// OMP_NUM_THREADS, as other libraries read it, else the cores that this process may run on. Ranks
// that share a host should share its cores out among them. Results do not depend on it.
int CpuThreads();
void SetCpuThreads(int threads);

}  // namespace caravan
