// The kernels of calibrate.cu. Each repeats one operation `turns` times, and reports the cycles.
#pragma once

#include "cuda/mma_traits.h"

namespace fastrnn::cuda {

constexpr int WARP = 32;
constexpr uint32_t SENTINEL = 0xFFFFFFFF;

#define KERNEL(threads) __global__ void __launch_bounds__(threads, 1)

__device__ int64_t now() { return clock64(); }

// Two warps of a block exchange a state by a store and a barrier, with two buffers.
KERNEL(2 * WARP) block_exchange(int64_t* cycles, int turns) {
  DYNAMIC_SHARED(memory);
  auto* state = reinterpret_cast<uint32_t*>(memory);
  uint32_t value = threadIdx.x;
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    uint32_t* const buffer = state + turn % 2 * blockDim.x;
    buffer[threadIdx.x] = value;
    ptx::bar_sync(0, 2 * WARP);
    value = buffer[threadIdx.x ^ WARP];
  }
  if (threadIdx.x == 0) *cycles = now() - start + (value == SENTINEL);
}

// Two blocks of a cluster exchange a state by st.async, and an mbarrier counts the bytes.
KERNEL(WARP) cluster_exchange(int64_t* cycles, int turns) {
#if __CUDA_ARCH__ >= 900
  DYNAMIC_SHARED(memory);
  const uint32_t rank = ptx::cluster_ctarank(), mine = ptx::cvta_shared(memory);
  const uint32_t other = ptx::mapa(mine, 1 - rank);
  constexpr uint32_t bytes = WARP * sizeof(uint2);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(mine, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect_tx(mine, bytes);
  }
  ptx::barrier_cluster();
  const auto send = [&](uint32_t turn) {
    ptx::st_async(other + 128 + threadIdx.x * sizeof(uint2), other, make_uint2(turn, turn));
  };
  const int64_t start = now();
  if (rank == 0) send(0);
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    ptx::mbarrier_wait(mine, turn & 1);
    if (rank == 1 || turn + 1 < turns) send(turn);
    // A phase needs this arrival to end. It follows the answer, which does not depend on it.
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect_tx(mine, bytes);
  }
  if (threadIdx.x == 0 && rank == 0) *cycles = now() - start;
  ptx::barrier_cluster();  // a block must not exit while a store to it may be in flight
#endif
}

// Every block of a cluster sends `bytes` to each block, and waits for as many from each, in every
// turn. The number of blocks is a power of two.
KERNEL(256) cluster_bandwidth(int64_t* cycles, int turns, int blocks, int bytes) {
#if __CUDA_ARCH__ >= 900
  DYNAMIC_SHARED(memory);
  constexpr uint32_t room = 32 << 10;
  const uint32_t rank = ptx::cluster_ctarank(), mine = ptx::cvta_shared(memory);
  if (threadIdx.x == 0) {
    for (const uint32_t barrier : {mine, mine + 8}) {
      ptx::mbarrier_init(barrier, 1);
      ptx::fence_mbarrier_init();
      ptx::mbarrier_arrive_expect_tx(barrier, blocks * bytes);
    }
  }
  __syncthreads();
  ptx::barrier_cluster();
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    const uint32_t barrier = 8 * (turn & 1);
    for (int i = 1; i <= blocks; ++i) {
      const uint32_t to = ptx::mapa(mine, (rank + i) & (blocks - 1));
      for (int at = 8 * threadIdx.x; at < bytes; at += 8 * blockDim.x) {
        const uint32_t place = 128 + (rank * bytes + at) % room;
        ptx::st_async(to + place, to + barrier, make_uint2(turn, at));
      }
    }
    ptx::mbarrier_wait(mine + barrier, (turn >> 1) & 1);
    if (threadIdx.x == 0) ptx::mbarrier_arrive_expect_tx(mine + barrier, blocks * bytes);
  }
  if (threadIdx.x == 0 && rank == 0) *cycles = now() - start;
  ptx::barrier_cluster();
#endif
}

// Two multiprocessors exchange a state through L2. The receiver polls the words of the state, which
// hold a sentinel until the state arrives. Each message has its own location.
KERNEL(WARP) grid_exchange(int64_t* cycles, unsigned char* places, int turns, int partner) {
  if (blockIdx.x != 0 && blockIdx.x != partner) return;
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int sender = 0; sender < 2; ++sender) {
      unsigned char* place = places + ((2 * turn + sender) * WARP + threadIdx.x) * sizeof(uint4);
      if ((blockIdx.x != 0) == sender) {
        ptx::st_relaxed(place, make_uint2(turn, turn));
        ptx::st_relaxed(place + 8, make_uint2(turn, turn));
      } else {
        uint4 state;
        do {
          state = ptx::ld_relaxed(place);
        } while (state.x == SENTINEL || state.y == SENTINEL || state.z == SENTINEL ||
                 state.w == SENTINEL);
      }
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) *cycles = now() - start;
}

// Every block reads `bytes` repeatedly, past the L1 cache: its own, or the same for all blocks.
KERNEL(512)
read_l2(int64_t* cycles, const unsigned char* from, int64_t stride, int bytes, int turns,
        uint32_t* sink) {
  from += blockIdx.x * stride;
  uint32_t all = 0;
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll 8
    for (int at = 16 * threadIdx.x; at < bytes; at += 16 * 512) {
      const uint4 words = ptx::ld_relaxed(from + at);
      all ^= words.x ^ words.y ^ words.z ^ words.w;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) cycles[blockIdx.x] = now() - start;
  sink[blockIdx.x * blockDim.x + threadIdx.x] = all;
}

// Multiplies W_hh, in registers, by a tile of 8 rows, into CHAINS independent sums.
constexpr int FRAGMENTS = 16;
template <class E, int CHAINS>
KERNEL(16 * WARP)
products(int64_t* cycles, int turns, const unsigned char* memory, float* sink) {
  // Loaded from memory, so that each fragment has its own registers, as W_hh has.
  uint32_t w[FRAGMENTS][4];
  for (int k = 0; k < FRAGMENTS; ++k) {
    const uint4 words = ptx::ld_relaxed(memory + (k * blockDim.x + threadIdx.x) * sizeof(uint4));
    w[k][0] = words.x, w[k][1] = words.y, w[k][2] = words.z, w[k][3] = words.w;
  }
  const uint32_t h[1][2] = {{w[0][0], w[0][1]}};
  float sum[CHAINS][1][4]{};
  __syncthreads();
  const int64_t start = now();
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
#pragma unroll
    for (int k = 0; k < FRAGMENTS; ++k) E::mma(sum[k % CHAINS], w[k], h);
  }
  __syncthreads();
  if (threadIdx.x == 0) *cycles = now() - start;
  float all = 0;
  for (const auto& [chain] : sum) all += chain[0] + chain[1] + chain[2] + chain[3];
  sink[threadIdx.x] = all;
}

// A barrier of 8 warps and a round trip through shared memory, as in a sum over splits.
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

// Runs for `cycles` cycles, and reports the nanoseconds that they took.
KERNEL(1) spin(int64_t* nanoseconds, int64_t cycles) {
  int64_t before, after;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(before));
  const int64_t start = now();
  while (now() - start < cycles) {}
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(after));
  *nanoseconds = after - before;
}

}  // namespace fastrnn::cuda
