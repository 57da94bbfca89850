// Small kernels, correct and broken ones, for tests/emulators/test_cuda_emulator.py.
//
//   emulator_kernels NAME SEEDS   runs a kernel under SEEDS schedules; prints how many results were
//                                 correct, wrong and errors, and the last error
//   emulator_kernels convert      converts float32 words from stdin, results to stdout
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/ptx.h"
#include "cuda/runtime.h"

namespace ptx = fastrnn::cuda::ptx;
using fastrnn::cuda::Launch;
using fastrnn::cuda::launch;

namespace {

auto* const stream = &fastrnn::emulator::device;

// Two blocks of a cluster increment and exchange values through a double buffer.
enum Fault {
  none,
  one_buffer,
  not_rearmed,
  wrong_phase,
  no_wait,
  no_fence,
  not_synchronised,
  exited_early,
  too_many_arrivals,
  uninitialised
};
__global__ void exchange(Fault fault, int steps, uint32_t* result) {
  DYNAMIC_SHARED(shared);  // two mbarriers, two buffers of a chunk a thread
  const uint32_t base = ptx::cvta_shared(shared), peer = ptx::cluster_ctarank() ^ 1;
  constexpr uint32_t bytes = 64 * 8;
  if (threadIdx.x == 0 && fault != uninitialised) {
    for (int i = 0; i < 2; ++i) ptx::mbarrier_init(base + 8 * i, 1);
    if (fault != no_fence) ptx::fence_mbarrier_init();
    for (int i = 0; i < 2; ++i) ptx::mbarrier_arrive_expect_tx(base + 8 * i, bytes);
    if (fault == too_many_arrivals) ptx::mbarrier_arrive_expect_tx(base, 0);
  }
  if (fault == not_synchronised)
    __syncthreads();
  else
    ptx::barrier_cluster();
  uint32_t value = threadIdx.x;
  for (int s = 0; s < steps; ++s) {
    const int i = s % 2, buffer = fault == one_buffer ? 0 : i;
    const uint32_t to = base + 16 + buffer * bytes + (63 - threadIdx.x) * 8;
    ptx::st_async(ptx::mapa(to, peer), ptx::mapa(base + 8 * i, peer), {value + 1, 0});
    if (fault == exited_early && s == steps - 1) return;
    if (fault != no_wait) ptx::mbarrier_wait(base + 8 * i, (s / 2 + (fault == wrong_phase)) % 2);
    value = reinterpret_cast<const uint2*>(shared + 16 + buffer * bytes)[threadIdx.x].x;
    if (threadIdx.x == 0 && fault != not_rearmed) {
      ptx::mbarrier_arrive_expect_tx(base + 8 * i, bytes);
    }
  }
  ptx::barrier_cluster();
  result[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
template <Fault fault> bool run_exchange() {
  constexpr int steps = 6;
  std::vector<uint32_t> result(128);
  launch(exchange, {dim3(2), 64, 2, 16 + 2 * 64 * 8}, stream, fault, steps, result.data());
  for (uint32_t i = 0; i < 128; ++i) {
    if (result[i] != i % 64 + steps) return false;
  }
  return true;
}

// Every thread adds up the values of all threads, twice through the same memory.
__global__ void sums(bool first_barrier, bool second_barrier, uint32_t* result) {
  DYNAMIC_SHARED(shared);
  uint32_t* const values = reinterpret_cast<uint32_t*>(shared);
  uint32_t sum = 0;
  for (int s = 0; s < 2; ++s) {
    values[threadIdx.x] = threadIdx.x * (s + 1);
    if (first_barrier) __syncthreads();
    for (unsigned i = 0; i < blockDim.x; ++i) sum += values[i];
    if (second_barrier) __syncthreads();
  }
  result[threadIdx.x] = sum;
}
template <bool first, bool second> bool run_sums() {
  std::vector<uint32_t> result(128);
  launch(sums, {dim3(1), 128, 1, 512}, stream, first, second, result.data());
  for (const uint32_t sum : result) {
    if (sum != 3 * 128 * 127 / 2) return false;
  }
  return true;
}

// All blocks synchronise through global memory.
__global__ void grid_barrier(uint32_t* flags) {
  if (threadIdx.x == 0) ptx::st_relaxed(flags + 4 * blockIdx.x, {1, 1});
  for (unsigned i = 0; i < gridDim.x; ++i) {
    while (ptx::ld_relaxed(flags + 4 * i).x == 0) {}
  }
}
template <bool cooperative, int blocks> bool run_grid_barrier() {
  alignas(16) uint32_t flags[4 * blocks] = {};
  Launch shape{dim3(blocks), 64};
  shape.cooperative = cooperative;
  launch(grid_barrier, shape, stream, &flags[0]);
  return true;
}

// A block that sees the second word may not see the first.
__global__ void message(uint32_t* flags, uint32_t* result) {
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0) {
      ptx::st_relaxed(flags, {1, 1});
      ptx::st_relaxed(flags, {2, 2});  // in order with the previous store to this address
      ptx::st_relaxed(flags + 4, {1, 1});
    }
  } else {
    while (ptx::ld_relaxed(flags + 4).x == 0) {}
    result[threadIdx.x] = ptx::ld_relaxed(flags).x;
  }
}
template <bool at_the_end> bool run_message() {
  alignas(16) uint32_t flags[8] = {};
  uint32_t result[32];
  Launch shape{dim3(2), 32};
  shape.cooperative = true;
  launch(message, shape, stream, &flags[0], &result[0]);
  if (at_the_end) return flags[0] == 2 && flags[1] == 2;
  for (const uint32_t value : result) {
    if (value != 2) return false;
  }
  return true;
}

__global__ void copies(const uint32_t* from, uint32_t* result, bool waits) {
  DYNAMIC_SHARED(shared);
  const uint32_t to = ptx::cvta_shared(shared) + 8 * threadIdx.x;
  for (int i = 0; i < 2; ++i) {
    ptx::cp_async<4>(to + 4 * i, from + i, i == 0 || threadIdx.x % 2);
    ptx::cp_async_commit();
  }
  if (waits) ptx::cp_async_wait<1>();
  result[2 * threadIdx.x] = *reinterpret_cast<const uint32_t*>(shared + 8 * threadIdx.x);
  ptx::cp_async_wait<0>();
  result[2 * threadIdx.x + 1] = *reinterpret_cast<const uint32_t*>(shared + 8 * threadIdx.x + 4);
}
template <bool waits> bool run_copies() {
  const std::vector<uint32_t> from{7, 8};
  uint32_t result[64];
  launch(copies, {dim3(1), 32, 1, 256}, stream, from.data(), &result[0], waits);
  for (int i = 0; i < 32; ++i) {
    if (result[2 * i] != 7 || result[2 * i + 1] != (i % 2 ? 8 : 0)) return false;
  }
  return true;
}

// Faults of a single statement.
enum Line {
  lanes_diverge,
  lanes_exit,
  warps_exit,
  counts_differ,
  one_warp_short,
  beyond_by_pointer,
  beyond_by_address,
  misaligned,
  overwritten
};
__global__ void line(Line fault) {
  DYNAMIC_SHARED(shared);
  const uint32_t base = ptx::cvta_shared(shared);
  const unsigned warp = threadIdx.x / 32;
  switch (fault) {
    case lanes_diverge:
      if (threadIdx.x % 32 < 7)
        __ballot_sync(~0u, true);
      else
        __syncwarp();
      break;
    case lanes_exit:
      if (threadIdx.x % 32 < 7) return;
      __syncwarp();
      break;
    case warps_exit:
      if (warp > 0) __syncthreads();
      break;
    case counts_differ: ptx::bar_sync(1, warp ? 64 : 32); break;
    case one_warp_short:
      if (warp) ptx::bar_sync(1, 64);
      break;
    case beyond_by_pointer: shared[256 + threadIdx.x] = 1; break;
    case beyond_by_address: {
      uint32_t words[4];
      ptx::ldmatrix(words, base + 256 - 16 * 31 + 16 * (threadIdx.x % 32));
      break;
    }
    case misaligned: *reinterpret_cast<uint2*>(shared + 4) = {1, 1}; break;
    case overwritten:
      if (threadIdx.x) return;
      ptx::mbarrier_init(base, 1);
      *reinterpret_cast<uint32_t*>(shared) = 1;
      ptx::mbarrier_arrive_expect_tx(base, 0);
  }
}
template <Line fault> bool run_line() {
  launch(line, {dim3(1), 64, 1, 256}, stream, fault);
  return true;
}

bool launch_too_large() {
  launch(line, {dim3(1), 64, 1, 228 << 10}, stream, lanes_diverge);
  return true;
}

// The product of random matrices: w from registers, in the layout of PTX; h from shared memory,
// loaded by ldmatrix.
enum Kind { bfloat16, float16, tf32 };
template <Kind kind> constexpr int depth = kind == tf32 ? 8 : 16;

// A small random value that the dtype represents exactly, and its bits.
template <Kind kind> float value(uint32_t* bits) {
  const float value = float(rand() % 255 - 127) / 64;
  *bits = kind == tf32 ? ptx::bits(value)
                       : (kind == bfloat16 ? ptx::cvt_bf16x2 : ptx::cvt_f16x2)(value, 0);
  return value;
}
template <Kind kind> uint32_t word(const uint32_t* values) {
  return kind == tf32 ? values[0] | 0x155 : values[0] | values[1] << 16;  // bits that tf32 ignores
}

template <Kind kind>
__global__ void product(const uint32_t* w, const uint32_t* h, const float* sums, float* result) {
  DYNAMIC_SHARED(shared);
  constexpr int values = depth<kind> / 8;
  const int lane = threadIdx.x, group = lane >> 2, in_group = lane % 4;
  for (int i = lane; i < 64; i += 32) {
    reinterpret_cast<uint32_t*>(shared)[i] = word<kind>(h + values * i);
  }
  __syncwarp();
  uint32_t a[4], words[4];
  for (int i = 0; i < 4; ++i) {  // one register for each half of rows and of columns
    const int row = i == 0 || i == 2 ? group : group + 8;
    const int column = in_group * values + (i >= 2 ? depth<kind> / 2 : 0);
    a[i] = word<kind>(w + row * depth<kind> + column);
  }
  ptx::ldmatrix(words, ptx::cvta_shared(shared) + lane % 8 * 32 + lane / 8 % 2 * 16);
  const uint32_t b[2] = {words[0], words[1]};
  float c[4];
  const auto index = [&](int i) {
    return (i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1);
  };
  for (int i = 0; i < 4; ++i) c[i] = sums[index(i)];
  (kind == tf32 ? ptx::mma_tf32 : kind == bfloat16 ? ptx::mma_bf16 : ptx::mma_f16)(c, a, b);
  for (int i = 0; i < 4; ++i) result[index(i)] = c[i];
}
template <Kind kind> bool run_product() {
  constexpr int K = depth<kind>;
  std::vector<uint32_t> w(16 * K), h(8 * K);
  std::vector<float> exact_w(16 * K), exact_h(8 * K), sums(128), result(128);
  for (size_t i = 0; i < w.size(); ++i) exact_w[i] = value<kind>(&w[i]);
  for (size_t i = 0; i < h.size(); ++i) exact_h[i] = value<kind>(&h[i]);
  for (float& sum : sums) sum = float(rand() % 1000);
  launch(product<kind>, {dim3(1), 32, 1, 256}, stream, static_cast<const uint32_t*>(w.data()),
         static_cast<const uint32_t*>(h.data()), static_cast<const float*>(sums.data()),
         result.data());
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float sum = sums[row * 8 + column];  // exact: all terms are small multiples of 2^-12
      for (int k = 0; k < K; ++k) sum += exact_w[row * K + k] * exact_h[column * K + k];
      if (result[row * 8 + column] != sum) return false;
    }
  }
  return true;
}

