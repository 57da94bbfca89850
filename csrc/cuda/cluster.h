// cluster: a thread block cluster holds the W_hh of a group, for a tile of the batch, in registers
// and shared memory for the whole sequence.
//
// A block owns some tiles of 16 units. A warp owns one of them and a split of its K dimension. That
// part of W_hh stays in the warp's registers; what they cannot hold is in shared memory. In a step
// a warp waits for the state and multiplies it. The splits are then reduced, activated, and each
// chunk of the new state is sent to the shared memory of every block.
//
// The state is double-buffered: step s reads buffer s % 2 and sends to the other one. Each buffer
// has an mbarrier, whose phase completes when all bytes sent to the buffer have arrived. The loop
// has no barrier of a block or of the cluster, and needs none:
//   - A block knows that the whole state of a step has arrived. Its mbarrier expects the bytes of
//     all valid rows and units, which is what all blocks together send to it.
//   - No block overwrites a buffer that is still being read. Buffer s % 2, read in step s, is
//     written again in step s + 1. A writer has then waited for the state sent in step s. Every
//     tile of units of every block contributes to that state after its warps have read the buffer:
//     a warp sends what it computed from that read and from the sums that its tile's other warps
//     passed at their barrier.
//   - No byte arrives before it is expected. Thread 0 of a block, having waited for buffer s % 2,
//     expects the buffer's next bytes before it sends its own chunk of step s. Without that chunk
//     no other block begins step s + 1. (Thread 0 always has a chunk: every block owns a tile of
//     units.)
//   - The sums that the warps of a tile exchange are double-buffered too. A buffer read in step s
//     is written again in step s + 2, after the barrier of these warps in step s + 1.
// A cluster of one block stores its state with plain stores, and its warps synchronize at a
// barrier. Reads of one buffer and writes of the other precede the barrier; afterwards they swap.
//
// Rows end independently. The lanes that own an inactive row keep its state in registers. Forward
// sends the state again; backward sends zeros, whose product is zero, and adds the kept dh.
#pragma once

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <type_traits>

#include "alignment.h"
#include "bias.h"
#include "cluster_cells.h"
#include "launchers.h"

namespace fastrnn::cuda {

// From the accumulated products: forward, the new state; backward, dh and dz.
template <class E, class P>
__device__ void activate_acc(const float (&sum)[4], const float (&slopes)[4], float (&dh)[4],
                             uint2 (&words)[E::lane_chunks], const P& p) {
  float acc[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (is_backward<P>) {
      dh[i] = sum[i];
      acc[i] = gradient(sum[i], slopes[i], p.activation);
    } else {
      acc[i] = activate<E>(sum[i], p.activation);
    }
  }
  E::to_chunks(acc, words);
}

// RESIDENT k-steps of W_hh are in a warp's registers; N times 8 batch rows are computed.
template <class E, class P, int RESIDENT, int N>
__global__ void __launch_bounds__(cluster_max_threads<E, P, RESIDENT, N>, 1)
    cluster_kernel(P p, Tiling tiling, ClusterLayout layout, ClusterRows data) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  using Storage = typename E::Storage;
  constexpr bool backward = is_backward<P>;
  constexpr int INPUTS = backward ? 2 : 1, STAGES = cluster_stages(N);
  // Independent accumulators hide the latency of mma; registers limit their number.
  constexpr bool few_registers =
      backward && has_resets<P> && cluster_max_threads<E, P, RESIDENT, N> == 512;
  constexpr int CHAINS = (few_registers ? 2 : 4) / N;
  constexpr int size = sizeof(Storage);

  DYNAMIC_SHARED(shared);
  const ClusterWarp<E, P, RESIDENT, N> warp{p, tiling, layout, data, shared};
  const auto lane = warp.lane;
  const uint32_t base = warp.base;
  const int lane_index = warp.lane_index, blocks = warp.blocks, rank = warp.rank;
  const int m_tile = warp.m_tile, split = warp.split, H = warp.H, unit = warp.unit;
  const int first_k = warp.first_k;
  const int group = warp.group, first_row = warp.first_row, rows = warp.rows;
  const int length = warp.length, steps = warp.steps;
  const uint2 valid_units = warp.valid_units;
  const bool descending = warp.descending;
  const auto time = [&](int s) { return warp.time(s); };
  const bool aligned = warp.aligned;
  const int64_t& row_bytes = warp.row_bytes;
  const uint32_t valid_rows = warp.valid_rows;
  const auto active_rows = [&](int t) { return warp.active_rows(t); };
  const auto chunk_bit = [&](uint32_t mask, int n, int i) { return warp.chunk_bit(mask, n, i); };
  const auto row = [&](const void* tensor, int64_t step, int n, int i) {
    return warp.row(tensor, step, n, i);
  };
  const auto step_offset = [&](int t) { return warp.step_offset(t); };

