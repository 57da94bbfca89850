// Prints plans of the CPU kernels, for tests/ops/backends/cpu/test_plan.py.
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/cpu_count.h"
#include "cpu/plan.h"

using namespace fastrnn;

cpu::Plan make_plan(int64_t T, int64_t B, int64_t H, int64_t threads, int64_t gates = 1) {
  const ParamsWithResets params{{T, B, 1, H, 1, nullptr, nullptr, Activation::tanh, DType::float32},
                                nullptr};
  return cpu::make_plan(params, threads, H / 8, gates);
}

void print(int64_t T, int64_t B, int64_t H, int64_t threads) {
  const cpu::Plan plan = make_plan(T, B, H, threads);
  std::printf("%d %ld %ld\n", plan.parallel, plan.tiles, plan.team_size);
}

// gates: the plans of two threads for one gate and for four. cgroup FILE MOUNT: the CPU limit of
// control groups. plan COUNT THREADS: the plans of so many threads on COUNT of the available CPUs,
// and the share of a thread in 100 tasks, before and after a team found the CPUs oversubscribed.
int main(int, char** arguments) {
  if (std::strcmp(arguments[1], "cgroup") == 0) {
    std::printf("%ld\n", cpu::cgroup_cpu_limit(arguments[2], arguments[3]));
    return 0;
  }
  if (std::strcmp(arguments[1], "gates") == 0) {
    for (const int64_t gates : {1, 4}) {
      const cpu::Plan plan = make_plan(2, 1, 256, 2, gates);
      std::printf("%d %d %ld\n", plan.parallel, plan.parallel_packing, plan.team_size);
    }
    return 0;
  }
  cpu_set_t had, kept;
  CPU_ZERO(&kept);
  if (sched_getaffinity(0, sizeof had, &had) != 0) return 1;
  for (int i = 0, left = std::atoi(arguments[2]); i < CPU_SETSIZE && left > 0; ++i)
    if (CPU_ISSET(i, &had)) CPU_SET(i, &kept), --left;
  if (sched_setaffinity(0, sizeof kept, &kept) != 0) return 1;
  const int64_t threads = std::atoi(arguments[3]);
  for (int oversubscribed = 0; oversubscribed < 2; ++oversubscribed) {
    print(1000, 1, 256, threads);
    print(200, 2, 512, threads);
    print(100, 32, 128, threads);
    const cpu::LinearPlan plan =
        cpu::make_plan(cpu::LinearParams{3200, 512, 512, DType::float32}, threads, 64);
    std::printf("%d\n", plan.parallel);
    std::printf("%ld\n", cpu::tasks_per_thread(100, threads));
    cpu::note_oversubscription();
  }
}
