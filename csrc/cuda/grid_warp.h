// A warp of the grid kernel: where blocks meet, what a lane keeps in memory, the warp's share of
// the work, and the parts of a step.
//
// Some functions take references to the kernel's pointers, as a lambda there would: given copies,
// they compile to other SASS. So does the kernel if W_hh is loaded in a function.
#pragma once

#include "epilogue.h"
#include "operand_load.h"
#include "plan.h"

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

template <class E, class D, int M, int RESIDENT> struct GridWarp {
  static constexpr int size = sizeof(typename E::Storage);
  static constexpr bool crowded = most_threads<E, M * RESIDENT> > 256;
  static constexpr int PIECES = crowded ? 8 : 16;         // as grid_pieces
  static constexpr int CHAINS = crowded ? 2 / M : 4 / M;  // sums that do not wait for one another

  // The kernel's arguments.
  const D& p;
  const Exchange& exchange;
  const int blocks, streamed, rows;
  const int64_t first_tile;

  // The warp and the lane.
  const int warp = threadIdx.x / 32, splits = blockDim.x / 32;
  const Lane<E> lane{static_cast<int>(threadIdx.x % 32)};

  // Their units, of some batch rows of a group.
  const int n_tiles = (rows + 7) / 8, pieces = (RESIDENT + streamed) / 2;
  const int64_t tile = first_tile + blockIdx.x / blocks;
  const int rank = blockIdx.x % blocks;
  const int64_t tiles_of_group = (p.B + rows - 1) / rows, group = tile / tiles_of_group;
  const int64_t first_row = tile % tiles_of_group * rows;

  // Of all rows of the tile, into shared memory. Returns the longest. All threads.
  __device__ int load_lengths(int* lengths) const {
    for (int i = threadIdx.x; i < 8 * n_tiles; i += blockDim.x) {
      lengths[i] = i < rows ? row_length(p, first_row + i) : -1;
    }
    __syncthreads();
    int steps = 0;
    for (int i = 0; i < rows; ++i) steps = lengths[i] > steps ? lengths[i] : steps;
    return steps;
  }

  // The lane's part of the state: 16 bytes of each piece that has them, of row lane.g of a tile.
  __device__ void keep_state_place(Kept<E, D>* kept) const {
    const int64_t first_byte = int64_t{warp} * pieces * piece_bytes + 16 * lane.q;
    const int64_t bytes = exchange.width * size - first_byte;
    const int64_t begun = bytes <= 0 ? 0 : (bytes + piece_bytes - 1) / piece_bytes;
    kept->inside = begun < pieces ? static_cast<int>(begun) : pieces;
    kept->state = (first_row + lane.g) * exchange.row + group * exchange.width * size + first_byte;
  }

  // The chunks of its own tile, which the lane stores at the end of a step.
  __device__ void keep_own_place(Kept<E, D>* kept, int64_t own_row,
                                 const Ending<E, D>& ending) const {
    kept->result = ending.place;
    kept->unit = ending.unit;
    if constexpr (has_resets<D>) kept->own_row = own_row;
    kept->published = (own_row + lane.chunk_row(0)) * exchange.row +
                      (group * exchange.width + ending.unit) * size;
  }

  // The lane's part of what step t multiplies, of the n-th tile of batch rows.
  struct Row {
    const unsigned char* from;
    int count;    // of pieces
    bool awaited;
  };
  __device__ Row locate(const int* lengths, const Kept<E, D>* kept, Order order, int n,
                        int t) const {
    const int length = lengths[8 * n + lane.g], previous = order.previous(t, length);
    const bool begins = previous < 0;
    const bool needed = begins ? !is_backward<D> && t < length : t < length || t == order.end();
    const auto* const from = static_cast<const unsigned char*>(
        begins ? exchange.initial : exchange.states);
    const int64_t at = begins ? 0 : previous * exchange.step;
    return {from + (at + 8 * n * exchange.row + kept->state), needed ? kept->inside : 0, !begins};
  }

  __device__ static void load(uint4 (&h)[PIECES], const Row& row, int c) {
    h[c] = {0, 0, 0, 0};
    if (c < row.count) h[c] = ptx::load_relaxed(row.from + c * piece_bytes);
  }

  // Reads again what was not there yet, until all of it is.
  __device__ static void await(uint4 (&h)[PIECES], Row& row) {
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
  }

  // This warp's sums of the n-th tile of batch rows, for the warps that end the step.
  __device__ void store_sums(float4* step_sums, const float (&sum)[M][CHAINS][4], int n) const {
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

  // sum += all warps' sums of the tile of units and batch rows whose step this warp ends.
  __device__ void add_up(float (&sum)[4], const float4* step_sums) const {
#pragma unroll 4
    for (int j = 0; j < splits; ++j) {
      const float4 part = step_sums[(warp * splits + j) * 32 + threadIdx.x % 32];
      sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
    }
  }
};

// Loads what the end of step t needs. It costs no time: the others' part of the state takes longer.
template <class E, class D>
__device__ void fetch_inputs(Kept<E, D>* const& kept, const Ending<E, D>& ending,
                             const Order& order, int t) {
  if constexpr (has_resets<D>) ending.load_cuts(kept->cuts, t, kept->own_row);
  if (t == order.end()) return;
  ending.load(kept->inputs, t);
  if (order.next(t) != order.end()) ending.prefetch(order.next(t));
}

// Stores a chunk of step t's state where the other blocks read it; whether that is the result.
template <class E, class D> struct Publish {
  const Exchange& exchange;
  const Kept<E, D>* const& kept;
  const Ending<E, D>& ending;
  const int t;

  __device__ bool operator()(int i, uint2 chunk) const {
    if (ending.unit >= exchange.width) return true;
    auto* const to = static_cast<unsigned char*>(exchange.states) +
                     (t * exchange.step + i * exchange.row + kept->published);
    // 0 times infinity would be among what is beyond H.
    const uint2 real = unit_mask<E>(ending.unit, ending.p.H);
    ptx::store_relaxed(to, present<E>({chunk.x & real.x, chunk.y & real.y}));
    return exchange.is_result;
  }
};

__device__ inline void store_words(uint4* to, const uint32_t (&words)[4]) {
  *to = {words[0], words[1], words[2], words[3]};
}

// sum += piece c of W_hh times the state's. The first RESIDENT k-steps are in registers, the others
// in shared memory, `stride` apart.
template <class E, int RESIDENT, int CHAINS>
__device__ void multiply_piece(float (&sum)[CHAINS][4], const uint32_t (&resident)[RESIDENT][4],
                               const uint4* streamed, int stride, uint4 h, int c) {
  uint32_t loaded[2][4];
  if (c >= RESIDENT / 2) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 words = streamed[(2 * c - RESIDENT + j) * stride];
      loaded[j][0] = words.x, loaded[j][1] = words.y;
      loaded[j][2] = words.z, loaded[j][3] = words.w;
    }
  }
  const auto& w = loaded;
  const auto& low = c < RESIDENT / 2 ? resident[2 * c % RESIDENT] : w[0];
  const auto& high = c < RESIDENT / 2 ? resident[(2 * c + 1) % RESIDENT] : w[1];
  multiply<E>(sum[2 * c % CHAINS], low, h.x, h.y);
  multiply<E>(sum[(2 * c + 1) % CHAINS], high, h.z, h.w);
}

}  // namespace fastrnn::cuda