__global__ void transposition(const uint16_t* matrix, uint16_t* result) {
  const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
  const uint32_t word =
      ptx::movmatrix(matrix[row * 8 + column] | uint32_t{matrix[row * 8 + column + 1]} << 16);
  result[row * 8 + column] = uint16_t(word);
  result[row * 8 + column + 1] = uint16_t(word >> 16);
}
bool run_transposition() {
  uint16_t matrix[64], result[64];
  for (uint16_t& value : matrix) value = uint16_t(rand());
  launch(transposition, {dim3(1), 32}, stream, static_cast<const uint16_t*>(matrix), &result[0]);
  for (int i = 0; i < 64; ++i) {
    if (result[i] != matrix[i % 8 * 8 + i / 8]) return false;
  }
  return true;
}

__global__ void shuffles(uint32_t* result) {
  const uint32_t lane = threadIdx.x;
  result[lane] = __shfl_sync(~0u, lane, 5) == 5 && __shfl_xor_sync(~0u, lane, 3) == (lane ^ 3) &&
                 __shfl_down_sync(~0u, lane, 4) == (lane + 4 < 32 ? lane + 4 : lane) &&
                 __ballot_sync(~0u, lane % 2) == 0xaaaaaaaa;
}
bool run_shuffles() {
  uint32_t result[32];
  launch(shuffles, {dim3(1), 32}, stream, &result[0]);
  for (const uint32_t right : result) {
    if (!right) return false;
  }
  return true;
}

