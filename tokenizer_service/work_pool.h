// A few threads for requests that take long, so that gRPC's own threads stay free for the short.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace caravan {

class WorkPool {
 public:
  WorkPool(int num_threads, size_t max_waiting);
  ~WorkPool();  // runs what was taken, then returns

  // False, without effect, where `max_waiting` are waiting already. Any thread.
  [[nodiscard]] bool TryPost(std::function<void()> work);

 private:
  void Run();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;  // under mutex_, as stopping_
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace caravan
