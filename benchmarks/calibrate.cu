// Measures, on the GPU it runs on, the constants of the model in csrc/cuda/plan.cpp. A program of
// its own: `nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a benchmarks/calibrate.cu`.
//
// It prints a line of JSON for each as soon as it is known, under the name it has there: cycles, or
// bytes a cycle and multiprocessor. Times are read from a multiprocessor's own clock, around
// hundreds of turns, of which the first run is thrown away; the median of several runs counts.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "../csrc/cuda/ptx.h"
#include "../csrc/cuda/runtime.h"

namespace {

using namespace fastrnn::cuda;

constexpr int RUNS = 11, TURNS = 500, WARP = 32;
constexpr uint32_t SENTINEL = 0xFFFFFFFF;

// A block asks for so much shared memory that it has its multiprocessor to itself.
constexpr size_t ALONE = 120 << 10;

#define KERNEL(threads) __global__ void __launch_bounds__(threads, 1)

__device__ int64_t now() { return clock64(); }

// Two warps of a block hand a state to each other, by a store and an mbarrier.
KERNEL(2 * WARP) block_exchange(int64_t* cycles, int turns) {
#if __CUDA_ARCH__ >= 900
  DYNAMIC_SHARED(memory);
  const uint32_t barriers = ptx::shared_address(memory);
  auto* state = reinterpret_cast<volatile uint32_t*>(memory + 128);
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const uint32_t mine = barriers + 8 * warp, other = barriers + 8 * (1 - warp);
  if (lane == 0) ptx::mbarrier_init(mine, 1);
  __syncthreads();
  const auto send = [&](int turn) {
    state[threadIdx.x] = turn;
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(other);
  };
  const int64_t start = now();
  if (warp == 0) send(0);
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    ptx::mbarrier_wait(mine, turn & 1);
    if (warp == 1 || turn + 1 < turns) send(turn);
  }
  if (threadIdx.x == 0) *cycles = now() - start;
#endif
}

// Two blocks of a cluster do so by st.async; the mbarrier counts the bytes.
KERNEL(WARP) cluster_exchange(int64_t* cycles, int turns) {
#if __CUDA_ARCH__ >= 900
  DYNAMIC_SHARED(memory);
  const uint32_t rank = ptx::cluster_rank(), mine = ptx::shared_address(memory);
  const uint32_t other = ptx::peer_address(mine, 1 - rank);
  constexpr uint32_t bytes = WARP * sizeof(uint2);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(mine, 1);
    ptx::mbarrier_init_fence();
    ptx::mbarrier_arrive_expect(mine, bytes);
  }
  ptx::cluster_barrier();
  const auto send = [&](uint32_t turn) {
    ptx::store_async(other + 128 + threadIdx.x * sizeof(uint2), other, make_uint2(turn, turn));
  };
  const int64_t start = now();
  if (rank == 0) send(0);
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    ptx::mbarrier_wait(mine, turn & 1);
    if (rank == 1 || turn + 1 < turns) send(turn);
    // After the answer, which needs not wait for it: without this arrival no phase ends.
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect(mine, bytes);
  }
  if (threadIdx.x == 0 && rank == 0) *cycles = now() - start;
  ptx::cluster_barrier();  // nobody leaves while something may be on its way to it
#endif
}

// Every block of a cluster, of a power of two, sends `bytes` to each of them, and has as much from
// each before it goes on.
KERNEL(256) cluster_bandwidth(int64_t* cycles, int turns, int blocks, int bytes) {
#if __CUDA_ARCH__ >= 900
  DYNAMIC_SHARED(memory);
  constexpr uint32_t room = 32 << 10;
  const uint32_t rank = ptx::cluster_rank(), mine = ptx::shared_address(memory);
  if (threadIdx.x == 0) {
    for (const uint32_t barrier : {mine, mine + 8}) {
      ptx::mbarrier_init(barrier, 1);
      ptx::mbarrier_init_fence();
      ptx::mbarrier_arrive_expect(barrier, blocks * bytes);
    }
  }
  __syncthreads();
  ptx::cluster_barrier();
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    const uint32_t barrier = 8 * (turn & 1);
    for (int i = 1; i <= blocks; ++i) {
      const uint32_t to = ptx::peer_address(mine, (rank + i) & (blocks - 1));
      for (int at = 8 * threadIdx.x; at < bytes; at += 8 * blockDim.x) {
        const uint32_t place = 128 + (rank * bytes + at) % room;
        ptx::store_async(to + place, to + barrier, make_uint2(turn, at));
      }
    }
    ptx::mbarrier_wait(mine + barrier, (turn >> 1) & 1);
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect(mine + barrier, blocks * bytes);
  }
  if (threadIdx.x == 0 && rank == 0) *cycles = now() - start;
  ptx::cluster_barrier();
#endif
}

// Two multiprocessors hand a state to each other through L2: who waits for it polls the very words
// that it will be, which hold a sentinel until then. Each message has a place of its own.
KERNEL(WARP) grid_exchange(int64_t* cycles, unsigned char* places, int turns, int partner) {
  if (blockIdx.x != 0 && blockIdx.x != partner) return;
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int sender = 0; sender < 2; ++sender) {
      unsigned char* place = places + ((2 * turn + sender) * WARP + threadIdx.x) * sizeof(uint4);
      if ((blockIdx.x != 0) == sender) {
        ptx::store_relaxed(place, make_uint2(turn, turn));
        ptx::store_relaxed(place + 8, make_uint2(turn, turn));
      } else {
        uint4 state;
        do {
          state = ptx::load_relaxed(place);
        } while (state.x == SENTINEL || state.y == SENTINEL || state.z == SENTINEL ||
                 state.w == SENTINEL);
      }
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = now() - start;
}

