// grid: a team of blocks divides the W_hh of a group, for a tile of the batch, and exchanges the
// state through global memory.
//
// A block owns M tiles of 16 units; its warps split the K dimension. W_hh stays in registers and
// shared memory. In a step a warp loads its part of the state and multiplies it by its part of
// W_hh. The sums of all warps are then reduced. One warp for each tile of units and 8 batch rows
// activates them and stores the result, from which the other blocks read the next step's state.
//
// There is no barrier between blocks. `states` has separate memory for every step's state, filled
// with a sentinel word that no state contains. Each word is written once after that, and its
// readers poll it until it is no longer the sentinel. This is correct because:
//   - A 32-bit word is never torn, and each word carries all the information that is read. No order
//     between words matters, so relaxed loads and stores that bypass L1 suffice.
//   - No memory is written twice, so no block has to know whether all others have read it.
//   - A step waits only for words of the step before, and all blocks of a team are resident, since
//     the launch is cooperative.
// The initial state is read without polling: it may contain any bits.
#pragma once

#include <algorithm>
#include <climits>
#include <stdexcept>

#include "alignment.h"
#include "grid_warp.h"
#include "launchers.h"

namespace fastrnn::cuda {

template <class E, class P, int M, int RESIDENT>
__global__ void __launch_bounds__(grid_max_threads<E, P, M, RESIDENT>, 1)
    grid_kernel(P p, StateExchange exchange, int blocks, int streamed, int rows, int64_t first_tile,
                TensorLayout layout) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Storage = typename E::Storage;
  using Warp = GridWarp<E, P, M, RESIDENT>;
  constexpr int K_TILES = Warp::K_TILES, CHAINS = Warp::CHAINS, TILES = Warp::TILES;

  const Warp self{p, exchange, blocks, streamed, rows, first_tile};
  const int warp = self.warp, splits = self.splits, n_tiles = self.n_tiles, rank = self.rank;
  const int k_tiles = self.k_tiles;
  const int64_t group = self.group, first_row = self.first_row;
  const Lane<E> lane = self.lane;

  DYNAMIC_SHARED(shared);
  float4* const sums = reinterpret_cast<float4*>(shared);  // [2][n_tiles][TILES][splits][32]
  const int sums_size = n_tiles * TILES * splits * 32;
  uint4* const weights =  // [streamed][TILES][32] of this warp
      reinterpret_cast<uint4*>(sums + 2 * sums_size) + warp * streamed * TILES * 32 +
      threadIdx.x % 32;
  auto* const lane_states = reinterpret_cast<LaneState<E, P>*>(
      shared + 16 * (2 * sums_size + splits * streamed * TILES * 32));
  auto* const lane_state = lane_states + threadIdx.x;
  static_assert(sizeof(LaneState<E, P>) <= grid_lane_bytes);
  using Inputs = typename Epilogue<E, P>::Inputs;
  auto* const cell_inputs = reinterpret_cast<Inputs*>(lane_states + blockDim.x);
  const auto inputs = [&]() -> Inputs& {
    if constexpr (saves_gates<P>) {
      return cell_inputs[threadIdx.x];
    } else {
      return lane_state->inputs;
    }
  };
  static_assert(!saves_gates<P> || sizeof(Inputs) <= grid_inputs_bytes<E, P>);
  const int cell_bytes = saves_gates<P> ? n_tiles * M * 32 * int(sizeof(Inputs)) : 0;
  int* const lengths =  // [rows]
      reinterpret_cast<int*>(reinterpret_cast<unsigned char*>(cell_inputs) + cell_bytes);
  const int steps = self.load_lengths(lengths);
  const TimeOrder order = time_order(p, group, steps);

