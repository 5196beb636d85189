// All that the engine's thread shares with others, behind one lock.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/engine/engine.h"
#include "worker/engine/request.h"

namespace caravan {

// Commands go in from any thread, the engine's thread takes them out in order; its statistics come
// back. std::mutex and not absl::Mutex: ThreadSanitizer can't see into the distribution's Abseil.
class Mailbox {
 public:
  using Command = std::variant<std::shared_ptr<const Request>, RequestKey>;  // submit, cancel

  explicit Mailbox(int32_t max_waiting_requests) : max_waiting_requests_(max_waiting_requests) {}

  // Any thread.
  absl::Status Submit(Request request);
  void Cancel(RequestKey key);
  void Wake();  // is news without a command
  EngineStats Stats() const;
  absl::Status status() const;
  void BeginDrain();
  // Until all keys are released and their events delivered; false at the time-out.
  bool WaitUntilEmpty(absl::Duration timeout);
  // Wakes the engine's thread, which sees stopping().
  void Stop();
  bool stopping() const;

  // The engine's thread.
  std::vector<Command> Take();
  void WaitForNews();  // until there is a command, Wake or Stop
  // After a turn, around the delivery of its events: `released` keys have had their last one.
  void BeginDelivery(const EngineStats& stats, const std::vector<RequestKey>& released);
  void EndDelivery();
  // Refuses everything from now on with UNAVAILABLE; `fatal` becomes status() unless it is OK. What
  // was not taken yet is returned.
  std::vector<Command> Close(const absl::Status& fatal);

 private:
  const int32_t max_waiting_requests_;

  mutable std::mutex mutex_;
  std::condition_variable news_;   // for the engine's thread
  std::condition_variable empty_;  // for WaitUntilEmpty
  std::vector<Command> commands_;
  int32_t submissions_ = 0;  // among them
  bool woken_ = false;
  absl::flat_hash_set<RequestKey> keys_;
  EngineStats stats_;
  absl::Status status_;
  bool delivering_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  bool closed_ = false;
};

}  // namespace caravan