// Every block reads `bytes` again and again past the first-level cache: its own, or all the same.
KERNEL(512) read_l2(int64_t* cycles, const unsigned char* from, int64_t stride, int bytes,
                    int turns, uint32_t* sink) {
  from += blockIdx.x * stride;
  uint32_t all = 0;
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll 8
    for (int at = 16 * threadIdx.x; at < bytes; at += 16 * 512) {
      const uint4 words = ptx::load_relaxed(from + at);
      all ^= words.x ^ words.y ^ words.z ^ words.w;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = now() - start;
  sink[blockIdx.x * blockDim.x + threadIdx.x] = all;
}

struct Half {
  static __device__ void multiply(float (&sum)[4], const uint32_t (&w)[4],
                                  const uint32_t (&h)[2]) {
    ptx::multiply_bfloat16(sum, w, h);
  }
};
struct Tf32 {
  static __device__ void multiply(float (&sum)[4], const uint32_t (&w)[4],
                                  const uint32_t (&h)[2]) {
    ptx::multiply_tf32(sum, w, h);
  }
};

// Products of W_hh in registers with a tile of 8 rows, into sums that need not wait for each other.
constexpr int FRAGMENTS = 16;
template <class Mode, int CHAINS>
KERNEL(16 * WARP) products(int64_t* cycles, int turns, const unsigned char* memory, float* sink) {
  // Read, so that each has registers of its own, as W_hh has.
  uint32_t w[FRAGMENTS][4];
  for (int k = 0; k < FRAGMENTS; ++k) {
    const uint4 words = ptx::load_relaxed(memory + (k * blockDim.x + threadIdx.x) * sizeof(uint4));
    w[k][0] = words.x, w[k][1] = words.y, w[k][2] = words.z, w[k][3] = words.w;
  }
  const uint32_t h[2] = {w[0][0], w[0][1]};
  float sum[CHAINS][4]{};
  __syncthreads();
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int k = 0; k < FRAGMENTS; ++k) Mode::multiply(sum[k % CHAINS], w[k], h);
  }
  __syncthreads();
  if (threadIdx.x == 0) *cycles = now() - start;
  float all = 0;
  for (const auto& chain : sum) all += chain[0] + chain[1] + chain[2] + chain[3];
  sink[threadIdx.x] = all;
}

// A barrier of 8 warps and a turn through shared memory, as where the parts of a sum are added.
KERNEL(8 * WARP) reduction(int64_t* cycles, int turns, float* sink) {
  DYNAMIC_SHARED(memory);
  float part = threadIdx.x;
  __syncthreads();
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    auto* parts = reinterpret_cast<float*>(memory) + (turn & 1) * 8 * WARP;
    parts[threadIdx.x] = part;
    __syncthreads();
    part += parts[threadIdx.x ^ WARP];
  }
  if (threadIdx.x == 0) *cycles = now() - start;
  sink[threadIdx.x] = part;
}

KERNEL(256) nothing() {}

// Runs for so many cycles, and says how many nanoseconds they took.
KERNEL(1) spin(int64_t* nanoseconds, int64_t cycles) {
  int64_t before, after;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(before));
  const int64_t start = now();
  while (now() - start < cycles) {
  }
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(after));
  *nanoseconds = after - before;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The device, and memory for what kernels say and read. It is all given back when the process ends.
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

  // Where a kernel leaves what nobody reads, so that it has to be computed.
  template <class Value> Value* sink() const {
    return reinterpret_cast<Value*>(memory + bytes / 2);
  }

  // The median over runs of what `run` leaves: the median over the first `count` of `cycles`.
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

// One line; what fails says why, and the rest goes on if the device can.
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
  const double nanoseconds = bench.median_of(
      [&] { launch(spin, {dim3(1), 1}, bench.stream, bench.cycles, cycles); });
  return 1e9 * cycles / nanoseconds;
}

template <class Mode, int CHAINS> double product_time(const Bench& bench, int warps) {
  return bench.median_of([&] {
    launch(products<Mode, CHAINS>, {dim3(1), warps * WARP}, bench.stream, bench.cycles, TURNS,
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
  // The difference: what a turn takes whatever its bytes is the latency, which stands elsewhere.
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

// Seconds from one launch to the next, in a graph of many that do nothing.
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
  report("clock", [&] { return number(clock); });  // cycles a second
  report("launch_cycles", [&] { return number(launch_to_launch(bench) * clock); });
  report("product_cycles", [&] {
    return object({{"half", product_time<Half, 4>(bench, 16)},
                   {"tf32", product_time<Tf32, 4>(bench, 16)}});
  });
  report("product_latency", [&] {
    return object({{"half", product_time<Half, 1>(bench, 1)},
                   {"tf32", product_time<Tf32, 1>(bench, 1)}});
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
    // Between the first and others near and far, by which its parts of L2 differ.
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
  if (bench.device.major < 9) return;  // nor is what follows used there
  report("block_exchange", [&] {
    return number(bench.median_of([&] {
      launch(block_exchange, {dim3(1), 2 * WARP, 1, ALONE}, bench.stream, bench.cycles, TURNS);
    }) / (2 * TURNS));
  });
  report("cluster_exchange", [&] {
    return number(bench.median_of([&] {
      launch(cluster_exchange, {dim3(2), WARP, 2, ALONE}, bench.stream, bench.cycles, TURNS);
    }) / (2 * TURNS));
  });
  report("cluster_bandwidth", [&] {
    return object({{"8", all_to_all(bench, 8)}, {"16", all_to_all(bench, 16)}});
  });
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
