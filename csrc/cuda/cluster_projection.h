// The input projection of a layer inside the cluster kernel: W_ih x_t for a warp's tile of units and
// 8 batch rows, computed while the state of the step is under way. In backward it is the gradient of
// the output of a stack's layer, from those of the layer above: W_ih^T dpre.
#pragma once

#include "cluster_warp.h"

namespace fastrnn::cuda {

// W_ih is in shared memory, as the lane's fragments. Rows of x are copied there some steps ahead, by
// all lanes of the warp that multiplies them. Later layers of a stack receive theirs.
template <class E, class P, class Warp> struct ClusterProjection {
  using Storage = typename E::Storage;
  static constexpr int TILES = gate_tiles_of<P>, STAGES = cluster_stages(1), chunk_bytes = 8;
  static constexpr int k_step = 8 * E::word_values;  // elements

  const Warp& warp;
  const P& p;
  const int k_steps = input_k_steps(inputs(), sizeof(Storage));
  // Of the layer with the most inputs.
  const int row_bytes = input_row_bytes(warp.layout.x_k_steps);
  unsigned char* const rows;  // [STAGES][8][row_bytes]
  uint4* const weights;       // [k_steps][TILES][32], this lane's

  // `shared`: of the warp's tile, first the rows; `weights`: this lane's.
  __device__ ClusterProjection(const Warp& warp, unsigned char* shared, unsigned char* weights)
      : warp(warp), p(warp.p), rows(shared), weights(reinterpret_cast<uint4*>(weights)) {}

  __device__ int64_t inputs() const {
    if constexpr (is_backward<P>) {
      return exchanged_units(p, sizeof(Storage));
    } else {
      return p.projection.I;
    }
  }

  __device__ void load_weights() const {
    if constexpr (is_backward<P>) {
      const auto* const weight_ih = static_cast<const Storage*>(p.weight_ih_above);
#pragma unroll 1
      for (int k = 0; k < k_steps; ++k) {
        uint32_t w[4];
        load_fragment<E, P>(w, weight_ih, p.H, warp.first_unit, k * k_step, warp.lane,
                            warp.data.input_alignment);
        weights[k * 32] = {w[0], w[1], w[2], w[3]};
      }
    } else {
      load_forward_weights();
    }
  }
  __device__ void load_forward_weights() const {
    constexpr int K = TILES;
    const bool second = warp.group >= p.heads;
    const int64_t I = p.projection.I, head = warp.group - second * p.heads;
    const auto* const weight_ih =
        static_cast<const Storage*>(second ? p.projection.weight_ih[1] : p.projection.weight_ih[0]);
#pragma unroll 1
    for (int k = 0; k < k_steps * K; ++k) {
      const int64_t first = ((k % K) * p.heads + head) * p.H + warp.first_unit;  // row of W_ih
      uint32_t w[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int unit = i % 2 ? warp.lane.second_unit() : warp.lane.first_unit();
        const int column = k / K * k_step + i / 2 * (k_step / 2) + E::word_values * warp.lane.q;
        w[i] = load_word<E>(weight_ih + (first + unit) * I, warp.first_unit + unit < warp.H, column,
                            I, warp.data.input_alignment >= 4);
      }
      weights[k * 32] = {w[0], w[1], w[2], w[3]};
    }
  }

  // Copies x of step s: of active rows, and zeros in the others.
  __device__ void prefetch(int s, uint32_t active) const {
    const int t = warp.time(s);
    const bool inside = 0 <= t && t < warp.steps;
    const int64_t step = p.offsets ? (inside ? p.offsets[t] : 0) * p.projection.row
                                   : (inside ? t : 0) * p.projection.step;
    const auto* const x =
        static_cast<const Storage*>(p.projection.input) + step + warp.first_row * p.projection.row;
    const int chunks = k_steps * 32 / chunk_bytes;  // of a row
#pragma unroll 1
    for (int i = warp.lane_index; i < 8 * chunks; i += 32) {
      const int b = i / chunks, chunk = i % chunks;
      cp_async_chunk<E>(rows + (s % STAGES * 8 + b) * row_bytes + chunk * chunk_bytes,
                        x + b * p.projection.row, chunk * E::chunk_units, p.projection.I,
                        warp.data.input_alignment, active >> b & 1);
    }
  }

  // The products of step s, once the lane's copies have arrived.
  __device__ void multiply(int s, float (&products)[TILES][1][4]) const {
    __syncwarp();  // for the other lanes' copies
    const uint32_t first = ptx::cvta_shared(rows) +
                           (s % STAGES * 8 + warp.lane_index % 8) * row_bytes +
                           warp.lane_index / 8 * 16;
#pragma unroll 1
    for (int k = 0; k < k_steps; k += 2) {
      uint32_t words[4];
      ptx::ldmatrix(words, first + k * 32);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint2 operand = E::operand({words[2 * i], words[2 * i + 1]});
        const uint32_t x[1][2] = {{operand.x, operand.y}};
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
          const uint4 w = weights[((k + i) * TILES + m) * 32];
          E::mma(products[m], {w.x, w.y, w.z, w.w}, x);
        }
      }
    }
  }
};

}  // namespace fastrnn::cuda