  [[maybe_unused]] uint32_t reset_rows = 0;  // bit b: row b is reset at the next step
  [[maybe_unused]] bool lane_resets;  // whether the lane's row is reset at the step after that
  if constexpr (has_resets<P>) {
    reset_rows =
        __ballot_sync(~0u, crosses_reset(p, time(0), first_row + lane_index, descending, length));
    lane_resets = crosses_reset(p, time(1), first_row + lane_index, descending, length);
  }

  const int state_row_bytes = static_cast<int>(layout.state_row_bytes),
            state_bytes = 8 * N * state_row_bytes;
  warp.load_initial_state(reset_rows);
  const int bytes = rows * ((H + E::chunk_units - 1) / E::chunk_units) * 8;  // of a state
  warp.init_mbarriers(bytes);
  ptx::barrier_cluster();

  if (warp.has_units()) {
    const Storage* const weight_hh = p.template weight_of<Storage>(group, p.H * p.H);
    uint4* const streamed = reinterpret_cast<uint4*>(shared + layout.weights) +
                            warp.warp * tiling.streamed * 32 + lane_index;
    uint32_t w[1][RESIDENT][4];
    load_weights<E, P>(w[0], streamed, tiling.streamed, weight_hh, H, warp.first_unit, first_k,
                       lane, warp.alignment);
    const int sums_size = N * (tiling.splits - 1) * 32;  // of a tile
    SplitK split_k{
        tiling.splits, split, warp.n_tiles, 1 + m_tile,
        reinterpret_cast<float4*>(shared + layout.sums) + 2 * m_tile * sums_size + lane_index};

    const void *inputs[INPUTS], *initial;
    void *result, *final_state;
    if constexpr (backward) {
      inputs[0] = p.grad_out, inputs[1] = p.out, initial = p.grad_h_n;
      result = p.grad_pre, final_state = p.grad_h0;
    } else {
      inputs[0] = p.pre, initial = p.h0;
      result = p.out, final_state = p.h_n;
    }

    Bias<E, P> bias;
    bias.load(p, group, warp.first_unit, lane);

    // The lane's part of its rows: forward, their state; backward, dh.
    uint2 h[N][E::lane_chunks] = {};
    float dh[N][4] = {};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!split_k.owns(n)) continue;
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (!initial || !chunk_bit(valid_rows, n, i)) continue;
        h[n][i] = load_chunk<E>(warp.state_row(initial, n, i), unit, H, aligned);
      }
      if (backward) E::to_acc(h[n], dh[n]);
    }

    unsigned char* const staged = shared + layout.stages +
                                  m_tile * N * E::lane_chunks * INPUTS * STAGES * 256 +
                                  lane_index * 8;
    const auto slot = [&](int s, int n, int i, int j) {
      return staged + s % STAGES * 256 + ((n * E::lane_chunks + i) * INPUTS + j) * STAGES * 256;
    };
    const auto prefetch = [&](int s, int64_t offset) {
      const uint32_t active = active_rows(time(s));
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!split_k.owns(n)) continue;
#pragma unroll
        for (int i = 0; i < E::lane_chunks; ++i) {
          const bool is_active = chunk_bit(active, n, i);
#pragma unroll
          for (int j = 0; j < INPUTS; ++j) {
            cp_async_chunk<E>(slot(s, n, i, j), row(inputs[j], offset, n, i), unit, H,
                              warp.alignment, is_active);
          }
        }
      }
      ptx::cp_async_commit();
    };
#pragma unroll 1
    for (int s = 0; s < STAGES; ++s) prefetch(s, step_offset(time(s)));

    // The lane's row address for ldmatrix, and the destination of its chunks.
    const uint32_t operand = static_cast<uint32_t>(layout.state) +
                             lane_index % 8 * state_row_bytes + first_k * 32 + lane_index / 8 * 16;
    const uint32_t destination =
        static_cast<uint32_t>(layout.state) + lane.chunk_row(0) * state_row_bytes + unit * size;

    uint32_t was_active = 0;  // in the step before
