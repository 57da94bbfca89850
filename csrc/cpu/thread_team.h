// Threads that share one recurrence and meet after every step.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

namespace fastrnn::cpu {

// The host may run tasks on fewer threads than there are tasks, one after the other even: a task that
// waits for one that has not begun would wait for ever. So a team is of those that come in time, and
// who comes later has nothing to do. Who is in it is on a thread of its own, and can be waited for;
// whoever waits for long lets others have the processor.
class Team {
 public:
  explicit Team(int64_t wanted) : wanted_(wanted), steps_(new Step[wanted]) {}

  // One's number among `size()`, or -1 for who came too late.
  int64_t join() {
    int64_t members = members_.load(std::memory_order_acquire);
    do {
      if (members & closed) return -1;
    } while (!members_.compare_exchange_weak(
        members, members + 1 == wanted_ ? (members + 1) | closed : members + 1,
        std::memory_order_acq_rel, std::memory_order_acquire));
    const auto deadline = Clock::now() + patience;
    for (int64_t i = 0; !(members_.load(std::memory_order_acquire) & closed); ++i) {
      i < spins ? pause() : std::this_thread::yield();
      if (Clock::now() > deadline) members_.fetch_or(closed, std::memory_order_acq_rel);
    }
    return members;
  }

  // Known once one has joined.
  int64_t size() const { return members_.load(std::memory_order_acquire) & ~closed; }

  // Returns when all have called it as often as member `me` has.
  void meet(int64_t me) {
    const int64_t step = steps_[me].done.load(std::memory_order_relaxed) + 1;
    steps_[me].done.store(step, std::memory_order_release);
    for (int64_t other = 0, n = size(); other < n; ++other)
      wait([&] { return steps_[other].done.load(std::memory_order_acquire) >= step; });
  }

  // Whether a member was waited for so long that it cannot have had a processor.
  bool crowded() const { return crowded_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  struct alignas(64) Step {
    std::atomic<int64_t> done{0};
  };

  static constexpr int64_t closed = int64_t{1} << 62;
  static constexpr std::chrono::microseconds patience{500}, crowding{1000};

  // Of 40 to 140 cycles each: together about what it costs to give one's processor away. Where
  // nobody else wants it, that returns at once.
  static constexpr int64_t spins = 128;

  template <class Condition>
  void wait(Condition met) {
    for (int64_t i = 0; i < spins; ++i) {
      if (met()) return;
      pause();
    }
    const auto since = Clock::now();
    while (!met()) std::this_thread::yield();
    if (Clock::now() - since > crowding) crowded_.store(true, std::memory_order_relaxed);
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  const int64_t wanted_;
  std::atomic<int64_t> members_{0};
  std::atomic<bool> crowded_{false};
  const std::unique_ptr<Step[]> steps_;
};

}  // namespace fastrnn::cpu
