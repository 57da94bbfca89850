// What the step kernels with tensor cores and without share: the tile of a block, the state that a
// row multiplies, and a cell's memory between launches.
#pragma once

#include "cell_epilogue.h"
#include "plan.h"

namespace fastrnn::cuda {

constexpr int step_warps = 8, step_threads = 32 * step_warps;

// The tile of a block.
struct StepTile {
  int64_t group, first_row;
  int first_unit, t, launch;
  TimeOrder order;
};

template <class P> __device__ StepTile step_tile(const P& p, int i, int rows) {
  const int tiles_of_units = (p.H + 15) / 16, tiles_of_rows = (p.B + rows - 1) / rows;
  const int block = blockIdx.x, tile = block / tiles_of_units, group = tile / tiles_of_rows;
  const TimeOrder order = time_order(p, group, static_cast<int>(p.T));
  const int64_t first_row = int64_t{tile % tiles_of_rows} * rows;
  return {group, first_row, block % tiles_of_units * 16, order.time(i), i, order};
}

// A cell's memory between launches: what each thread keeps, and dz of two launches in turn.
constexpr int64_t step_kept_bytes = 32 * step_threads;  // of a block

template <class Kept, class P> __device__ Kept* step_kept(const P& p) {
  return reinterpret_cast<Kept*>(p.workspace + blockIdx.x * step_kept_bytes);
}
template <class E, class P>
__device__ typename E::Storage* step_dz(const P& p, int launch, int64_t b, int64_t group) {
  auto* const dz =
      reinterpret_cast<typename E::Storage*>(p.workspace + gridDim.x * step_kept_bytes);
  return dz +
         (((launch & 1) * p.B + b) * p.G + group) * exchanged_units(p, sizeof(typename E::Storage));
}

// The number of units that a row multiplies: of h, or of dz.
template <class E, class P> FASTRNN_HOST_DEVICE int64_t step_depth(const P& p) {
  if constexpr (saves_gates<P> && is_backward<P>)
    return exchanged_units(p, sizeof(typename E::Storage));
  return p.H;
}

// The state that row b multiplies at t; null if it multiplies none.
template <class E, class Base>
__device__ const typename E::Storage* state_row(const ForwardParams<Base>& p, const StepTile& tile,
                                                int64_t b, int length) {
  using Storage = typename E::Storage;
  if (tile.t >= length) return nullptr;
  const int previous = tile.order.previous(tile.t, length);
  if (previous < 0)
    return p.h0 ? static_cast<const Storage*>(p.h0) + p.state_at(b, tile.group) : nullptr;
  return static_cast<const Storage*>(p.out) + p.at(previous, b, tile.group);
}
template <class E, class Base>
__device__ const typename E::Storage* state_row(const BackwardParams<Base>& p, const StepTile& tile,
                                                int64_t b, int length) {
  const int previous = tile.order.previous(tile.t, length);
  if (previous < 0 || (tile.t >= length && tile.t != tile.order.end())) return nullptr;
  return static_cast<const typename E::Storage*>(p.grad_pre) + p.at(previous, b, tile.group);
}
template <class E, class C>
__device__ const typename E::Storage* state_row(const CellForwardOf<C>& p, const StepTile& tile,
                                                int64_t b, int length) {
  if (crosses_reset(p, tile.t, b, tile.order.descending, length)) {
    const auto* const start = static_cast<const typename E::Storage*>(p.reset_h);
    return start ? start + p.state_at(b, tile.group) : nullptr;
  }
  return state_row<E>(static_cast<const Forward&>(p), tile, b, length);
}
template <class E, class C>
__device__ const typename E::Storage* state_row(const CellBackwardOf<C>& p, const StepTile& tile,
                                                int64_t b, int length) {
  // A row multiplies dz once, in the launch after the one that wrote it, even if it has ended.
  const int previous = tile.order.time(tile.launch - 1);
  if (tile.launch == 0 || previous < 0 || previous >= length) return nullptr;
  return step_dz<E>(p, tile.launch - 1, b, tile.group);
}

}  // namespace fastrnn::cuda
