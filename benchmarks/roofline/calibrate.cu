// Measures the constants of the cost model in csrc/cuda/plan.cpp on the GPU it runs on. It is a
// separate program: `nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a -Icsrc
// benchmarks/roofline/calibrate.cu`.
//
// It prints a line of JSON for each constant as soon as it is measured, under its name in plan.cpp,
// in cycles or in bytes per cycle and multiprocessor. The clock of a multiprocessor is read before
// and after hundreds of turns. The first run is discarded, and the median of the others counts.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "calibrate.h"
#include "cuda/runtime.h"

namespace {

using namespace fastrnn::cuda;

constexpr int RUNS = 11, TURNS = 500;

// Bytes of shared memory that leave no room for a second block on a multiprocessor.
constexpr size_t ALONE = 120 << 10;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The device, and memory for the input and output of kernels. It is freed when the process ends.
struct Bench {
  cudaDeviceProp device{};
  Stream stream{};
  int64_t* cycles{};
  unsigned char* memory{};
  static constexpr size_t bytes = 64 << 20;

  Bench() {
    check(cudaGetDeviceProperties(&device, 0));
    check(cudaStreamCreate(&stream));
    check(cudaMalloc(&cycles, device.multiProcessorCount * sizeof(int64_t)));
    check(cudaMalloc(&memory, bytes));
    check(cudaMemset(memory, 0, bytes));
  }

  // Memory for unused results. Storing them keeps the compiler from removing their computation.
  template <class Value> Value* sink() const {
    return reinterpret_cast<Value*>(memory + bytes / 2);
  }