  uint32_t w[TILES][RESIDENT][4];
  const auto* weight_hh = p.template weight_of<Storage>(group, gates_of<P> * p.H * p.H);
  const auto load_k_tile = [&](uint32_t (&to)[2][4], int m, int c) {
    constexpr int K = gate_tiles_of<P>;
    load_weights<E, P>(to, weight_hh + m % K * p.H * p.H, p.H, (rank * M + m / K) * 16,
                       int64_t{warp} * k_tiles + c, lane, layout);
  };
#pragma unroll
  for (int m = 0; m < TILES; ++m) {
#pragma unroll
    for (int c = 0; c < RESIDENT / 2; ++c) {
      load_k_tile(reinterpret_cast<uint32_t (&)[2][4]>(w[m][2 * c]), m, c);
    }
    for (int c = 0; c < streamed / 2; ++c) {
      uint32_t k_tile[2][4];
      load_k_tile(k_tile, m, RESIDENT / 2 + c);
#pragma unroll
      for (int i = 0; i < 2; ++i) store_words(weights + ((2 * c + i) * TILES + m) * 32, k_tile[i]);
    }
  }

  // The tile of units and batch rows of this warp's epilogue.
  self.locate_state(lane_state);
  const bool has_epilogue = warp < n_tiles * M;
  const int64_t own_row = first_row + 8 * (warp / M);
  Epilogue<E, P> epilogue(p, layout, order, group, own_row, (rank * M + warp % M) * 16,
                          lengths + (has_epilogue ? 8 * (warp / M) : 0), lane,
                          &lane_state->result_state);
  self.locate_tile(lane_state, own_row, epilogue);
  if (has_epilogue) {
    epilogue.load_biases(inputs());
    epilogue.begin(inputs());
    load_inputs(lane_state, inputs(), epilogue, order, order.time(0));
  }
  uint32_t starts = self.resets_of(lengths, order, order.time(0));

  for (int t = order.time(0); is_backward<P> || t != order.end(); t = order.next(t)) {
    float4* const step_sums = sums + (t & 1) * sums_size;
    uint4 h[K_TILES];
    auto row = self.state_row(lengths, lane_state, order, 0, t, starts);
    row.from = ptx::opaque(row.from);
#pragma unroll
    for (int c = 0; c < K_TILES; ++c) self.load(h, row, c);
    const uint32_t next_starts = self.resets_of(lengths, order, order.next(t));
    for (int n = 0; n < n_tiles; ++n) {
      self.wait_for_state(h, row);

      const bool more = n + 1 < n_tiles;
      if (more) {
        row = self.state_row(lengths, lane_state, order, n + 1, t, starts);
        row.from = ptx::opaque(row.from);
      }
      float sum[TILES][CHAINS][4] = {};
#pragma unroll
      for (int c = 0; c < K_TILES; ++c) {
        if (c >= RESIDENT / 2 && c >= k_tiles) break;
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
          mma_k_tile<E>(sum[m], w[m], weights + m * 32, TILES * 32, h[c], c);
        }
        if (more) self.load(h, row, c);
      }
      self.store_sums(step_sums, sum, n);
    }
    // The sums are double-buffered: a warp that writes the other buffer next has passed this
    // barrier, and so has every warp that read it.
    __syncthreads();
    if (has_epilogue) {
      float sum[TILES / M][4] = {};
      self.reduce_sums(sum, step_sums);
      epilogue.offset = lane_state->result_offset;
      epilogue.unit = lane_state->unit;
      epilogue.finish(t, sum, inputs(), lane_state->resets,
                      Publish<E, P>{exchange, lane_state, epilogue, t});
      if (t != order.end()) load_inputs(lane_state, inputs(), epilogue, order, order.next(t));
    }
    starts = next_starts;
    if (t == order.end()) break;  // backward only
  }
  if (!has_epilogue) return;
  for (int t = steps; t < p.T; ++t) epilogue.store_zeros(t);
#endif
}

