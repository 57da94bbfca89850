// Prints how calls are cut, as tests/ops/test_plan.py wants to know it.
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/kernels.h"
#include "cpu/processors.h"

using namespace fastrnn;

void print(int64_t T, int64_t B, int64_t H, int64_t threads) {
  const Problem problem{{T, B, 1, H, 1, nullptr, nullptr, Activation::tanh, DType::float32},
                        nullptr};
  const cpu::Plan plan = cpu::make_plan(problem, threads, H / 8);
  std::printf("%d %ld %ld\n", plan.parallel, plan.tiles, plan.team);
}

// processors FILE MOUNT: what control groups allow.
// plan COUNT: how two threads share work on so many processors of those there are, and then where
// a team has found them crowded.
int main(int, char** arguments) {
  if (std::strcmp(arguments[1], "processors") == 0) {
    std::printf("%ld\n", cpu::control_group_processors(arguments[2], arguments[3]));
    return 0;
  }
  cpu_set_t had, kept;
  CPU_ZERO(&kept);
  if (sched_getaffinity(0, sizeof had, &had) != 0) return 1;
  for (int i = 0, left = std::atoi(arguments[2]); i < CPU_SETSIZE && left > 0; ++i)
    if (CPU_ISSET(i, &had)) CPU_SET(i, &kept), --left;
  if (sched_setaffinity(0, sizeof kept, &kept) != 0) return 1;
  for (int crowded = 0; crowded < 2; ++crowded) {
    print(1000, 1, 256, 2);
    print(200, 2, 512, 2);
    print(100, 32, 128, 2);
    const cpu::LinearPlan plan = cpu::make_plan(cpu::Linear{3200, 512, 512, DType::float32}, 2, 64);
    std::printf("%d\n", plan.parallel);
    cpu::note_crowding();
  }
}
