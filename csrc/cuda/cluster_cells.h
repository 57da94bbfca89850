// The cluster kernel of cells that save gates. It exchanges the state as that of nn.RNN's cells does:
// see cluster.h, which proves why no barrier is needed. In forward a warp multiplies the tiles of all
// gates of its units, so that a lane computes the whole step of a unit, and c never leaves its
// registers. In backward the blocks exchange dz of all gates.
#pragma once

#include "cluster_cell_backward.h"
#include "launchers.h"

namespace fastrnn::cuda {

template <class E, class Arguments, int RESIDENT, int N>
__global__ void __launch_bounds__(
    cluster_max_threads<E, typename LayerOf<Arguments>::P, RESIDENT, N>, 1)
    cluster_cell_kernel(Arguments arguments, Tiling tiling, ClusterLayout layout,
                        ClusterRows data) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using P = typename LayerOf<Arguments>::P;
  using Storage = typename E::Storage;
  using Cell = ClusterCell<E, P, RESIDENT, N>;
  constexpr bool backward = is_backward<P>;
  constexpr int TILES = gate_tiles_of<P>, STAGES = Cell::STAGES, size = sizeof(Storage);
  constexpr int CHAINS = N * TILES > 2 ? 1 : 4 / (N * TILES);  // independent accumulators

  DYNAMIC_SHARED(shared);
  const P& p = LayerOf<Arguments>::get(arguments, ptx::cluster_ctarank() / tiling.blocks);
  const ClusterWarp<E, P, RESIDENT, N> warp{p, tiling, layout, data, shared};
  const int H = warp.H, steps = warp.steps, blocks = warp.blocks, rank = warp.cluster_rank;
  // A reset never matters before the first step of the backward loop.
  const auto crosses = [&](int s) {
    return !(backward && s == 0) && crosses_reset(p, warp.time(s), warp.first_row + warp.lane_index,
                                                  warp.descending, warp.length);
  };
  uint32_t resets = __ballot_sync(~0u, crosses(0));
  bool next_crosses = crosses(1);  // of the lane's row

  warp.load_initial_state(resets);
  const int units = (H + E::chunk_units - 1) / E::chunk_units;
  warp.init_mbarriers(warp.rows * units * 8 * Cell::SENT);
  if constexpr (projects<P>) LayerExchange<E, decltype(warp)>(warp).init();
  ptx::barrier_cluster();

  if (warp.has_units()) {
    const Storage* const weight_hh = p.template weight_of<Storage>(warp.group, Cell::K * p.H * p.H);
    uint4* const streamed = reinterpret_cast<uint4*>(shared + layout.weights) +
                            warp.warp * tiling.streamed * TILES * 32 + warp.lane_index;
    uint32_t w[TILES][RESIDENT][4];
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
      load_weights<E, P>(w[m], streamed + m * 32, tiling.streamed, weight_hh + int64_t{m} * H * H,
                         H, warp.first_unit, warp.first_k, warp.lane, warp.alignment);
    }
    const int sums_size = N * TILES * (tiling.splits - 1) * 32;  // of a tile
    SplitK split_k{tiling.splits, warp.split, warp.n_tiles, 1 + warp.m_tile,
                   reinterpret_cast<float4*>(shared + layout.sums) + 2 * warp.m_tile * sums_size +
                       warp.lane_index};

    Cell cell(warp);
    const auto prefetch = [&](int s, int64_t offset, int64_t next_offset) {
      const uint32_t active = warp.active_rows(warp.time(s));
      const uint32_t next_active = backward ? warp.active_rows(warp.time(s + 1)) : 0;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (split_k.owns(n)) cell.prefetch(s, n, offset, next_offset, active, next_active);
      }
      ptx::cp_async_commit();
    };
    const auto offset_of = [&](int s) { return warp.step_offset(warp.time(s)); };
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (split_k.owns(n)) cell.start(n);
    }
#pragma unroll 1
    for (int s = 0; s < STAGES; ++s) prefetch(s, offset_of(s), offset_of(s + 1));

    // The lane's row address for ldmatrix, and the destination of its chunks.
    const int state_row_bytes = static_cast<int>(layout.state_row_bytes),
              state_bytes = 8 * N * state_row_bytes;
    const uint32_t operand = static_cast<uint32_t>(layout.state) +
                             warp.lane_index % 8 * state_row_bytes + warp.first_k * 32 +
                             warp.lane_index / 8 * 16;
    const uint32_t destination = static_cast<uint32_t>(layout.state) +
                                 warp.lane.chunk_row(0) * state_row_bytes + warp.unit * size;
    const int gate_bytes = static_cast<int>(padded_units(H, size)) * size;

#pragma unroll 1
    for (int s = 0; backward || s < steps; ++s) {
      StepRows rows{offset_of(s), warp.active_rows(warp.time(s)), 0, resets, 0};
      const int64_t prefetch_offset = offset_of(s + STAGES),
                    next_offset = backward ? offset_of(s + STAGES + 1) : 0;
      if (backward) rows.next_active = warp.active_rows(warp.time(s + 1));
      if (p.resets) {
        resets = rows.next_resets = __ballot_sync(~0u, next_crosses);
        next_crosses = crosses(s + 2);
      }

      float sums[TILES][CHAINS][N][4] = {};
      ptx::cp_async_wait<STAGES - 1>();
      if (projects<P> && split_k.owns(0)) cell.prepare(s);
      warp.wait_for_state(s, warp.rows * units * 8 * Cell::SENT);
      mma_tiles<E>(sums, w, streamed, tiling.streamed, warp.base + operand + s % 2 * state_bytes,
                   8 * state_row_bytes);
      split_k.reduce(sums);
      split_k.sums += s % 2 ? -sums_size : sums_size;

      const uint32_t to = destination + (s + 1) % 2 * state_bytes;
      const uint32_t barrier = warp.base + (s + 1) % 2 * 8;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!split_k.owns(n)) continue;
        float product[TILES][4];
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) product[m][i] = sums[m][0][n][i];
        }
        cell.step(s, n, product, rows, [&](int i, int k, uint2 chunk) {
          // No step reads the last state.
          if (!warp.chunk_bit(warp.valid_rows, n, i) || (!backward && s + 1 == steps)) return;
          const uint32_t at = to + (8 * n + i) * state_row_bytes + k * gate_bytes;
          const uint2 value = E::operand(chunk);
          if (blocks == 1) {
            *reinterpret_cast<uint2*>(shared + at) = value;
            return;
          }
#pragma unroll
          // Each block starts with a different peer. Those of a layer differ in these bits of the rank.
          for (int peer = 0; peer < 16; ++peer) {
            if (peer % 2 == 0 && peer >= blocks) break;
            ptx::st_async(ptx::mapa(warp.base + at, rank ^ peer), ptx::mapa(barrier, rank ^ peer),
                          value);
          }
        });
      }
      if (backward && s == steps) break;
      prefetch(s + STAGES, prefetch_offset, next_offset);
    }
    ptx::cp_async_wait<0>();
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (split_k.owns(n)) cell.finish(n, steps, p.B * warp.row_bytes);
    }
  }
  ptx::barrier_cluster();
#endif
}

}  // namespace fastrnn::cuda
