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
#include "cuda.h"
#include "ending.h"
#include "piece.h"

namespace fastrnn::cuda {

// What no state holds: in place of it, one of the other bit patterns of NaN.
constexpr uint32_t absent = 0xffffffff;

__device__ inline bool any_absent(uint4 words) {
  return words.x == absent || words.y == absent || words.z == absent || words.w == absent;
}
template <class E> __device__ uint2 present(uint2 chunk) {
  constexpr uint32_t nan = E::values == 2 ? 0x7fff7fff : 0x7fffffff;
  return {chunk.x == absent ? nan : chunk.x, chunk.y == absent ? nan : chunk.y};
}

struct None {};

// What a lane keeps in shared memory, for registers are for W_hh: where it reads and writes within
// a step, and what the end of the next step needs. With resets it is no larger.
template <class E, class D> struct Kept {
  int64_t state, published;  // bytes of Exchange::states
  int64_t result;            // elements
  std::conditional_t<has_resets<D>, int8_t, int> inside;  // pieces of the state
  [[no_unique_address]] Cuts<D> cuts;
  std::conditional_t<has_resets<D>, int16_t, int> unit;
  [[no_unique_address]] std::conditional_t<has_resets<D>, int, None> own_row;
  typename Ending<E, D>::Inputs inputs;
};

// Where the blocks meet.
struct Exchange {
  void* states;         // [T, B, G, width]
  const void* initial;  // [B, G, width], of Forward: h0
  int64_t width;        // a multiple of 16 bytes, H at least
  int64_t row, step;    // bytes from a batch row to the next, from a step to the next
  bool is_result;       // states is the result itself
};

template <class E, int fragments>
constexpr int most_threads = grid_threads(E::values == 2 ? Mode::half : Mode::float32, fragments);

template <class E, class D, int M, int RESIDENT>
__global__ void __launch_bounds__(most_threads<E, M * RESIDENT>, 1)
    grid_kernel(D p, Exchange exchange, int blocks, int streamed, int rows, int64_t first_tile,
                Access access) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Storage = typename E::Storage;
  constexpr int size = sizeof(Storage);
  constexpr bool crowded = most_threads<E, M * RESIDENT> > 256;
  constexpr int PIECES = crowded ? 8 : 16;         // as grid_pieces
  constexpr int CHAINS = crowded ? 2 / M : 4 / M;  // sums that do not wait for one another

