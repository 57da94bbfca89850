// grid: a team of blocks shares the W_hh of a group for a tile of the batch, and meets in memory.
//
// A block owns M tiles of 16 units, its warps share out the depth of their product. A step of a
// warp is: read its share of the state, multiply it by its share of W_hh, which stays in registers
// and shared memory; then, all warps' sums added up, one warp for each tile of units and 8 batch
// rows activates them, and writes them where the other blocks read the next step's state.
//
// There is no barrier between blocks. `states` holds every step's state at a place of its own, and
// was filled with a word that no state holds. Each word is written once after that, and whoever
// needs it reads it until it is there. That is right because
//   - a word of 32 bits is never seen in halves, and all that is read is in the words themselves:
//     no order among them matters, so relaxed loads and stores, past the first-level cache, do;
//   - no place is used twice, so nobody has to know whether all have read it;
//   - a step waits for words of the step before alone, and all blocks of a team run at once: the
//     launch is cooperative.
// The state that a row begins with is read without waiting: it may hold anything.
#pragma once

#include <algorithm>
#include <climits>
#include <stdexcept>

#include "alignment.h"
#include "launchers.h"
#include "grid_warp.h"

namespace fastrnn::cuda {

template <class E, class D, int M, int RESIDENT>
__global__ void __launch_bounds__(most_threads<E, M * RESIDENT>, 1)
    grid_kernel(D p, Exchange exchange, int blocks, int streamed, int rows, int64_t first_tile,
                Access access) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Storage = typename E::Storage;
  using Warp = GridWarp<E, D, M, RESIDENT>;
  constexpr int PIECES = Warp::PIECES, CHAINS = Warp::CHAINS;

  const Warp self{p, exchange, blocks, streamed, rows, first_tile};
  const int warp = self.warp, splits = self.splits, n_tiles = self.n_tiles, rank = self.rank;
  const int pieces = self.pieces;
  const int64_t group = self.group, first_row = self.first_row;
  const Lane<E> lane = self.lane;

  DYNAMIC_SHARED(shared);
  float4* const sums = reinterpret_cast<float4*>(shared);  // [2][n_tiles][M][splits][32]
  const int sums_size = n_tiles * M * splits * 32;
  uint4* const weights =  // [streamed][M][32] of this warp
      reinterpret_cast<uint4*>(sums + 2 * sums_size) + warp * streamed * M * 32 + threadIdx.x % 32;
  auto* const all_kept = reinterpret_cast<Kept<E, D>*>(
      shared + 16 * (2 * sums_size + splits * streamed * M * 32));
  auto* const kept = all_kept + threadIdx.x;
  static_assert(sizeof(Kept<E, D>) <= 64);  // as grid_shared_bytes has it
  int* const lengths = reinterpret_cast<int*>(all_kept + blockDim.x);  // [rows]
  const int steps = self.load_lengths(lengths);
  const Order order = order_of(p, group, steps);

