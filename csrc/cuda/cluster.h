// cluster: a cluster of blocks shares the W_hh of a group for a tile of the batch, and keeps it.
//
// A block owns some tiles of 16 units. A warp has one of them and a share of the depth of its
// product: that part of W_hh stays in its registers, and what they cannot hold in shared memory. A
// step of a warp is: wait for the state and multiply; then, the shares of the depth added up,
// activate, and send each chunk of the new state into the shared memory of every block.
//
// The state has two buffers: step s reads buffer s % 2 and sends to the other one. Each has an
// mbarrier, whose phase ends when all that is sent to it has come. No barrier of a block or of the
// cluster is in the loop, and none is needed:
//   - a block knows that all of a step's state has come: its mbarrier expects the bytes of all real
//     rows and units, which is what all blocks together send to it;
//   - nobody overwrites what is still read. Buffer s % 2, read in step s, is written again in step
//     s + 1. Who writes then has waited for the state sent in step s, to which every tile of units
//     of every block contributes, after its warps have read buffer s % 2: what a warp sends is made
//     of what it read, and of what the other warps of its tile handed over at their barrier;
//   - no byte comes before it is expected: thread 0 of a block, having waited for buffer s % 2,
//     expects its next bytes before it sends its own chunk of step s, and without that chunk no
//     other block begins step s + 1. (Thread 0 always has one: every block owns a tile of units.)
//   - the sums that the warps of a tile hand over have two buffers too: what was read in step s is
//     written again in step s + 2, and the barrier of these warps in step s + 1 lies between.
// A cluster of one block stores its state plainly, and its warps meet at a barrier instead: before
// it lie the reads of the one buffer and the writes of the other, after it the reverse.
//
// Rows do not wait for one another's end. An inactive row keeps its state, in the registers of the
// lanes that own it: forward sends it on, backward sends zeros, whose product is nothing, and adds
// what it kept.
#pragma once

#include <climits>
#include <stdexcept>
#include <type_traits>

#include "alignment.h"
#include "cluster_warp.h"
#include "launchers.h"

namespace fastrnn::cuda {

// The end of a step, of the product's sums: forward, the new state; backward, dh and dz.
template <class E, class D>
__device__ void activate_quad(const float (&sum)[4], const float (&slopes)[4], float (&dh)[4],
                              uint2 (&words)[E::rows], const D& p) {
  float quad[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (is_backward<D>) {
      dh[i] = sum[i];
      quad[i] = gradient(sum[i], slopes[i], p.activation);
    } else {
      quad[i] = activate<E>(sum[i], p.activation);
    }
  }
  E::to_chunks(quad, words);
}

// RESIDENT k-steps of W_hh are in a warp's registers; N times 8 batch rows are computed.
template <class E, class D, int RESIDENT, int N>
__global__ void __launch_bounds__(cluster_most_threads<E, RESIDENT, N>, 1)
    cluster_kernel(D p, Tiling tiling, ClusterLayout layout, int alignment) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using Storage = typename E::Storage;
  constexpr bool backward = is_backward<D>;
  constexpr int STREAMS = backward ? 2 : 1, AHEAD = cluster_ahead(N);
  // Sums that do not wait for one another: as many as there are registers for.
  constexpr bool crowded = backward && has_resets<D> && cluster_most_threads<E, RESIDENT, N> == 512;
  constexpr int CHAINS = (crowded ? 2 : 4) / N;
  constexpr int size = sizeof(Storage);

  // Who this is: a block, a warp and a lane of it.
  DYNAMIC_SHARED(shared);
  const ClusterWarp<E, D, RESIDENT, N> warp{p, tiling, layout, alignment, shared};
  const auto lane = warp.lane;
  const uint32_t base = warp.base;
  const int lane_index = warp.lane_index, blocks = warp.blocks, rank = warp.rank;
  const int m_tile = warp.m_tile, split = warp.split, H = warp.H, unit = warp.unit;
  const int first_k = warp.first_k;
  const int group = warp.group, first_row = warp.first_row, rows = warp.rows;
  const int length = warp.length, steps = warp.steps;
  const uint2 real_units = warp.real_units;
  const bool descending = warp.descending;
  const auto time = [&](int s) { return warp.time(s); };
  const bool aligned = warp.aligned;
  const int64_t row_bytes = warp.row_bytes;
  const uint32_t real_rows = warp.real_rows;
  const auto active_rows = [&](int t) { return warp.active_rows(t); };
  const auto chunk_bit = [&](uint32_t mask, int n, int i) { return warp.chunk_bit(mask, n, i); };
  const auto row = [&](const void* tensor, int64_t step, int n, int i) {
    return warp.row(tensor, step, n, i);
  };
  const auto step_place = [&](int t) { return warp.step_place(t); };

  [[maybe_unused]] uint32_t cut = 0;  // bit b: row b starts a sequence at the next step, from zeros
  [[maybe_unused]] bool begins;   // whether the lane's row does in the one after that
  if constexpr (has_resets<D>) {
    cut = __ballot_sync(~0u, is_cut(p, time(0), first_row + lane_index, descending, length));
    begins = is_cut(p, time(1), first_row + lane_index, descending, length);
  }