#pragma unroll 1
    for (int s = 0;; ++s) {
      if (!backward && s == steps) break;
      const int64_t offset = step_offset(time(s)), prefetch_offset = step_offset(time(s + STAGES));
      const uint32_t active = active_rows(time(s));
      if constexpr (has_resets<P>) {
        reset_rows = __ballot_sync(~0u, lane_resets);
        lane_resets = crosses_reset(p, time(s + 2), first_row + lane_index, descending, length);
      }

      float sums[1][CHAINS][N][4] = {}, slopes[N][4];
      float (&sum)[N][4] = sums[0][0];
      ptx::cp_async_wait<STAGES - 1>();
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!split_k.owns(n)) continue;
        uint2 chunks[INPUTS][E::lane_chunks];
#pragma unroll
        for (int j = 0; j < INPUTS; ++j) {
#pragma unroll
          for (int i = 0; i < E::lane_chunks; ++i) {
            chunks[j][i] = *reinterpret_cast<const uint2*>(slot(s, n, i, j));
          }
        }
        E::to_acc(chunks[0], sum[n]);
        bias.add(0, sum[n]);
        if constexpr (backward) {
          E::to_acc(chunks[1], slopes[n]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[n][i] = data.has_grad_out ? sum[n][i] : 0;
            const bool product = was_active >> lane.acc_row(i) >> 8 * n & 1;
            sum[n][i] += product ? 0 : dh[n][i];
            slopes[n][i] = slope(slopes[n][i], p.activation);
          }
        }
      }

      warp.wait_for_state(s, bytes);
      mma_tiles<E>(sums, w, streamed, tiling.streamed, base + operand + s % 2 * state_bytes,
                   8 * state_row_bytes);
      split_k.reduce(sums);
      split_k.sums += s % 2 ? -sums_size : sums_size;

      uint2 words[N][E::lane_chunks];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (!split_k.owns(n)) continue;
        activate_acc<E>(sum[n], slopes[n], dh[n], words[n], p);
#pragma unroll
        for (int i = 0; i < E::lane_chunks; ++i) {
          const bool is_active = chunk_bit(active, n, i);
          const uint2 inactive = backward ? uint2{0, 0} : h[n][i];
          words[n][i].x = is_active ? words[n][i].x & valid_units.x : inactive.x;
          words[n][i].y = is_active ? words[n][i].y & valid_units.y : inactive.y;
          if (!backward) h[n][i] = words[n][i];
        }
      }
      if (backward && s == steps) break;
      was_active = active;

      const auto send = [&](auto store) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
          if (!split_k.owns(n)) continue;
#pragma unroll
          for (int i = 0; i < E::lane_chunks; ++i) {
            if (!chunk_bit(valid_rows, n, i)) continue;
            uint2 chunk = words[n][i];
            if constexpr (has_resets<P>) chunk = chunk_bit(reset_rows, n, i) ? uint2{0, 0} : chunk;
            store((8 * n + i) * state_row_bytes, E::operand(chunk));
          }
        }
      };
      const uint32_t barrier = base + (s + 1) % 2 * 8;
      const uint32_t to = destination + (s + 1) % 2 * state_bytes;
      if (!backward && s + 1 == steps) {
        // No step reads the last state.
      } else if (blocks == 1) {
        send([&](int at, uint2 chunk) { *reinterpret_cast<uint2*>(shared + to + at) = chunk; });
      } else {
        send([&](int at, uint2 chunk) {
#pragma unroll
          for (int i = 0; i < 16; ++i) {  // each block starts with a different peer
            if (i % 2 == 0 && i >= blocks) break;
            ptx::st_async(ptx::mapa(base + to + at, rank ^ i), ptx::mapa(barrier, rank ^ i), chunk);
          }
        });
      }

      warp.store_rows(split_k, result, offset, active, words);
      prefetch(s + STAGES, prefetch_offset);
    }
    ptx::cp_async_wait<0>();

#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!split_k.owns(n)) continue;
      if (backward) E::to_chunks(dh[n], h[n]);
#pragma unroll
      for (int i = 0; i < E::lane_chunks; ++i) {
        if (!chunk_bit(valid_rows, n, i)) continue;
        store_chunk<E>(warp.state_row(final_state, n, i), unit, H, aligned, h[n][i]);
        if (p.offsets) continue;
#pragma unroll 1
        for (int t = steps; t < p.T; ++t) {
          store_chunk<E>(row(result, t * p.B * row_bytes, n, i), unit, H, aligned, {0, 0});
        }
      }
    }
  }
  ptx::barrier_cluster();
#endif
}

