// Sends requests to a gateway at a fixed concurrency or at random arrival times, and times every
// event that comes back.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "caravan/v1/generation.grpc.pb.h"

namespace caravan {

struct TokenRange {
  int least = 0;
  int most = 0;
};

struct LoadOptions {
  std::string model;
  int vocabulary_size = 0;
  int concurrency = 8;  // requests in flight; not used with a rate
  double rate = 0;      // requests a second, Poisson arrivals; 0 = fixed concurrency
  int num_requests = 100;
  TokenRange prompt_tokens;  // drawn uniformly for each request
  TokenRange output_tokens;
  bool ignore_eos = true;
  bool text = true;  // false: token ids alone
  double temperature = 1;
  uint64_t seed = 1;  // of arrivals, lengths and prompts
};

struct RequestRecord {
  absl::Time sent_at;
  absl::Time first_token_at = absl::InfiniteFuture();
  absl::Time last_token_at = absl::InfiniteFuture();
  absl::Time finished_at;
  int prompt_tokens = 0;
  int output_tokens = 0;
  // One a token after the first event: the event's gap, divided by its tokens.
  std::vector<double> inter_token_ms;
  absl::Status status;
  bool cancelled = false;  // by LoadGenerator::Cancel; the rest is how far it came
};

struct LoadProgressCounts {
  int started = 0;
  int finished = 0;
  int failed = 0;
  int64_t output_tokens = 0;
};

class LoadGenerator {
 public:
  // Requests are spread over the channels.
  LoadGenerator(const std::vector<std::shared_ptr<grpc::Channel>>& channels, LoadOptions options);
  ~LoadGenerator();

  // Blocks until all requests have ended; `on_progress` is called several times a second.
  std::vector<RequestRecord> Run(const std::function<void(const LoadProgressCounts&)>& on_progress);

  // Any thread: starts no more requests and cancels the running ones.
  void Cancel();

 private:
  class Call;

  v1::GenerateRequest MakeRequest();
  void StartOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the next request is due, by concurrency or by the clock.
  bool IsDue(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int num_running() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return counts_.started - counts_.finished;
  }

  LoadOptions options_;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs_;
  std::mt19937_64 random_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);
  LoadProgressCounts counts_ ABSL_GUARDED_BY(mutex_);
  absl::Time next_arrival_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace caravan