// Copies a state to [B, G, width], padded with zeros.
template <class Storage, class P>
__global__ void pad_kernel(P p, const Storage* from, Storage* to, int64_t width) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x, count = p.B * p.G * width;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const int64_t row = i / width, unit = i % width;
    to[i] = unit < p.H ? from[p.state_at(row / p.G, row % p.G) + unit] : Storage{};
  }
}

// Host code. Blocks exchange the state in the result tensor if its rows are aligned for the loads
// and it is not an input too, and otherwise in a workspace. The workspace also holds a copy of an
// initial state that is not in the form of the exchange.
inline bool exchanges_in_result(const Params& p, int element_bytes) {
  return !p.offsets && p.H * element_bytes % 16 == 0;
}
template <class Base> bool exchanges_in_result(const ForwardParams<Base>& p, int element_bytes) {
  return exchanges_in_result(static_cast<const Params&>(p), element_bytes) && p.out != p.pre &&
         is_aligned(16, p.out, p.h0);
}
template <class Base> bool exchanges_in_result(const BackwardParams<Base>& p, int element_bytes) {
  return exchanges_in_result(static_cast<const Params&>(p), element_bytes) &&
         is_aligned(16, p.grad_pre);
}
template <class C> bool exchanges_in_result(const CellForwardOf<C>& p, int element_bytes) {
  return exchanges_in_result(static_cast<const Forward&>(p), element_bytes) &&
         is_aligned(16, p.reset_h);
}
template <class C> bool exchanges_in_result(const CellBackwardOf<C>& p, int element_bytes) {
  return C::z_is_pre && exchanges_in_result(static_cast<const Backward&>(p), element_bytes);
}

// Whether h0, or reset_h, has to be copied.
template <class P> bool copies_state(const P& p, const void* state, bool in_result) {
  return state && !(in_result && p.heads == p.G);
}
template <class P> const void* reset_state(const P& p) {
  if constexpr (saves_gates<P>) return p.resets ? p.reset_h : nullptr;
  return nullptr;
}

template <class P> int64_t grid_workspace_bytes(const P& p) {
  const int size = element_bytes(p.dtype);
  const bool in_result = exchanges_in_result(p, size);
  int64_t states = in_result ? 0 : p.T;
  if constexpr (!is_backward<P>) {
    states += copies_state(p, p.h0, in_result) + copies_state(p, reset_state(p), in_result);
  }
  return states * p.B * p.G * exchanged_units(p, size) * size;
}

// Returns the state in the form of the exchange. A copy is at the start of `workspace`, which moves
// on.
template <class Storage, class P>
const void* exchanged_state(const P& p, const StateExchange& exchange, const void* state,
                            unsigned char*& workspace, Stream stream) {
  if (!copies_state(p, state, exchange.in_result)) return state;
  auto* const copy = reinterpret_cast<Storage*>(workspace);
  workspace += exchange.step_bytes;
  const int64_t elements = exchange.step_bytes / int64_t{sizeof(Storage)};
  const int64_t grid = std::min<int64_t>((elements + 255) / 256, 1 << 16);
  launch(pad_kernel<Storage, P>, {dim3(static_cast<unsigned>(grid)), 256}, stream, p,
         static_cast<const Storage*>(state), copy, exchange.width);
  return copy;
}

template <class E, class P>
StateExchange make_exchange(P& p, void* workspace_, Stream stream) {
  using Storage = typename E::Storage;
  constexpr int size = sizeof(Storage);
  auto* workspace = static_cast<unsigned char*>(workspace_);
  const int64_t units = exchanged_units(p, size), row = p.G * units * size;
  StateExchange exchange{workspace, nullptr, units, row, p.B * row, exchanges_in_result(p, size)};
  if constexpr (is_backward<P>) {
    if (exchange.in_result) exchange.states = p.grad_pre;
  } else {
    if (exchange.in_result) exchange.states = p.out;
    if (!exchange.in_result) workspace += p.T * exchange.step_bytes;
    exchange.initial = exchanged_state<Storage>(p, exchange, p.h0, workspace, stream);
    if constexpr (saves_gates<P>) {
      p.padded_reset_h = exchanged_state<Storage>(p, exchange, reset_state(p), workspace, stream);
    }
  }
  return exchange;
}

