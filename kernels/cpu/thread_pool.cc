#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <cstdint>
#include <thread>

namespace caravan::cpu {
namespace {

// About 20 µs: operators of one layer follow each other faster than that.
constexpr int kSpins = 1000;

inline void Pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

class ThreadPool {
 public:
  void Run(int parts, int threads, void (*body)(void*, int), void* context) {
    if (busy_.test_and_set(std::memory_order_acquire)) {
      for (int part = 0; part < parts; ++part) body(context, part);
      return;
    }
    Grow(threads - 1);
    body_ = body;
    context_ = context;
    unfinished_.store(parts, std::memory_order_relaxed);
    helpers_.store(threads - 1, std::memory_order_relaxed);
    left_.store(parts, std::memory_order_release);
    wake_.fetch_add(1, std::memory_order_release);
    wake_.notify_all();
    while (TakePart()) {
    }
    AwaitOthers();
    busy_.clear(std::memory_order_release);
  }

 private:
  void Grow(int threads) {
    for (; threads_ < threads; ++threads_) {
      std::thread([this, index = threads_] { Work(index); }).detach();
    }
  }

  // A part belongs to whoever counts `left_` down, and the release of the new count published its
  // job: no count is above zero before all parts of the earlier job are done.
  bool TakePart() {
    int left = left_.load(std::memory_order_relaxed);
    do {
      if (left == 0) return false;
    } while (!left_.compare_exchange_weak(left, left - 1, std::memory_order_acquire,
                                          std::memory_order_relaxed));
    body_(context_, left - 1);
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
    return true;
  }

  void AwaitOthers() {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (unfinished_.load(std::memory_order_acquire) == 0) return;
      Pause();
    }
    for (int left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) {
      unfinished_.wait(left, std::memory_order_acquire);
    }
  }

  [[noreturn]] void Work(int index) {
    uint32_t seen = wake_.load(std::memory_order_acquire);
    int spin = 0;
    while (true) {
      // A smaller job leaves the threads beyond its number alone.
      if (index < helpers_.load(std::memory_order_relaxed) && TakePart()) {
        spin = 0;
        continue;
      }
      if (++spin < kSpins) {
        Pause();
        continue;
      }
      // A job that came after `seen` was read ends the wait at once.
      wake_.wait(seen, std::memory_order_acquire);
      seen = wake_.load(std::memory_order_acquire);
      spin = 0;
    }
  }

  // On lines of their own: everybody watches them.
  alignas(64) std::atomic<int> left_ = 0;        // parts that nobody has taken
  alignas(64) std::atomic<int> unfinished_ = 0;  // parts that are not done
  alignas(64) std::atomic<uint32_t> wake_ = 0;   // counts jobs

  std::atomic<int> helpers_ = 0;  // threads that may take parts, besides the caller
  int threads_ = 0;
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::atomic_flag busy_;  // set by the one caller that has the threads
};

}  // namespace

void RunParts(int parts, int threads, void (*body)(void* context, int part), void* context) {
  // Never destroyed: its threads last as long as the process.
  static ThreadPool* pool = new ThreadPool;
  pool->Run(parts, threads, body, context);
}

}  // namespace caravan::cpu
