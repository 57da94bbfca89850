// A team of threads that run one recurrence together and synchronize after every step.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

namespace fastrnn::cpu {

// The host may run tasks on fewer threads than there are tasks, or even serially. A task that
// waited for one that has not started would wait forever. So a team consists of the tasks that join
// in time, and tasks that join later do nothing. Each member runs on its own thread, so waiting for
// it is safe. A member that waits long yields its CPU.
class ThreadTeam {
 public:
  explicit ThreadTeam(int64_t max_size) : max_size_(max_size), progress_(new Progress[max_size]) {}

  // Returns the caller's rank among `size()` members, or -1 if it is too late to join.
  int64_t join() {
    int64_t members = members_.load(std::memory_order_acquire);
    do {
      if (members & closed) return -1;
    } while (!members_.compare_exchange_weak(
        members, members + 1 == max_size_ ? (members + 1) | closed : members + 1,
        std::memory_order_acq_rel, std::memory_order_acquire));
    const auto deadline = Clock::now() + join_timeout;
    for (int64_t i = 0; !(members_.load(std::memory_order_acquire) & closed); ++i) {
      i < spin_limit ? pause() : std::this_thread::yield();
      if (Clock::now() > deadline) members_.fetch_or(closed, std::memory_order_acq_rel);
    }
    return members;
  }

  // Valid after join() has returned.
  int64_t size() const { return members_.load(std::memory_order_acquire) & ~closed; }

  // Waits until all members have called it as often as member `rank`.
  void barrier(int64_t rank) {
    const int64_t step = progress_[rank].barriers.load(std::memory_order_relaxed) + 1;
    progress_[rank].barriers.store(step, std::memory_order_release);
    for (int64_t other = 0, n = size(); other < n; ++other)
      wait([&] { return progress_[other].barriers.load(std::memory_order_acquire) >= step; });
  }

  // Whether a wait for a member took so long that the member cannot have had a CPU.
  bool oversubscribed() const { return oversubscribed_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  struct alignas(64) Progress {
    std::atomic<int64_t> barriers{0};
  };

  static constexpr int64_t closed = int64_t{1} << 62;
  static constexpr std::chrono::microseconds join_timeout{500}, oversubscription_threshold{1000};

  // A spin takes 40 to 140 cycles. The limit takes about as long as a yield to another thread; a
  // yield returns at once if no thread is waiting.
  static constexpr int64_t spin_limit = 128;

  template <class Condition>
  void wait(Condition condition) {
    for (int64_t i = 0; i < spin_limit; ++i) {
      if (condition()) return;
      pause();
    }
    const auto since = Clock::now();
    while (!condition()) std::this_thread::yield();
    if (Clock::now() - since > oversubscription_threshold)
      oversubscribed_.store(true, std::memory_order_relaxed);
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const int64_t max_size_;
  std::atomic<int64_t> members_{0};
  std::atomic<bool> oversubscribed_{false};
  const std::unique_ptr<Progress[]> progress_;
};

}  // namespace fastrnn::cpu