  const int state_row = static_cast<int>(layout.row), state_bytes = 8 * N * state_row;
  warp.load_initial_state(cut);
  const int bytes = rows * ((H + E::chunk - 1) / E::chunk) * 8;  // of a state
  warp.init_mbarriers(bytes);
  ptx::cluster_barrier();

  if (warp.has_units()) {
    const Storage* const weight_hh = static_cast<const Storage*>(p.weight_hh) + group * p.H * p.H;
    uint4* const streamed = reinterpret_cast<uint4*>(shared + layout.weights) +
                            warp.warp * tiling.streamed * 32 + lane_index;
    uint32_t w[RESIDENT][4];
    load_weights<E, backward>(w, streamed, tiling.streamed, weight_hh, H, warp.first_unit, first_k,
                              lane, alignment);
    const int sums = N * (tiling.splits - 1) * 32;  // of a tile
    Splits splits{tiling.splits, split, warp.n_tiles, 1 + m_tile,
                  reinterpret_cast<float4*>(shared + layout.sums) + 2 * m_tile * sums + lane_index};

    const void *inputs[STREAMS], *begun;
    void *result, *left;
    if constexpr (backward) {
      inputs[0] = p.grad_out, inputs[1] = p.out, begun = p.grad_h_n;
      result = p.grad_pre, left = p.grad_h0;
    } else {
      inputs[0] = p.pre, begun = p.h0;
      result = p.out, left = p.h_n;
    }

    // What the lane keeps of its rows: forward, their state; backward, dh.
    uint2 h[N][E::rows] = {};
    float dh[N][4] = {};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!splits.owns(n)) continue;
#pragma unroll
      for (int i = 0; i < E::rows; ++i) {
        if (!chunk_bit(real_rows, n, i)) continue;
        h[n][i] = load_chunk<E>(row(begun, 0, n, i), unit, H, aligned);
      }
      if (backward) E::to_quad(h[n], dh[n]);
    }

    unsigned char* const ahead =
        shared + layout.ahead + m_tile * N * E::rows * STREAMS * AHEAD * 256 + lane_index * 8;
    const auto slot = [&](int s, int n, int i, int j) {
      return ahead + s % AHEAD * 256 + ((n * E::rows + i) * STREAMS + j) * AHEAD * 256;
    };
    const auto read_ahead = [&](int s, int64_t place) {
      const uint32_t active = active_rows(time(s));
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!splits.owns(n)) continue;
#pragma unroll
        for (int i = 0; i < E::rows; ++i) {
          const bool on = chunk_bit(active, n, i);
#pragma unroll
          for (int j = 0; j < STREAMS; ++j) {
            copy_chunk<E>(slot(s, n, i, j), row(inputs[j], place, n, i), unit, H, alignment, on);
          }
        }
      }
      ptx::copy_commit();
    };
#pragma unroll 1
    for (int s = 0; s < AHEAD; ++s) read_ahead(s, step_place(time(s)));

    // The 16 bytes of the state that the lane names to load_matrices; where it sends its chunks.
    const uint32_t operand = static_cast<uint32_t>(layout.state) + lane_index % 8 * state_row +
                             first_k * 32 + lane_index / 8 * 16;
    const uint32_t destination =
        static_cast<uint32_t>(layout.state) + lane.chunk_row(0) * state_row + unit * size;

    uint32_t was_active = 0;  // in the step before
#pragma unroll 1
    for (int s = 0;; ++s) {
      if (!backward && s == steps) break;
      const int64_t place = step_place(time(s)), place_ahead = step_place(time(s + AHEAD));
      const uint32_t active = active_rows(time(s));
      if constexpr (has_resets<D>) {
        cut = __ballot_sync(~0u, begins);
        begins = is_cut(p, time(s + 2), first_row + lane_index, descending, length);
      }

      float sum[CHAINS][N][4] = {}, slopes[N][4];
      ptx::copy_wait<AHEAD - 1>();
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!splits.owns(n)) continue;
        uint2 chunks[STREAMS][E::rows];
#pragma unroll
        for (int j = 0; j < STREAMS; ++j) {
#pragma unroll
          for (int i = 0; i < E::rows; ++i) {
            chunks[j][i] = *reinterpret_cast<const uint2*>(slot(s, n, i, j));
          }
        }
        E::to_quad(chunks[0], sum[0][n]);
        if constexpr (backward) {
          E::to_quad(chunks[1], slopes[n]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const bool product = was_active >> lane.quad_row(i) >> 8 * n & 1;
            sum[0][n][i] += product ? 0 : dh[n][i];
            slopes[n][i] = slope(slopes[n][i], p.activation);
          }
        }
      }

      warp.await_state(s, bytes);
      multiply<E>(sum, w, streamed, tiling.streamed, base + operand + s % 2 * state_bytes,
                  8 * state_row);
      splits.add_up(sum[0]);
      splits.sums += s % 2 ? -sums : sums;

      uint2 words[N][E::rows];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!splits.owns(n)) continue;
        activate_quad<E>(sum[0][n], slopes[n], dh[n], words[n], p);
