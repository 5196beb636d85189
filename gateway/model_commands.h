// Which models are to be in the memory of their replicas, and the commands that make it so.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gateway/event_loop.h"
#include "gateway/worker_session.h"

namespace caravan {

struct ModelState {
  enum class Phase : uint8_t { kLoaded, kLoading, kUnloading, kUnloaded };
  Phase phase = Phase::kLoaded;
  std::string reason;  // with kUnloaded: "unloaded", or why a replica can't load
};
const char* NameOf(v1::WorkerModelStatus::State state);  // "loaded", "loading", …

// Loop thread only. What is wanted of a model is the command with the highest number that this
// gateway gave or saw at a replica: so gateways agree, one that starts learns from the workers what
// is wanted, and a worker that starts anew is told. A replica that is not so is commanded to be.
class ModelCommands {
 public:
  using Done = std::function<void(const absl::Status&)>;
  static constexpr std::chrono::seconds kSettleLimit{5};

  struct Options {
    // Of a model that no command came for yet; empty: loaded.
    std::function<bool(const std::string& model)> load_at_start;
    // Requests of the model are in this gateway: an unload waits for them. Empty: none ever.
    std::function<bool(const std::string& model)> is_busy;
  };

  // The sessions are the pool's, and do not change; they may be filled in after this.
  ModelCommands(EventLoop* loop, const std::vector<std::unique_ptr<WorkerSession>>* sessions,
                Options options);
  ~ModelCommands();  // CancelAll

  // `done` is called when every connected replica of the model is so and has reported it (a loaded
  // one: that it is ready, or after kSettleLimit), or with the first error:
  // UNAVAILABLE where none is connected that could load it, ABORTED where a later command wants the
  // opposite. What runs at the replicas finishes before an unload is done.
  void Load(const std::string& model, Done done);
  void Unload(const std::string& model, Done done);

  ModelState StateOf(const std::string& model) const;
  // UNAVAILABLE with the reason where new requests can't be taken: unloaded, or about to be.
  absl::Status CheckLoaded(const std::string& model) const;
  // Of all replicas ever reached, once each.
  std::vector<std::string> names() const;

  // A replica was welcomed, changed or lost.
  void OnReplicaChanged();
  // is_busy(model) may have become false.
  void OnRequestEnded(const std::string& model);
  // Whoever waits is told `status`, and so is whoever comes.
  void CancelAll(const absl::Status& status);

 private:
  struct Wanted {
    bool loaded = true;
    uint64_t number = 1;  // the start's; workers count from 0
  };
  // Of a client; sent once is_busy is false.
  struct Command {
    std::string model;
    Wanted wanted;
    Done done;
    bool sent = false;
    int unanswered = 0;
    absl::Status result;
    EventLoop::TimerId settle_timer;  // set once all have answered
  };
  struct Call;  // one RPC

  void Give(const std::string& model, bool loaded, Done done);
  Wanted WantedOf(const std::string& model) const;
  void Learn();
  void SendDue();
  void CommandStragglers();
  void Send(WorkerSession* session, const Wanted& wanted, const std::shared_ptr<Command>& command);
  void OnAnswer(const std::shared_ptr<Call>& call, const absl::Status& status);
  void OnAllAnswered(const std::shared_ptr<Command>& command);
  void EndSettled();
  bool IsSettled(const Command& command) const;
  void EndCommand(const std::shared_ptr<Command>& command);
  bool IsBusy(const std::string& model) const;

  EventLoop* const loop_;
  const std::vector<std::unique_ptr<WorkerSession>>* const sessions_;
  const Options options_;
  std::map<std::string, Wanted> wanted_;  // by model
  uint64_t last_number_ = 1;              // highest given or seen
  std::vector<std::shared_ptr<Command>> commands_;
  std::vector<std::shared_ptr<Call>> calls_;
  absl::Status closed_;  // not OK once CancelAll was called
};

}  // namespace caravan
