#include "worker/replica/rank_runner.h"

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

absl::Status NotFormed() { return absl::UnavailableError("the group of ranks is not formed"); }

}  // namespace

std::string DescribeLimits(const RunnerLimits& limits) {
  return absl::StrCat("block_tokens=", limits.block_tokens, " max_slots=", limits.max_slots,
                      " max_batch_tokens=", limits.max_batch_tokens,
                      " max_context_tokens=", limits.max_context_tokens,
                      " vocab_size=", limits.vocab_size,
                      " max_steps_in_flight=", limits.max_steps_in_flight);
}

const char* DeviceName(int gpu) { return NameOf(gpu < 0 ? Device::kCpu : Device::kCuda); }

absl::Status DisbandedCollectives::status() const { return NotFormed(); }
absl::Status DisbandedCollectives::AllReduceSum(MatrixView, DeviceStream) { return NotFormed(); }
absl::Status DisbandedCollectives::GatherColumns(ConstMatrixView, MatrixView, DeviceStream) {
  return NotFormed();
}
absl::Status DisbandedCollectives::Broadcast(void*, size_t, int) { return NotFormed(); }

}  // namespace caravan
