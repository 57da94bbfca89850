// Teams as tests/ops/test_team.py wants to see them; prints what went wrong, if anything did.
#include "cpu/thread_team.h"

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using fastrnn::cpu::Team;

// Tasks one after the other: the first is a team of one, and the others have nothing to do.
int one_after_the_other() {
  Team team(3);
  if (team.join() != 0 || team.size() != 1) return std::puts("the first is not a team of one");
  for (int i = 0; i < 100; ++i) team.meet(0);
  if (team.join() != -1 || team.join() != -1) return std::puts("a late one was let in");
  return 0;
}

// Nobody begins a step before all have ended the one before.
int side_by_side(int threads, int steps) {
  Team team(threads);
  std::vector<std::atomic<int>> at(threads);
  std::atomic<int> wrong{0}, members{0};
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i)
    running.emplace_back([&] {
      const auto me = team.join();
      if (me < 0) return;
      ++members;
      for (int step = 1; step <= steps; ++step) {
        at[me] = step;
        team.meet(me);
        for (int other = 0; other < team.size(); ++other)
          if (at[other] < step || at[other] > step + 1) ++wrong;
      }
    });
  for (auto& thread : running) thread.join();
  if (members != team.size() || members < 1) return std::puts("members were lost");
  return wrong == 0 ? 0 : std::puts("a member was ahead");
}

// A member that is away for long, as one without a processor, is noticed.
int crowded() {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    Team team(2);
    const auto run = [&](std::chrono::milliseconds away) {
      const auto me = team.join();
      if (me < 0) return;
      std::this_thread::sleep_for(away);
      team.meet(me);
    };
    std::thread other(run, std::chrono::milliseconds(50));
    run(std::chrono::milliseconds(0));
    other.join();
    if (team.size() == 2) return team.crowded() ? 0 : std::puts("nobody missed the member");
    if (team.crowded()) return std::puts("a team of one missed somebody");
  }
  return std::puts("no team formed");
}

int main(int, char** arguments) {
  return crowded() || one_after_the_other() || side_by_side(std::atoi(arguments[1]), std::atoi(arguments[2]));
}
