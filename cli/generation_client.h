// One request to a gateway, as native clients make it: when the gateway or its replica goes away
// after the request has begun, it goes on where it was cut off, by sending the emitted token ids
// and the seed.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "caravan/v1/generation.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace caravan {

struct RetryOptions {
  bool enabled = true;
  absl::Duration give_up_after = absl::Seconds(30);  // without a new token
};

// What came back, joined over all attempts.
struct GenerationResult {
  v1::Started started;             // of the first attempt
  std::vector<int32_t> token_ids;  // of sample 0
  std::string text;                // of sample 0
  v1::Finished finished;           // of the last sample that finished
  int num_resumes = 0;
  absl::Time sent_at;
  absl::Time first_token_at = absl::InfiniteFuture();
  absl::Time last_token_at = absl::InfiniteFuture();

  // Tokens a second after the first; 0 with fewer than two.
  double tokens_per_second() const;
};

class GenerationClient {
 public:
  GenerationClient(std::shared_ptr<grpc::Channel> channel, RetryOptions retry);

  // Blocks until the request is finished. `on_event` sees each event as it comes, on this thread;
  // false from it cancels. CANCELLED after Cancel(). A resume is seen as a further Started.
  absl::StatusOr<GenerationResult> Generate(
      const v1::GenerateRequest& request,
      const std::function<bool(const v1::GenerateResponse&)>& on_event);

  // Any thread: the running request ends, and those to come.
  void Cancel();

 private:
  absl::Status RunAttempt(const v1::GenerateRequest& request,
                          const std::function<bool(const v1::GenerateResponse&)>& on_event,
                          GenerationResult* result);
  bool cancelled();

  std::unique_ptr<v1::Generation::Stub> stub_;
  RetryOptions retry_;
  std::mutex mutex_;
  grpc::ClientContext* context_ = nullptr;  // of the running attempt
  bool cancelled_ = false;
};

// The words of a Finished for people: "stop token", "length", …
std::string ReasonName(v1::Finished::Reason reason);

}  // namespace caravan
