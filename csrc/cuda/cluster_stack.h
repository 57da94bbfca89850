// The layers of a stack in one cluster. Each has `blocks` blocks of its own. They send their output of
// a step to those of the next layer, which computes that step while they compute the one after it. In
// backward the next layer is the one below, and the output the gradient of pre.
//
// A block keeps the rows of STAGES steps that it has received. For each of these places there are two
// mbarriers: the phase of `filled` completes when all rows have arrived; that of `freed`, in the block
// that sent them, when all tiles of units of the next layer have read them.
//   - No row is overwritten while it is still being read. A warp frees the rows of step s with 8 bytes
//     of what it computed from them. A block sends step s + STAGES once it has received those bytes
//     from every tile of the next layer.
//   - Nothing arrives before it is expected. Thread 0, having waited for `filled` of step s, expects the
//     rows of step s + STAGES before its warp frees step s. Having waited for `freed`, it expects the
//     next bytes before it sends its own chunk, without which no warp frees the step.
//   - No lane misses a phase: the next one does not complete without what its warp sends, and a warp
//     sends nothing before all its lanes have waited.
//   - Nothing arrives after a block has left: the last STAGES steps are not freed, and every block has
//     waited for all other bytes.
#pragma once

#include "cluster_warp.h"

namespace fastrnn::cuda {

template <class E, class Warp> struct LayerExchange {
  static constexpr int STAGES = cluster_stages(1), size = sizeof(typename E::Storage);
  // In the block's shared memory. The mbarriers follow the two of the state.
  static constexpr int barriers = 16, unread = barriers + 2 * STAGES * 8;
  static_assert(unread + 8 <= 128);

  const Warp& warp;
  static constexpr int SENT = Warp::backward ? Warp::gates : 1;
  const int row_bytes = input_row_bytes(warp.layout.x_k_steps), stage_bytes = 8 * row_bytes;

  __device__ explicit LayerExchange(const Warp& warp) : warp(warp) {}

  __device__ bool receives() const { return warp.layer > 0; }
  __device__ bool sends() const { return warp.layer + 1 < warp.tiling.layers; }

  // By all threads, before a barrier of the cluster. The kernel multiplies whole k-steps, so that rows
  // need zeros beyond the units that are sent.
  __device__ void init() const {
    if (warp.tiling.layers == 1) return;
    if (receives()) {
      auto* const rows = reinterpret_cast<uint2*>(warp.shared + warp.layout.received);
      for (int i = threadIdx.x; i < STAGES * stage_bytes / 8; i += blockDim.x) rows[i] = {0, 0};
    }
    if (threadIdx.x != 0) return;
    for (int s = 0; s < STAGES; ++s) {
      ptx::mbarrier_init(filled(s), 1);
      ptx::mbarrier_init(freed(s), 1);
    }
    ptx::fence_mbarrier_init();
    for (int s = 0; s < STAGES; ++s) {
      expect_rows(s);
      expect_freed(s);
    }
  }

  // Waits for the rows of step s.
  __device__ void receive(int s) const {
    ptx::mbarrier_wait(filled(s), unsigned(s) / STAGES % 2);
    if (threadIdx.x == 0) expect_rows(s);
  }
  // `chunk`: of what the lane computed from the rows of step s.
  __device__ void free(int s, uint2 chunk) const {
    if (s + STAGES >= warp.steps || warp.lane_index >= warp.blocks) return;
    const uint32_t block = (warp.layer - 1) * warp.blocks + warp.lane_index;
    ptx::st_async(ptx::mapa(warp.base + unread, block), ptx::mapa(freed(s), block), chunk);
  }

  // Waits until the next layer has room for step s.
  __device__ void wait_for_room(int s) const {
    if (s < STAGES) return;
    ptx::mbarrier_wait(freed(s), unsigned(s - STAGES) / STAGES % 2);
    if (threadIdx.x == 0) expect_freed(s);
    __syncwarp();
  }
  // The lane's chunk of row i, in backward of gate k.
  __device__ void send(int s, int i, int k, uint2 chunk) const {
    if (!warp.chunk_bit(warp.valid_rows, 0, i)) return;
    const int column = k * static_cast<int>(padded_units(warp.H, size)) + warp.unit;
    const uint32_t to = warp.base + static_cast<uint32_t>(warp.layout.received) +
                        s % STAGES * stage_bytes + (warp.lane.chunk_row(0) + i) * row_bytes +
                        column * size;
    const uint32_t first = (warp.layer + 1) * warp.blocks;
#pragma unroll 1
    for (uint32_t block = first; block < first + warp.blocks; ++block) {
      ptx::st_async(ptx::mapa(to, block), ptx::mapa(filled(s), block), chunk);
    }
  }

 private:
  __device__ uint32_t filled(int s) const { return warp.base + barriers + s % STAGES * 8; }
  __device__ uint32_t freed(int s) const { return filled(s) + STAGES * 8; }

  __device__ void expect_rows(int s) const {
    const int chunks = (warp.H + E::chunk_units - 1) / E::chunk_units;
    ptx::mbarrier_arrive_expect_tx(filled(s), warp.rows * chunks * 8 * SENT);
  }
  __device__ void expect_freed(int s) const {
    ptx::mbarrier_arrive_expect_tx(freed(s), warp.tiles_of_units * 8);
  }
};

}  // namespace fastrnn::cuda