// The most inputs of the projections of a stack's layers.
template <class P> int64_t most_inputs(const LayersOf<P>& layers, int count, int element_bytes) {
  const int64_t of_later = exchanged_units(layers.of[0], element_bytes);
  if constexpr (is_backward<P>) {
    return of_later;
  } else {
    const int64_t I = layers.of[0].projection.I;
    return count > 1 ? std::max(I, of_later) : I;
  }
}

template <class E, class Arguments, int RESIDENT, int N>
void launch_cluster_kernel(Arguments arguments, const Tiling& tiling, Stream stream) {
  using P = typename LayerOf<Arguments>::P;
  [[maybe_unused]] const P& p = LayerOf<Arguments>::get(arguments, 0);
  if constexpr (cluster_compiled(mode_of<E>, RESIDENT, N, pass_of<P>, traits_of<P>, projects<P>)) {
    constexpr int size = sizeof(typename E::Storage);
    int x_k_steps = 0, input_alignment = 0;
    if constexpr (projects<P>) {
      x_k_steps = input_k_steps(most_inputs(arguments, tiling.layers, size), size);
      input_alignment = cuda::input_alignment(arguments, size);
    }
    const ClusterLayout layout(tiling, size, pass_of<P>, traits_of<P>, x_k_steps);
    const int64_t grid =
        p.G * ((p.B + tiling.rows - 1) / tiling.rows) * tiling.blocks * tiling.layers;
    if (grid > INT_MAX) throw std::runtime_error("too many batch rows and groups");
    Launch shape{dim3(static_cast<unsigned>(grid)), tiling.m_tiles * tiling.splits * 32};
    shape.cluster = tiling.blocks * tiling.layers;
    shape.shared = layout.end;
    const auto kernel = [] {
      if constexpr (saves_gates<P>) {
        return cluster_cell_kernel<E, Arguments, RESIDENT, N>;
      } else {
        return cluster_kernel<E, P, RESIDENT, N>;
      }
    }();
    ClusterRows data{p.G * p.H * size, alignment_of(arguments, p.H * size), input_alignment, true};
    if constexpr (is_backward<P> && !saves_gates<P>) {
      // The kernel reads another tensor in its place: a check of each load would take many
      // instructions of the loop.
      data.has_grad_out = arguments.grad_out != nullptr;
      if (!arguments.grad_out) arguments.grad_out = arguments.out;
    }
    launch(kernel, shape, stream, arguments, tiling, layout, data);
  } else {
    throw std::runtime_error("the cluster kernel has no such instance");
  }
}

template <class E, class Arguments>
void launch_cluster(const Arguments& arguments, const Plan& plan, Stream stream) {
  using P = typename LayerOf<Arguments>::P;
  const P& p = LayerOf<Arguments>::get(arguments, 0);
  if (p.B == 0 || p.G == 0) return;
  if (p.T >= INT_MAX) throw std::runtime_error("too many steps");
  const Tiling& t = plan.tiling;
  constexpr int size = sizeof(typename E::Storage);
  const int64_t units = (p.H + 15) / 16, depth = (exchanged_units(p, size) * size + 31) / 32;
  const bool holds = cluster_fits(mode_of<E>, t, pass_of<P>, traits_of<P>, projects<P>) &&
                     t.blocks <= units && t.layers <= most_stacked &&
                     int64_t{t.blocks} * t.m_tiles >= units && t.streamed % 2 == 0 &&
                     int64_t{t.splits} * (t.resident + t.streamed) >= depth;
  const auto with_rows = [&](auto resident) {
    constexpr int RESIDENT = decltype(resident)::value;
    if constexpr (projects<P>) {
      return launch_cluster_kernel<E, Arguments, RESIDENT, 1>(arguments, t, stream);
    } else {
      switch (t.n_tiles()) {
        case 1: return launch_cluster_kernel<E, Arguments, RESIDENT, 1>(arguments, t, stream);
        case 2: return launch_cluster_kernel<E, Arguments, RESIDENT, 2>(arguments, t, stream);
        default: return launch_cluster_kernel<E, Arguments, RESIDENT, 4>(arguments, t, stream);
      }
    }
  };
  switch (holds ? t.resident : 0) {
    case 4: return with_rows(std::integral_constant<int, 4>());
    case 8: return with_rows(std::integral_constant<int, 8>());
    case 16: return with_rows(std::integral_constant<int, 16>());
    case 32: return with_rows(std::integral_constant<int, 32>());
  }
  throw std::runtime_error("the cluster kernel does not support this tiling");
}

}  // namespace fastrnn::cuda