struct Kernel {
  const char* name;
  bool (*run)();
};
#define EXCHANGE(fault) {"exchange " #fault, run_exchange<fault>}
#define LINE(fault) {#fault, run_line<fault>}
const Kernel kernels[] = {
    EXCHANGE(none),
    EXCHANGE(one_buffer),
    EXCHANGE(not_rearmed),
    EXCHANGE(wrong_phase),
    EXCHANGE(no_wait),
    EXCHANGE(no_fence),
    EXCHANGE(not_synchronised),
    EXCHANGE(exited_early),
    EXCHANGE(too_many_arrivals),
    EXCHANGE(uninitialised),
    {"sums", run_sums<true, true>},
    {"sums without first barrier", run_sums<false, true>},
    {"sums without second barrier", run_sums<true, false>},
    {"grid barrier", run_grid_barrier<true, 8>},
    {"grid barrier not cooperative", run_grid_barrier<false, 8>},
    {"grid barrier too large", run_grid_barrier<true, 9>},
    {"message", run_message<false>},
    {"message at the end", run_message<true>},
    {"copies", run_copies<true>},
    {"copies not waited", run_copies<false>},
    LINE(lanes_diverge),
    LINE(lanes_exit),
    LINE(warps_exit),
    LINE(counts_differ),
    LINE(one_warp_short),
    LINE(beyond_by_pointer),
    LINE(beyond_by_address),
    LINE(misaligned),
    LINE(overwritten),
    {"too much shared memory", launch_too_large},
    {"bfloat16 product", run_product<bfloat16>},
    {"float16 product", run_product<float16>},
    {"tf32 product", run_product<tf32>},
    {"transposition", run_transposition},
    {"shuffles", run_shuffles},
};

void convert() {
  for (uint32_t word; fread(&word, 4, 1, stdin) == 1;) {
    const float value = ptx::from_bits(word);
    const uint32_t results[5] = {ptx::cvt_bf16x2(0, value), ptx::cvt_f16x2(0, value),
                                 ptx::bits(ptx::cvt_f32_f16(uint16_t(word))),
                                 ptx::bits(ptx::cvt_tf32(value)),
                                 ptx::bits(ptx::tanh_approx(value))};
    fwrite(results, 4, 5, stdout);
  }
}

}  // namespace

int main(int, char** arguments) {
  if (strcmp(arguments[1], "convert") == 0) {
    convert();
    return 0;
  }
  for (const Kernel& kernel : kernels) {
    if (strcmp(kernel.name, arguments[1]) != 0) continue;
    int correct = 0, wrong = 0, errors = 0;
    std::string error;
    for (int seed = 0; seed < atoi(arguments[2]); ++seed) {
      stream->seed = seed;
      try {
        ++(kernel.run() ? correct : wrong);
      } catch (const std::runtime_error& caught) {
        ++errors;
        error = caught.what();
      }
    }
    printf("%d %d %d\n%s", correct, wrong, errors, error.c_str());
    return 0;
  }
  return 1;
}