  const int warp = threadIdx.x / 32, splits = blockDim.x / 32;
  const Lane<E> lane(threadIdx.x % 32);
  const int n_tiles = (rows + 7) / 8, pieces = (RESIDENT + streamed) / 2;
  const int64_t tile = first_tile + blockIdx.x / blocks;
  const int rank = blockIdx.x % blocks;
  const int64_t tiles_of_group = (p.B + rows - 1) / rows, group = tile / tiles_of_group;
  const int64_t first_row = tile % tiles_of_group * rows;

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
  for (int i = threadIdx.x; i < 8 * n_tiles; i += blockDim.x) {
    lengths[i] = i < rows ? row_length(p, first_row + i) : -1;
  }
  __syncthreads();
  int steps = 0;
  for (int i = 0; i < rows; ++i) steps = lengths[i] > steps ? lengths[i] : steps;
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
      for (int i = 0; i < 2; ++i) {
        weights[((2 * c + i) * M + m) * 32] = {piece[i][0], piece[i][1], piece[i][2], piece[i][3]};
      }
    }
  }

  // The lane's part of the state: 16 bytes of each piece that has them, of row lane.g of a tile.
  const int64_t first_byte = int64_t{warp} * pieces * piece_bytes + 16 * lane.q;
  const int64_t bytes = exchange.width * size - first_byte;
  const int64_t begun = bytes <= 0 ? 0 : (bytes + piece_bytes - 1) / piece_bytes;
  kept->inside = begun < pieces ? static_cast<int>(begun) : pieces;
  kept->state = (first_row + lane.g) * exchange.row + group * exchange.width * size + first_byte;
  struct Row {
    const unsigned char* from;
    int count;    // of pieces
    bool awaited;
  };
  const auto locate = [&](int n, int t) -> Row {
    const int length = lengths[8 * n + lane.g], previous = order.previous(t, length);
    const bool begins = previous < 0;
    const bool needed = begins ? !is_backward<D> && t < length : t < length || t == order.end();
    const auto* const from = static_cast<const unsigned char*>(
        begins ? exchange.initial : exchange.states);
    const int64_t at = begins ? 0 : previous * exchange.step;
    return {from + (at + 8 * n * exchange.row + kept->state), needed ? kept->inside : 0, !begins};
  };

  // The warp's own tile of units and batch rows at the end of a step.
  const bool ends = warp < n_tiles * M;
  const int64_t own_row = first_row + 8 * (warp / M);
  Ending<E, D> ending(p, access, order, group, own_row, (rank * M + warp % M) * 16,
                      lengths + (ends ? 8 * (warp / M) : 0), lane);
  kept->result = ending.place;
  kept->unit = ending.unit;
  if constexpr (has_resets<D>) kept->own_row = own_row;
  kept->published = (own_row + lane.chunk_row(0)) * exchange.row +
                    (group * exchange.width + ending.unit) * size;
  const auto publish = [&](int t) {
    return [&, t](int i, uint2 chunk) {
      if (ending.unit >= exchange.width) return true;
      auto* const to = static_cast<unsigned char*>(exchange.states) +
                       (t * exchange.step + i * exchange.row + kept->published);
      const uint2 real = unit_mask<E>(ending.unit, p.H);  // or 0 times infinity would be among them
      ptx::store_relaxed(to, present<E>({chunk.x & real.x, chunk.y & real.y}));
      return exchange.is_result;
    };
  };
  // Loading them costs no time: the others' part of the state takes longer.
  const auto fetch_inputs = [&](int t) {
    if constexpr (has_resets<D>) ending.load_cuts(kept->cuts, t, kept->own_row);
    if (t == order.end()) return;
    ending.load(kept->inputs, t);
    if (order.next(t) != order.end()) ending.prefetch(order.next(t));
  };
  if (ends) {
    ending.begin();
    fetch_inputs(order.time(0));
  }

  for (int t = order.time(0); is_backward<D> || t != order.end(); t = order.next(t)) {
    float4* const step_sums = sums + (t & 1) * sums_size;
    uint4 h[PIECES];
    Row row = locate(0, t);
    row.from = ptx::forget(row.from);
    const auto load = [&](int c) {
      h[c] = {0, 0, 0, 0};
      if (c < row.count) h[c] = ptx::load_relaxed(row.from + c * piece_bytes);
    };
#pragma unroll
    for (int c = 0; c < PIECES; ++c) load(c);
    for (int n = 0; n < n_tiles; ++n) {
      for (int again = row.awaited; again;) {
        again = 0;
        row.from = ptx::forget(row.from);
#pragma unroll
        for (int c = 0; c < PIECES; ++c) {
          if (!any_absent(h[c])) continue;
          h[c] = ptx::load_relaxed(row.from + c * piece_bytes);
          again = 1;
        }
      }
      __syncwarp();

      const bool more = n + 1 < n_tiles;
      if (more) {
        row = locate(n + 1, t);
        row.from = ptx::forget(row.from);
      }
      float sum[M][CHAINS][4] = {};
#pragma unroll
      for (int c = 0; c < PIECES; ++c) {
        if (c >= RESIDENT / 2 && c >= pieces) break;
#pragma unroll
        for (int m = 0; m < M; ++m) {
          uint32_t streamed_w[2][4];
          if (c >= RESIDENT / 2) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const uint4 words = weights[((2 * c - RESIDENT + j) * M + m) * 32];
              streamed_w[j][0] = words.x, streamed_w[j][1] = words.y;
              streamed_w[j][2] = words.z, streamed_w[j][3] = words.w;
            }
          }
          const auto& low = c < RESIDENT / 2 ? w[m][2 * c % RESIDENT] : streamed_w[0];
          const auto& high = c < RESIDENT / 2 ? w[m][(2 * c + 1) % RESIDENT] : streamed_w[1];
          multiply<E>(sum[m][2 * c % CHAINS], low, h[c].x, h[c].y);
          multiply<E>(sum[m][(2 * c + 1) % CHAINS], high, h[c].z, h[c].w);
        }
        if (more) load(c);
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
        float total[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          total[j] = sum[m][0][j];
#pragma unroll
          for (int chain = 1; chain < CHAINS; ++chain) total[j] += sum[m][chain][j];
        }
        step_sums[((n * M + m) * splits + warp) * 32 + threadIdx.x % 32] = {total[0], total[1],
                                                                            total[2], total[3]};
      }
    }
    // The sums' other half is next: who writes there has passed this barrier, and so has everyone
    // who read there.
    __syncthreads();
    if (ends) {
      float sum[4] = {};
#pragma unroll 4
      for (int j = 0; j < splits; ++j) {
        const float4 part = step_sums[(warp * splits + j) * 32 + threadIdx.x % 32];
        sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
      }
      ending.place = kept->result;
      ending.unit = kept->unit;
      ending.finish(t, sum, kept->inputs, kept->cuts, publish(t));
      if (t != order.end()) fetch_inputs(order.next(t));
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