  // Returns the median over several runs of the median of the first `count` values of `cycles`.
  template <class Run> double median_of(Run run, int count = 1) const {
    std::vector<double> found;
    for (int i = 0; i <= RUNS; ++i) {
      run();
      std::vector<int64_t> said(count);
      check(cudaMemcpyAsync(said.data(), cycles, count * sizeof(int64_t), cudaMemcpyDeviceToHost,
                            stream));
      check(cudaStreamSynchronize(stream));
      if (i > 0) found.push_back(median({said.begin(), said.end()}));
    }
    return median(found);
  }
};

using Values = std::vector<std::pair<std::string, double>>;

std::string object(const Values& values) {
  std::string text = "{";
  for (const auto& [name, value] : values) {
    text += (text.size() > 1 ? ", \"" : "\"") + name + "\": " + std::to_string(value);
  }
  return text + "}";
}

// Prints one line: the value, or the error. A failed measurement does not stop the others.
template <class Measure> void report(const char* name, Measure measure) {
  try {
    std::printf("{\"name\": \"%s\", \"value\": %s}\n", name, std::string(measure()).c_str());
  } catch (const std::runtime_error& error) {
    std::printf("{\"name\": \"%s\", \"error\": \"%s\"}\n", name, error.what());
  }
  std::fflush(stdout);
}

double clock_rate(const Bench& bench) {
  constexpr int64_t cycles = 4'000'000;
  const double nanoseconds =
      bench.median_of([&] { launch(spin, {dim3(1), 1}, bench.stream, bench.cycles, cycles); });
  return 1e9 * cycles / nanoseconds;
}

template <class E, int CHAINS> double product_time(const Bench& bench, int warps) {
  return bench.median_of([&] {
    launch(products<E, CHAINS>, {dim3(1), warps * WARP}, bench.stream, bench.cycles, TURNS,
           static_cast<const unsigned char*>(bench.memory), bench.sink<float>());
  }) / (double(TURNS) * FRAGMENTS * warps);
}

double all_to_all(const Bench& bench, int blocks) {
  const auto time = [&](int bytes) {
    return bench.median_of([&] {
      launch(cluster_bandwidth, {dim3(blocks), 256, blocks, ALONE}, bench.stream, bench.cycles,
             TURNS, blocks, bytes);
    });
  };
  // The difference removes the latency, which does not depend on the bytes.
  constexpr int less = 2048, more = 8192;
  return double(TURNS) * blocks * (more - less) / (time(more) - time(less));
}

double hand_off(const Bench& bench, int partner) {
  const size_t bytes = 2 * TURNS * WARP * sizeof(uint4);
  return bench.median_of([&] {
    fill(bench.memory, 0xFF, bytes, bench.stream);
    const Launch shape{dim3(bench.device.multiProcessorCount), WARP, 1, ALONE, true};
    launch(grid_exchange, shape, bench.stream, bench.cycles, bench.memory, TURNS, partner);
  }) / (2 * TURNS);
}

double from_l2(const Bench& bench, int64_t stride) {
  constexpr int bytes = 64 << 10, turns = 50;
  const int blocks = bench.device.multiProcessorCount;
  const double cycles = bench.median_of(
      [&] {
        launch(read_l2, {dim3(blocks), 512, 1, ALONE}, bench.stream, bench.cycles,
               static_cast<const unsigned char*>(bench.memory), stride, bytes, turns,
               bench.sink<uint32_t>());
      },
      blocks);
  return double(bytes) * turns / cycles;
}

// Returns the seconds from one launch to the next, in a graph of many empty kernels.
double launch_to_launch(const Bench& bench) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t start, end;
  check(cudaStreamBeginCapture(bench.stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < TURNS; ++i) {
    launch(nothing, {dim3(bench.device.multiProcessorCount), 256}, bench.stream);
  }
  check(cudaStreamEndCapture(bench.stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  std::vector<double> found;
  for (int i = 0; i <= RUNS; ++i) {
    check(cudaEventRecord(start, bench.stream));
    check(cudaGraphLaunch(executable, bench.stream));
    check(cudaEventRecord(end, bench.stream));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, end));
    if (i > 0) found.push_back(1e-3 * milliseconds / TURNS);
  }
  return median(found);
}

void measure_all() {
  const Bench bench;
  const auto number = [](double value) { return std::to_string(value); };
  const double clock = clock_rate(bench);
  report("clock", [&] { return number(clock); });  // cycles per second
  report("launch_cycles", [&] { return number(launch_to_launch(bench) * clock); });
  report("product_cycles", [&] {
    return object({{"half", product_time<Bfloat16, 4>(bench, 16)},
                   {"tf32", product_time<Tf32, 4>(bench, 16)}});
  });
  report("product_latency", [&] {
    return object(
        {{"half", product_time<Bfloat16, 1>(bench, 1)}, {"tf32", product_time<Tf32, 1>(bench, 1)}});
  });
  report("reduction", [&] {
    return number(bench.median_of([&] {
      launch(reduction, {dim3(1), 8 * WARP, 1, ALONE}, bench.stream, bench.cycles, TURNS,
             bench.sink<float>());
    }) / TURNS);
  });
  report("stream_bandwidth", [&] { return number(from_l2(bench, 64 << 10)); });
  report("grid_bandwidth", [&] { return number(from_l2(bench, 0)); });
  report("grid_exchange", [&] {
    // Between the first multiprocessor and others, whose distances to the partitions of L2 differ.
    Values pairs;
    std::vector<double> cycles;
    for (int i = 1; i <= 8; ++i) {
      const int partner = i * (bench.device.multiProcessorCount - 1) / 8;
      cycles.push_back(hand_off(bench, partner));
      pairs.emplace_back("to " + std::to_string(partner), cycles.back());
    }
    pairs.emplace(pairs.begin(), "median", median(cycles));
    return object(pairs);
  });
  if (bench.device.major < 9) return;  // the plan uses the remaining constants from 9.0 on
  report("block_exchange", [&] {
    return number(bench.median_of([&] {
      launch(block_exchange, {dim3(1), 2 * WARP, 1, ALONE}, bench.stream, bench.cycles, TURNS);
    }) / TURNS);
  });
  report("cluster_exchange", [&] {
    return number(bench.median_of([&] {
      launch(cluster_exchange, {dim3(2), WARP, 2, ALONE}, bench.stream, bench.cycles, TURNS);
    }) / (2 * TURNS));
  });
  report("cluster_bandwidth",
         [&] { return object({{"8", all_to_all(bench, 8)}, {"16", all_to_all(bench, 16)}}); });
}

}  // namespace

int main() {
  try {
    measure_all();
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