#pragma unroll
        for (int i = 0; i < E::rows; ++i) {
          const bool on = chunk_bit(active, n, i);
          const uint2 kept = backward ? uint2{0, 0} : h[n][i];
          words[n][i].x = on ? words[n][i].x & real_units.x : kept.x;
          words[n][i].y = on ? words[n][i].y & real_units.y : kept.y;
          if (!backward) h[n][i] = words[n][i];
        }
      }
      if (backward && s == steps) break;
      was_active = active;

      const auto send = [&](auto store) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
          if (!splits.owns(n)) continue;
#pragma unroll
          for (int i = 0; i < E::rows; ++i) {
            if (!chunk_bit(real_rows, n, i)) continue;
            uint2 chunk = words[n][i];
            if constexpr (has_resets<D>) chunk = chunk_bit(cut, n, i) ? uint2{0, 0} : chunk;
            store((8 * n + i) * state_row, E::operand(chunk));
          }
        }
      };
      const uint32_t barrier = base + (s + 1) % 2 * 8;
      const uint32_t to = destination + (s + 1) % 2 * state_bytes;
      if (!backward && s + 1 == steps) {
        // Nobody needs it.
      } else if (blocks == 1) {
        send([&](int at, uint2 chunk) { *reinterpret_cast<uint2*>(shared + to + at) = chunk; });
      } else {
        send([&](int at, uint2 chunk) {
#pragma unroll
          for (int i = 0; i < 16; ++i) {  // each block another one first
            if (i % 2 == 0 && i >= blocks) break;
            ptx::store_async(ptx::peer_address(base + to + at, rank ^ i),
                             ptx::peer_address(barrier, rank ^ i), chunk);
          }
        });
      }

      warp.store_rows(splits, result, place, active, words);
      read_ahead(s + AHEAD, place_ahead);
    }
    ptx::copy_wait<0>();

#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!splits.owns(n)) continue;
      if (backward) E::to_chunks(dh[n], h[n]);
#pragma unroll
      for (int i = 0; i < E::rows; ++i) {
        if (!chunk_bit(real_rows, n, i)) continue;
        store_chunk<E>(row(left, 0, n, i), unit, H, aligned, h[n][i]);
        if (p.offsets) continue;
#pragma unroll 1
        for (int t = steps; t < p.T; ++t) {
          store_chunk<E>(row(result, t * p.B * row_bytes, n, i), unit, H, aligned, {0, 0});
        }
      }
    }
  }
  ptx::cluster_barrier();
#endif
}

template <class E, class D, int RESIDENT, int N>
void launch_cluster_kernel(const D& p, const Tiling& tiling, Stream stream) {
  if constexpr (cluster_compiled(mode_of<E>, RESIDENT, N)) {
    constexpr int size = sizeof(typename E::Storage);
    constexpr auto direction = is_backward<D> ? Direction::backward : Direction::forward;
    const ClusterLayout layout(tiling, size, direction);
    const int64_t grid = p.G * ((p.B + tiling.rows - 1) / tiling.rows) * tiling.blocks;
    if (grid > INT_MAX) throw std::runtime_error("too many batch rows and groups");
    Launch shape{dim3(static_cast<unsigned>(grid)), tiling.m_tiles * tiling.splits * 32};
    shape.cluster = tiling.blocks;
    shape.shared = layout.end;
    launch(cluster_kernel<E, D, RESIDENT, N>, shape, stream, p, tiling, layout,
           alignment_of(p, p.H * size));
  } else {
    throw std::runtime_error("the cluster kernel has no such instance");
  }
}

template <class E, class D>
void launch_cluster(const D& p, const Plan& plan, Stream stream) {
  if (p.B == 0 || p.G == 0) return;
  if (p.T >= INT_MAX) throw std::runtime_error("too many steps");
  const Tiling& t = plan.tiling;
  const int64_t units = (p.H + 15) / 16, depth = (p.H * sizeof(typename E::Storage) + 31) / 32;
  const bool holds = cluster_fits(mode_of<E>, t) && t.blocks <= units &&
                     int64_t{t.blocks} * t.m_tiles >= units && t.streamed % 2 == 0 &&
                     int64_t{t.splits} * (t.resident + t.streamed) >= depth;
  const auto with_rows = [&](auto resident) {
    constexpr int RESIDENT = decltype(resident)::value;
    switch (t.n_tiles()) {
      case 1: return launch_cluster_kernel<E, D, RESIDENT, 1>(p, t, stream);
      case 2: return launch_cluster_kernel<E, D, RESIDENT, 2>(p, t, stream);
      default: return launch_cluster_kernel<E, D, RESIDENT, 4>(p, t, stream);
    }
  };
  switch (holds ? t.resident : 0) {
    case 4: return with_rows(std::integral_constant<int, 4>());
    case 8: return with_rows(std::integral_constant<int, 8>());
    case 16: return with_rows(std::integral_constant<int, 16>());
    case 32: return with_rows(std::integral_constant<int, 32>());
  }
  throw std::runtime_error("the cluster kernel cannot be cut this way");
}

}  // namespace fastrnn::cuda
