// A library for LD_PRELOAD, for tests/ops/backends/cpu/test_many_cpus.py. The process seems to be
// allowed on 8 CPUs, and its monotonic clock runs so slowly that no wait for a CPU seems long.
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

extern "C" {

int sched_getaffinity(pid_t, size_t bytes, cpu_set_t* set) noexcept {
  std::memset(set, 0, bytes);
  for (int cpu = 0; cpu < 8; ++cpu) CPU_SET_S(cpu, bytes, set);
  return 0;
}

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  constexpr long slower = 1000, second = 1'000'000'000;
  const long status = syscall(SYS_clock_gettime, clock, time);
  if (status == 0 && clock == CLOCK_MONOTONIC) {
    const long ns = (time->tv_sec * second + time->tv_nsec) / slower;
    *time = {ns / second, ns % second};
  }
  return static_cast<int>(status);
}

}  // extern "C"
