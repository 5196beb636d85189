// The gateway's one thread of state. gRPC callbacks, timers and main post tasks to it; the state of
// requests, replicas, tokenizers and streams is touched by tasks only, so none of it needs a lock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"

namespace caravan {

class EventLoop {
 public:
  using Task = absl::AnyInvocable<void()>;
  using Clock = std::chrono::steady_clock;
  using TimerId = std::pair<Clock::time_point, uint64_t>;

  EventLoop();  // starts the thread
  ~EventLoop();

  // Any thread; never blocks for longer than a swap of two vectors. Tasks run in the order posted.
  // After Stop the task is dropped.
  void Post(Task task);

  // Any thread but the loop's: runs `task` there and returns when it has run.
  void Run(Task task);

  // Loop thread only. A timer fires once; cancelling one that fired (or a TimerId{}) does nothing.
  TimerId RunAt(Clock::time_point when, Task task);
  TimerId RunAfter(std::chrono::milliseconds delay, Task task) {
    return RunAt(Clock::now() + delay, std::move(task));
  }
  void CancelTimer(TimerId* timer);

  bool IsCurrent() const { return std::this_thread::get_id() == thread_.get_id(); }

  // Runs until nobody holds a KeepAlive and no task is left, then ends the thread. Pending timers
  // are dropped. Any thread but the loop's; a second call returns at once.
  void Stop();

  // Held by objects that gRPC still calls back: the loop outlives them.
  class KeepAlive {
   public:
    explicit KeepAlive(EventLoop* loop);
    ~KeepAlive();
    KeepAlive(const KeepAlive&) = delete;
    KeepAlive& operator=(const KeepAlive&) = delete;

   private:
    EventLoop* const loop_;
  };

 private:
  void Main();
  void RunDueTimers();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Task> posted_;        // guarded by mutex_
  int keep_alives_ = 0;             // guarded by mutex_
  bool stopping_ = false;           // guarded by mutex_
  bool stopped_ = false;            // guarded by mutex_
  bool sleeping_ = false;           // guarded by mutex_
  std::map<TimerId, Task> timers_;  // loop thread only
  uint64_t next_timer_ = 1;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace caravan
