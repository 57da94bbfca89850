// Checks thread teams, for tests/ops/backends/cpu/test_thread_team.py; prints failures.
#include "cpu/thread_team.h"

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using fastrnn::cpu::ThreadTeam;

// Serial tasks: the first is a team of one, the others join too late.
int check_serial_tasks() {
  ThreadTeam team(3);
  if (team.join() != 0 || team.size() != 1) return std::puts("the first is not a team of one");
  for (int i = 0; i < 100; ++i) team.barrier(0);
  if (team.join() != -1 || team.join() != -1) return std::puts("a task that came too late joined");
  return 0;
}

// No member begins a step before all have ended the previous one.
int check_barrier(int threads, int steps) {
  ThreadTeam team(threads);
  std::vector<std::atomic<int>> at(threads);
  std::atomic<int> wrong{0}, members{0};
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i)
    running.emplace_back([&] {
      const auto rank = team.join();
      if (rank < 0) return;
      ++members;
      for (int step = 1; step <= steps; ++step) {
        at[rank] = step;
        team.barrier(rank);
        for (int other = 0; other < team.size(); ++other)
          if (at[other] < step || at[other] > step + 1) ++wrong;
      }
    });
  for (auto& thread : running) thread.join();
  if (members != team.size() || members < 1) return std::puts("members were lost");
  return wrong == 0 ? 0 : std::puts("a member passed the barrier early");
}

// A member that sleeps, as one without a CPU would, is detected.
int check_oversubscription() {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    ThreadTeam team(2);
    const auto run = [&](std::chrono::milliseconds delay) {
      const auto rank = team.join();
      if (rank < 0) return;
      std::this_thread::sleep_for(delay);
      team.barrier(rank);
    };
    std::thread other(run, std::chrono::milliseconds(50));
    run(std::chrono::milliseconds(0));
    other.join();
    if (team.size() == 2)
      return team.oversubscribed() ? 0 : std::puts("the sleeping member was not detected");
    if (team.oversubscribed()) return std::puts("a team of one reports oversubscription");
  }
  return std::puts("no team formed");
}

int main(int, char** arguments) {
  return check_oversubscription() || check_serial_tasks() ||
         check_barrier(std::atoi(arguments[1]), std::atoi(arguments[2]));
}
