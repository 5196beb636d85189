#include "gateway/event_loop.h"

#include "common/status.h"

namespace caravan {

EventLoop::EventLoop() : thread_([this] { Main(); }) {}

EventLoop::~EventLoop() { Stop(); }

void EventLoop::Post(Task task) {
  bool wake = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopped_) return;
    posted_.push_back(std::move(task));
    wake = std::exchange(sleeping_, false);
  }
  if (wake) wake_.notify_one();
}

void EventLoop::Run(Task task) {
  CARAVAN_CHECK(!IsCurrent(), "the loop can't wait for itself");
  std::mutex mutex;
  std::condition_variable done_changed;
  bool done = false;
  Post([&] {
    task();
    const std::lock_guard<std::mutex> lock(mutex);
    done = true;
    done_changed.notify_one();
  });
  std::unique_lock<std::mutex> lock(mutex);
  done_changed.wait(lock, [&] { return done; });
}

EventLoop::TimerId EventLoop::RunAt(Clock::time_point when, Task task) {
  const TimerId id{when, next_timer_++};
  timers_.emplace(id, std::move(task));
  return id;
}

void EventLoop::CancelTimer(TimerId* timer) {
  timers_.erase(*timer);
  *timer = TimerId{};
}

void EventLoop::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    sleeping_ = false;
    posted_.emplace_back([] {});  // a turn of the loop, to drop the timers
  }
  wake_.notify_one();
  thread_.join();
}

void EventLoop::RunDueTimers() {
  while (!timers_.empty() && timers_.begin()->first.first <= Clock::now()) {
    auto due = timers_.extract(timers_.begin());
    due.mapped()();
  }
}

void EventLoop::Main() {
  std::vector<Task> running;
  bool stopping = false;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const auto awake = [this] { return !posted_.empty() || (stopping_ && keep_alives_ == 0); };
      if (!awake()) {
        sleeping_ = true;
        if (timers_.empty() || stopping_) {
          wake_.wait(lock, awake);
        } else {
          wake_.wait_until(lock, timers_.begin()->first.first, awake);
        }
        sleeping_ = false;
      }
      if (posted_.empty() && stopping_ && keep_alives_ == 0) {
        stopped_ = true;
        break;
      }
      running.swap(posted_);
      stopping = stopping_;
    }
    for (Task& task : running) task();
    running.clear();
    if (stopping) {
      timers_.clear();
    } else {
      RunDueTimers();
    }
  }
}

EventLoop::KeepAlive::KeepAlive(EventLoop* loop) : loop_(loop) {
  const std::lock_guard<std::mutex> lock(loop_->mutex_);
  ++loop_->keep_alives_;
}

EventLoop::KeepAlive::~KeepAlive() {
  const std::lock_guard<std::mutex> lock(loop_->mutex_);
  if (--loop_->keep_alives_ == 0) loop_->wake_.notify_one();
}

}  // namespace caravan
