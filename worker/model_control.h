// The order in which a replica's model is loaded and unloaded.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "caravan/v1/worker.pb.h"

namespace caravan {

// A thread of its own carries out commands in the order in which they came. Which command rules
// does not depend on that order but on their numbers, so that several gateways, and what one
// remembers of a worker's earlier life, agree in the end.
class ModelControl {
 public:
  using Done = std::function<void(const absl::Status&)>;

  // Called on the control's thread. `load`: the model is not there, and is not after an error.
  // `unload`: it is there; afterwards it is not, whatever the status says.
  struct Actions {
    std::function<absl::Status()> load;
    std::function<absl::Status()> unload;
  };

  explicit ModelControl(Actions actions) : actions_(std::move(actions)) {}
  ~ModelControl();  // Close, Join

  // Starts the thread, which loads at once where `load` is true. `done` is called with the result
  // of that.
  void Start(bool load, Done done);

  // Any thread. `number` is the command's, 0 for one above all that came. `done` is called once,
  // maybe before this returns: OK when the replica is as wanted, ABORTED where a later command
  // wanted the opposite, UNAVAILABLE after Close, or what the action said.
  void Submit(bool load, uint64_t number, Done done);

  // Any thread.
  v1::WorkerModelStatus status() const;
  // A load that is under way is not wanted any more: an unload waits, or the process ends.
  bool superseded() const;

  // No command is begun any more. Returns whether the model is just being loaded: then Join would
  // wait for that.
  bool Close();
  void Join();

 private:
  struct Command {
    bool load = false;
    std::vector<Done> done;
  };

  absl::Status Accept(bool load, uint64_t number, Done* done);  // REQUIRES: mutex_
  void Run();
  absl::Status Execute(bool load);
  void SetState(v1::WorkerModelStatus::State state, const std::string& reason);
  void SetStateLocked(v1::WorkerModelStatus::State state, const std::string& reason);

  const Actions actions_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  v1::WorkerModelStatus status_;
  std::deque<Command> commands_;  // the first one runs where running_
  bool running_ = false;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace caravan
