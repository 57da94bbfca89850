// Measures the peak rates of the processor it runs on, for the lower bounds of cpu.py. It is a
// separate program: `c++ -std=c++20 -O3 -march=native -ffp-contract=fast -pthread calibrate.cpp`,
// then `calibrate THREADS BYTES...` with the sizes at which to measure bandwidth.
//
// It prints a line of JSON for each constant, in operations, bytes and seconds. The best of several
// runs counts, because a peak rate is a limit.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int WIDTH = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int WIDTH = 16, REGISTERS = 32;
#else
constexpr int WIDTH = 16, REGISTERS = 16;
#endif

constexpr int RUNS = 7;
constexpr int LANES = WIDTH / sizeof(float);
typedef float Vector __attribute__((vector_size(WIDTH)));

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Values that are unknown to the compiler, and neither overflow nor underflow.
volatile float almost_one = 0.999999f, little = 1e-6f;

// Returns the seconds of the fastest of RUNS runs of `body(thread)` by all threads at once, until
// the last is done. The calling thread is one of them, so that it takes no core from them.
double fastest(int threads, const std::function<void(int)>& body) {
  double best = 1e9;
  for (int run = 0; run <= RUNS; ++run) {
    std::atomic<int> ready{0};
    std::atomic<bool> go{false};
    std::vector<double> done(threads);
    std::vector<std::thread> team;
    const auto work = [&](int i) {
      body(i);
      done[i] = now();
    };
    for (int i = 1; i < threads; ++i) {
      team.emplace_back([&, i] {
        ++ready;
        while (!go.load(std::memory_order_acquire)) {}
        work(i);
      });
    }
    while (ready.load() < threads - 1) std::this_thread::yield();
    const double start = now();
    go.store(true, std::memory_order_release);
    work(0);
    for (auto& thread : team) thread.join();
    if (run > 0) best = std::min(best, *std::max_element(done.begin(), done.end()) - start);
  }
  return best;
}

// Executes multiply-adds only, with enough independent sums to hide their latency.
float multiply_add(long turns) {
  constexpr int SUMS = REGISTERS == 32 ? 24 : 12;
  const float scale = almost_one, step = little;
  Vector a = Vector{} + scale, b = Vector{} + step, sums[SUMS];
  for (int i = 0; i < SUMS; ++i) sums[i] = Vector{} + float(i);
  for (long turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 24
    for (int i = 0; i < SUMS; ++i) sums[i] = sums[i] * a + b;
  }
  float total = 0;
  for (int i = 0; i < SUMS; ++i) total += sums[i][0];
  return total;
}

double multiply_adds_a_second(int threads) {
  constexpr int SUMS = REGISTERS == 32 ? 24 : 12;
  constexpr long turns = 2'000'000;
  std::vector<float> sink(threads * 16);
  const double seconds = fastest(threads, [&](int i) { sink[i * 16] = multiply_add(turns); });
  return 2.0 * LANES * SUMS * turns * threads / seconds;
}

// Returns the seconds from one multiply-add to the next that needs its result. With
// `through_memory` the result is stored and loaded in between.
double latency(bool through_memory) {
  constexpr long turns = 4'000'000;
  volatile float place = 1;
  const double seconds = fastest(1, [&](int) {
    const float scale = almost_one, step = little;
    float value = place;
    for (long turn = 0; turn < turns; ++turn) {
      value = value * scale + step;
      if (through_memory) {
        place = value;
        value = place;
      }
    }
    place = value;
  });
  return seconds / turns;
}

// Returns the bytes per second of all threads together. Each thread reads `bytes` repeatedly, in
// STREAMS parallel streams.
template <int STREAMS>
double bandwidth(int threads, size_t bytes) {
  const size_t apart = bytes / WIDTH / 8 * 8 / STREAMS, count = apart * STREAMS;
  std::vector<Vector*> data(threads);
  for (auto& part : data) {
    part = static_cast<Vector*>(std::aligned_alloc(WIDTH, count * WIDTH));
    std::fill_n(part, count, Vector{} + 1.0f);
  }
  const long turns = std::max<long>(1, (32l << 20) / (count * WIDTH));
  std::vector<float> sink(threads * 16);
  const double seconds = fastest(threads, [&](int thread) {
    Vector sums[8] = {};
    for (long turn = 0; turn < turns; ++turn) {
      const Vector* part = data[thread];
      for (size_t i = 0; i < apart; i += 8 / STREAMS) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) sums[j] += part[j % STREAMS * apart + i + j / STREAMS];
      }
      asm volatile("" ::: "memory");  // forces the next turn to read again
    }
    for (int j = 0; j < 8; ++j) sink[thread * 16] += sums[j][0];
  });
  for (auto* part : data) std::free(part);
  return double(threads) * turns * count * WIDTH / seconds;
}

// One stream is fastest in the L1 cache. The prefetchers of the other levels follow several.
double bandwidth(int threads, size_t bytes) {
  return std::max(bandwidth<1>(threads, bytes), bandwidth<4>(threads, bytes));
}

// Returns the seconds from a write of one thread until another thread sees it, or 1e9 if the two do
// not run at once for lack of a core.
double hand_off() {
  constexpr int turns = 20'000;
  constexpr double patience = 0.05;
  double best = 1e9;
  alignas(64) std::atomic<int> turn{0};
  std::atomic<bool> late{false};
  fastest(2, [&](int me) {
    const double start = now();
    long spins = 0;
    for (int i = 0; i < turns; ++i) {
      while (turn.load(std::memory_order_acquire) % 2 != me) {
        if (++spins % 4096 == 0 && (late.load() || now() - start > patience)) {
          late.store(true);
          return;
        }
      }
      turn.fetch_add(1, std::memory_order_release);
    }
    if (me == 0) best = std::min(best, (now() - start) / (2 * turns));
  });
  return best;
}

void report(const char* name, double value) {
  std::printf("{\"name\": \"%s\", \"value\": %.6g}\n", name, value);
  std::fflush(stdout);
}

void report_bandwidth(const char* name, int threads, const std::vector<size_t>& sizes) {
  std::string values;
  for (const size_t bytes : sizes) {
    char value[64];
    std::snprintf(value, sizeof value, "%s\"%zu\": %.6g", values.empty() ? "" : ", ", bytes,
                  bandwidth(threads, bytes));
    values += value;
  }
  std::printf("{\"name\": \"%s\", \"value\": {%s}}\n", name, values.c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: calibrate THREADS BYTES...\n");
    return 2;
  }
  const int threads = std::max(1, std::atoi(words[1]));
  std::vector<size_t> sizes;
  for (int i = 2; i < count; ++i) sizes.push_back(std::strtoull(words[i], nullptr, 10));
  report("register_bytes", REGISTERS * WIDTH);
  report("multiply_add_rate", multiply_adds_a_second(1));
  report("multiply_add_rate_all", multiply_adds_a_second(threads));
  report("multiply_add_latency", latency(false));
  report("store_load_latency", latency(true) - latency(false));
  report_bandwidth("bandwidth", 1, sizes);
  report_bandwidth("bandwidth_all", threads, sizes);
  if (threads > 1) {
    const double seconds = hand_off();
    if (seconds < 1) report("hand_off", seconds);
  }
}