  uint32_t w[M][RESIDENT][4];
  const auto* weight_hh = static_cast<const Storage*>(p.weight_hh) + group * p.H * p.H;
  const auto load_piece = [&](uint32_t(&to)[2][4], int m, int c) {
    load_weights<E, is_backward<D>>(to, weight_hh, p.H, (rank * M + m) * 16,
                                    int64_t{warp} * pieces + c, lane, access);
  };
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int c = 0; c < RESIDENT / 2; ++c) {
      load_piece(reinterpret_cast<uint32_t(&)[2][4]>(w[m][2 * c]), m, c);
    }
    for (int c = 0; c < streamed / 2; ++c) {
      uint32_t piece[2][4];
      load_piece(piece, m, RESIDENT / 2 + c);
#pragma unroll
      for (int i = 0; i < 2; ++i) store_words(weights + ((2 * c + i) * M + m) * 32, piece[i]);
    }
  }

  // The warp's own tile of units and batch rows at the end of a step.
  self.keep_state_place(kept);
  const bool ends = warp < n_tiles * M;
  const int64_t own_row = first_row + 8 * (warp / M);
  Ending<E, D> ending(p, access, order, group, own_row, (rank * M + warp % M) * 16,
                      lengths + (ends ? 8 * (warp / M) : 0), lane);
  self.keep_own_place(kept, own_row, ending);
  if (ends) {
    ending.begin();
    fetch_inputs(kept, ending, order, order.time(0));
  }

  for (int t = order.time(0); is_backward<D> || t != order.end(); t = order.next(t)) {
    float4* const step_sums = sums + (t & 1) * sums_size;
    uint4 h[PIECES];
    auto row = self.locate(lengths, kept, order, 0, t);
    row.from = ptx::forget(row.from);
#pragma unroll
    for (int c = 0; c < PIECES; ++c) self.load(h, row, c);
    for (int n = 0; n < n_tiles; ++n) {
      self.await(h, row);

      const bool more = n + 1 < n_tiles;
      if (more) {
        row = self.locate(lengths, kept, order, n + 1, t);
        row.from = ptx::forget(row.from);
      }
      float sum[M][CHAINS][4] = {};
#pragma unroll
      for (int c = 0; c < PIECES; ++c) {
        if (c >= RESIDENT / 2 && c >= pieces) break;
#pragma unroll
        for (int m = 0; m < M; ++m) {
          multiply_piece<E>(sum[m], w[m], weights + m * 32, M * 32, h[c], c);
        }
        if (more) self.load(h, row, c);
      }
      self.store_sums(step_sums, sum, n);
    }
    // The sums' other half is next: who writes there has passed this barrier, and so has everyone
    // who read there.
    __syncthreads();
    if (ends) {
      float sum[4] = {};
      self.add_up(sum, step_sums);
      ending.place = kept->result;
      ending.unit = kept->unit;
      ending.finish(t, sum, kept->inputs, kept->cuts,
                    Publish<E, D>{exchange, kept, ending, t});
      if (t != order.end()) fetch_inputs(kept, ending, order, order.next(t));
    }
    if (t == order.end()) break;  // after what only backward has
  }
  if (!ends) return;
  for (int t = steps; t < p.T; ++t) ending.store_zeros(ending.result(), t);
#endif
}

// [rows, H] to rows of `width` elements, the rest 0.
template <class Storage>
__global__ void pad_kernel(const Storage* from, Storage* to, int64_t rows, int64_t H,
                           int64_t width) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * width; i += stride) {
    to[i] = i % width < H ? from[i / width * H + i % width] : Storage{};
  }
}

// The host's side. Where rows of the result are what the loads want, and it is not also an input,
// the blocks meet there; else in a workspace, h0 beside it.
inline bool meets_in_result(const Unbroken& p, int element_bytes) {
  return !p.offsets && p.H * element_bytes % 16 == 0;
}
template <class P> bool meets_in_result(const ForwardOf<P>& p, int element_bytes) {
  return meets_in_result(static_cast<const Unbroken&>(p), element_bytes) && p.out != p.pre &&
         at_multiples_of(16, p.out, p.h0);
}
template <class P> bool meets_in_result(const BackwardOf<P>& p, int element_bytes) {
  return meets_in_result(static_cast<const Unbroken&>(p), element_bytes) &&
         at_multiples_of(16, p.grad_pre);
}

inline int64_t padded_bytes(const Unbroken& p, int element_bytes) {  // of a row
  return (p.H * element_bytes + 15) / 16 * 16;
}

template <class D> int64_t grid_workspace_bytes(const D& p) {
  const int element_bytes = p.dtype == DType::float32 ? 4 : 2;
  if (meets_in_result(p, element_bytes)) return 0;
  return (p.T + !is_backward<D>) * p.B * p.G * padded_bytes(p, element_bytes);
}