template <class E, class P, int M, int RESIDENT>
void launch_grid_instance(P p, const Plan& plan, void* workspace, Stream stream) {
  const auto kernel = grid_kernel<E, P, M, RESIDENT>;
  const Tiling& tiling = plan.tiling;
  const int64_t room = int64_t{processors()} *
                       blocks_per_processor(kernel, plan.threads, plan.shared) / tiling.blocks;
  const int64_t at_once = std::min(plan.at_once, room);
  if (at_once < 1) {
    throw std::runtime_error("the grid kernel needs " + std::to_string(tiling.blocks) +
                             " blocks at once, more than the device has room for");
  }
  const StateExchange exchange = make_exchange<E>(p, workspace, stream);
  constexpr int size = sizeof(typename E::Storage);
  const TensorLayout layout{p.G * p.H, p.B * p.G * p.H,
                            p.H % E::chunk_units == 0 && chunks_are_aligned(p),
                            p.H * size % 16 == 0 && is_aligned(16, p.weight_hh[0], p.weight_hh[1])};
  if (p.T > 0) fill(exchange.states, 0xff, p.T * exchange.step_bytes, stream);
  for (int64_t tile = 0; tile < plan.tiles; tile += at_once) {
    const int64_t teams = std::min(at_once, plan.tiles - tile);
    Launch shape{dim3(static_cast<unsigned>(teams * tiling.blocks)), plan.threads};
    shape.shared = plan.shared;
    shape.cooperative = true;
    launch(kernel, shape, stream, p, exchange, tiling.blocks, tiling.streamed, tiling.rows, tile,
           layout);
  }
}

// Compiles only the instances that grid_fits allows.
template <class E, class P, int M, int RESIDENT>
void launch_grid_kernel(const P& p, const Plan& plan, void* workspace, Stream stream) {
  if constexpr (grid_compiled(mode_of<E>, M, RESIDENT, pass_of<P>, traits_of<P>)) {
    return launch_grid_instance<E, P, M, RESIDENT>(p, plan, workspace, stream);
  }
  throw std::runtime_error("the grid kernel has no such instance");
}

template <class E, class P>
void launch_grid(const P& p, const Plan& plan, void* workspace, Stream stream) {
  if (p.B == 0 || p.G == 0) return;
  if (p.T >= INT_MAX) throw std::runtime_error("too many steps");
  const Tiling& tiling = plan.tiling;
  constexpr int size = sizeof(typename E::Storage);
  const int64_t units = (p.H + 15) / 16, depth = (exchanged_units(p, size) * size + 31) / 32;
  if (grid_fits(plan.mode, tiling, pass_of<P>, traits_of<P>) &&
      int64_t{tiling.blocks} * tiling.m_tiles >= units &&
      int64_t{tiling.splits} * (tiling.resident + tiling.streamed) >= depth) {
    switch (100 * tiling.m_tiles + tiling.resident) {
      case 104: return launch_grid_kernel<E, P, 1, 4>(p, plan, workspace, stream);
      case 108: return launch_grid_kernel<E, P, 1, 8>(p, plan, workspace, stream);
      case 116: return launch_grid_kernel<E, P, 1, 16>(p, plan, workspace, stream);
      case 132: return launch_grid_kernel<E, P, 1, 32>(p, plan, workspace, stream);
      case 204: return launch_grid_kernel<E, P, 2, 4>(p, plan, workspace, stream);
      case 208: return launch_grid_kernel<E, P, 2, 8>(p, plan, workspace, stream);
      case 216: return launch_grid_kernel<E, P, 2, 16>(p, plan, workspace, stream);
    }
  }
  throw std::runtime_error("the grid kernel does not support this tiling");
}

}  // namespace fastrnn::cuda