inline Exchange exchange_at(const Unbroken& p, void* states, const void* initial, int element_bytes,
                            bool is_result) {
  const int64_t bytes = padded_bytes(p, element_bytes), row = p.G * bytes;
  return {states, initial, bytes / element_bytes, row, p.B * row, is_result};
}
template <class E, class P>
Exchange make_exchange(const ForwardOf<P>& p, void* workspace, Stream stream) {
  using Storage = typename E::Storage;
  constexpr int size = sizeof(Storage);
  if (meets_in_result(p, size)) return exchange_at(p, p.out, p.h0, size, true);
  Exchange exchange = exchange_at(p, workspace, nullptr, size, false);
  auto* const initial = static_cast<unsigned char*>(workspace) + p.T * exchange.step;
  exchange.initial = initial;
  const int64_t grid = std::min<int64_t>((exchange.step / size + 255) / 256, 1 << 16);
  launch(pad_kernel<Storage>, {dim3(static_cast<unsigned>(grid)), 256}, stream,
         static_cast<const Storage*>(p.h0), reinterpret_cast<Storage*>(initial), p.B * p.G, p.H,
         exchange.width);
  return exchange;
}
template <class E, class P>
Exchange make_exchange(const BackwardOf<P>& p, void* workspace, Stream) {
  constexpr int size = sizeof(typename E::Storage);
  const bool in_result = meets_in_result(p, size);
  return exchange_at(p, in_result ? p.grad_pre : workspace, nullptr, size, in_result);
}

template <class E, class D, int M, int RESIDENT>
void launch_grid_kernel(const D& p, const Plan& plan, void* workspace, Stream stream) {
  const auto kernel = grid_kernel<E, D, M, RESIDENT>;
  const Tiling& tiling = plan.tiling;
  const int64_t room = int64_t{processors()} *
                       blocks_per_processor(kernel, plan.threads, plan.shared) / tiling.blocks;
  const int64_t at_once = std::min(plan.at_once, room);
  if (at_once < 1) {
    throw std::runtime_error("the grid kernel needs " + std::to_string(tiling.blocks) +
                             " blocks at once, more than the device has room for");
  }
  const Exchange exchange = make_exchange<E>(p, workspace, stream);
  constexpr int size = sizeof(typename E::Storage);
  const Access access{p.G * p.H, p.B * p.G * p.H, p.H % E::chunk == 0 && chunks_are_aligned(p),
                      p.H * size % 16 == 0 && at_multiples_of(16, p.weight_hh)};
  if (p.T > 0) fill(exchange.states, 0xff, p.T * exchange.step, stream);
  for (int64_t tile = 0; tile < plan.tiles; tile += at_once) {
    const int64_t teams = std::min(at_once, plan.tiles - tile);
    Launch shape{dim3(static_cast<unsigned>(teams * tiling.blocks)), plan.threads};
    shape.shared = plan.shared;
    shape.cooperative = true;
    launch(kernel, shape, stream, p, exchange, tiling.blocks, tiling.streamed, tiling.rows, tile,
           access);
  }
}

template <class E, class D>
void launch_grid(const D& p, const Plan& plan, void* workspace, Stream stream) {
  if (p.B == 0 || p.G == 0) return;
  if (p.T >= INT_MAX) throw std::runtime_error("too many steps");
  const Tiling& tiling = plan.tiling;
  const int64_t units = (p.H + 15) / 16, depth = (p.H * sizeof(typename E::Storage) + 31) / 32;
  if (grid_fits(plan.mode, tiling) && int64_t{tiling.blocks} * tiling.m_tiles >= units &&
      int64_t{tiling.splits} * (tiling.resident + tiling.streamed) >= depth) {
    switch (100 * tiling.m_tiles + tiling.resident) {
      case 104: return launch_grid_kernel<E, D, 1, 4>(p, plan, workspace, stream);
      case 108: return launch_grid_kernel<E, D, 1, 8>(p, plan, workspace, stream);
      case 116: return launch_grid_kernel<E, D, 1, 16>(p, plan, workspace, stream);
      case 204: return launch_grid_kernel<E, D, 2, 4>(p, plan, workspace, stream);
      case 208: return launch_grid_kernel<E, D, 2, 8>(p, plan, workspace, stream);
    }
    if constexpr (E::approximate) {  // of what else grid_fits allows, float32 has nothing
      switch (100 * tiling.m_tiles + tiling.resident) {
        case 132: return launch_grid_kernel<E, D, 1, 32>(p, plan, workspace, stream);
        case 216: return launch_grid_kernel<E, D, 2, 16>(p, plan, workspace, stream);
      }
    }
  }
  throw std::runtime_error("the grid kernel cannot be cut this way");
}

}  // namespace fastrnn::cuda
