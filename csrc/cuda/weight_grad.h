// The gradients of the weights and biases of one or several layers in one launch, for small layers:
// there, launches take longer than the products. Large ones go to torch's mm, see layer.cpp.
//
// A block computes a tile of 32 × 32 elements of one gradient: of W_ih, with the bias as a further
// column; of a head's W_hh; or of the unit_param. If blocks form a cluster, each sums over a part of
// the rows. Then each adds up the others' sums of its slice of the tile, always in the same order.
#pragma once

#include <climits>
#include <stdexcept>

#include "params.h"
#include "ptx.h"
#include "runtime.h"
#include "scalar_traits.h"

namespace fastrnn::cuda {

constexpr int grad_tile = 32, grad_threads = 256, grad_elements = grad_tile * grad_tile;

enum class GradKind { weight_ih, weight_hh, unit_param };

// The tiles of a direction: first those of W_ih, then of W_hh, head by head, then of the unit_param.
struct GradTiles {
  int64_t m, n[2], count[3];

  FASTRNN_HOST_DEVICE static int64_t tiles(int64_t size) {
    return (size + grad_tile - 1) / grad_tile;
  }
  FASTRNN_HOST_DEVICE explicit GradTiles(const WeightGradients& p)
      : m(0), n{tiles(p.I + (p.bias_ih[0] != nullptr)), tiles(p.H)}, count{0, 0, 0} {
    const int64_t of_head = traits(p.cell).gates * p.H;
    if (p.weight_ih[0] || p.bias_ih[0]) count[0] = tiles(p.wide()) * n[0];
    if (p.weight_hh[0]) count[1] = p.heads * tiles(of_head) * n[1];
    if (p.cell == Cell::gru ? p.bias_hh[0] : p.leak[0]) count[2] = tiles(p.hidden());
  }
  FASTRNN_HOST_DEVICE int64_t total() const { return count[0] + count[1] + count[2]; }
};

FASTRNN_HOST_DEVICE inline int64_t tiles_of_layer(const WeightGradients& p) {
  return p.directions() * GradTiles(p).total();
}

// A tile: its first element [m, n], and the size of the gradient.
struct GradTile {
  GradKind kind;
  int64_t direction, head, first_m, first_n, size_m, size_n;

  FASTRNN_HOST_DEVICE GradTile(const WeightGradients& p, const GradTiles& tiles, int64_t index)
      : kind(GradKind::weight_ih),
        direction(index / tiles.total()),
        head(0),
        first_m(0),
        first_n(0),
        size_m(p.wide()),
        size_n(p.I + (p.bias_ih[0] != nullptr)) {
    index %= tiles.total();
    int64_t columns = tiles.n[0];
    if (index >= tiles.count[0] + tiles.count[1]) {
      index -= tiles.count[0] + tiles.count[1];
      kind = GradKind::unit_param, size_m = p.hidden(), size_n = columns = 1;
    } else if (index >= tiles.count[0]) {
      kind = GradKind::weight_hh, size_m = traits(p.cell).gates * p.H, size_n = p.H;
      columns = tiles.n[1];
      const int64_t of_head = GradTiles::tiles(size_m) * columns;
      index -= tiles.count[0];
      head = index / of_head;
      index %= of_head;
    }
    first_m = index / columns * grad_tile, first_n = index % columns * grad_tile;
  }
};

// A step of a row, as the products read it. Offsets in elements; negative: zeros.
struct GradRow {
  int64_t grad;   // of the direction in a tensor with one element a row and direction
  int64_t input;  // in `input`
  int64_t state;  // of the state before the step: in out, or in h0
  bool from_h0;
};

template <class E> struct WeightGradBlock {
  using V = ScalarTraits<E>;
  using Sum = typename V::Sum;
  using Storage = typename V::Storage;
  const WeightGradients& p;
  const GradTile tile;

  // Of the k-th step and row.
  __device__ GradRow row_at(int64_t k) const {
    if (k >= p.T * p.B) return {-1, -1, -1, false};
    const int64_t t = k / p.B, b = k % p.B;
    if (!p.active(t, b)) return {-1, -1, -1, false};
    const int64_t D = p.directions(), d = tile.direction, row = p.row(t, b);
    GradRow found{row * D + d, p.offsets ? row * p.input_row : t * p.input_step + b * p.input_row,
                  -1, false};
    const bool descending = d == 1;
    const int64_t previous = descending ? t + 1 : t - 1;
    if (p.crosses_reset(t, b, descending)) return found;
    if (previous < 0 || previous >= p.T || !p.active(previous, b)) {
      found.from_h0 = true;
      if (p.h0) found.state = (d * p.B + b) * p.hidden();
    } else {
      found.state = (p.row(previous, b) * D + d) * p.hidden();
    }
    return found;
  }

  // The factors of a sum: of its m, and of its n.
  __device__ Sum gradient(const GradRow& row, int64_t m) const {
    if (row.grad < 0 || m >= tile.size_m) return 0;
    const int64_t hidden = p.hidden(), first = 2 * hidden;  // of the GRU's n
    if (tile.kind == GradKind::unit_param) {
      return load_value<V>(p.grad_unit_param, row.grad * hidden + m);
    }
    if (tile.kind == GradKind::weight_hh && p.cell == Cell::gru && m >= first) {
      return load_value<V>(p.grad_unit_param, row.grad * hidden + m - first);
    }
    return load_value<V>(p.grad_pre, row.grad * p.wide() + tile.head * p.H + m);
  }
  __device__ Sum factor(const GradRow& row, int64_t n) const {
    if (row.grad < 0 || n >= tile.size_n) return 0;
    if (tile.kind == GradKind::unit_param) return 1;
    if (tile.kind == GradKind::weight_ih) {
      return n < p.I ? load_value<V>(p.input, row.input + n) : Sum{1};
    }
    if (row.state < 0) return 0;
    return load_value<V>(row.from_h0 ? p.h0 : p.out, row.state + tile.head * p.H + n);
  }

  __device__ void store(int64_t m, int64_t n, Sum value) const {
    if (m >= tile.size_m || n >= tile.size_n) return;
    const int64_t d = tile.direction, first = 2 * p.hidden();
    const bool is_gru = p.cell == Cell::gru;
    if (tile.kind == GradKind::unit_param) {
      if (is_gru) return store_value<V>(d ? p.bias_hh[1] : p.bias_hh[0], first + m, value);
      return store_value<V>(d ? p.leak[1] : p.leak[0], m, value);
    }
    if (tile.kind == GradKind::weight_hh) {
      return store_value<V>(d ? p.weight_hh[1] : p.weight_hh[0],
                            (tile.head * tile.size_m + m) * p.H + n, value);
    }
    if (n < p.I) {
      void* const to = d ? p.weight_ih[1] : p.weight_ih[0];
      if (to) store_value<V>(to, m * p.I + n, value);
      return;
    }
    store_value<V>(d ? p.bias_ih[1] : p.bias_ih[0], m, value);
    if (!is_gru || m < first) store_value<V>(d ? p.bias_hh[1] : p.bias_hh[0], m, value);
  }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// Prepares the receipt of the sums of all blocks of a cluster for a slice, of `bytes` in all.
__device__ inline void expect_sums(uint32_t barrier, int bytes) {
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect_tx(barrier, bytes);
  }
  ptx::barrier_cluster();
}

// Adds up the sums of the blocks of a cluster, and stores those of this block's slice.
template <class E, class Sum>
__device__ void reduce_in_cluster(const WeightGradBlock<E>& block, const Sum (&sums)[2][2],
                                  Sum* received, uint32_t barrier, int blocks) {
  const int rank = ptx::cluster_ctarank(), slice = grad_elements / blocks;
  const uint32_t at = ptx::cvta_shared(received) + rank * slice * sizeof(Sum);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int first = (2 * (threadIdx.x / 16) + i) * grad_tile + 2 * (threadIdx.x % 16);
    const uint32_t owner = first / slice;
    const uint32_t to = ptx::mapa(at + first % slice * sizeof(Sum), owner);
    const uint32_t its_barrier = ptx::mapa(barrier, owner);
#pragma unroll
    for (int j = 0; j < int(sizeof(Sum)) / 4; ++j) {  // 8 bytes each
      uint2 words;
      memcpy(&words, reinterpret_cast<const char*>(sums[i]) + 8 * j, 8);
      ptx::st_async(to + 8 * j, its_barrier, words);
    }
  }
  ptx::mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < slice; i += grad_threads) {
    Sum sum = 0;
    for (int peer = 0; peer < blocks; ++peer) sum += received[peer * slice + i];
    const int at = rank * slice + i;
    block.store(block.tile.first_m + at / grad_tile, block.tile.first_n + at % grad_tile, sum);
  }
  ptx::barrier_cluster();  // no block leaves while others send to it
}
#else  // no clusters: launchers ask for one block
__device__ inline void expect_sums(uint32_t, int) {}
template <class E, class Sum>
__device__ void reduce_in_cluster(const WeightGradBlock<E>&, const Sum (&)[2][2], Sum*, uint32_t,
                                  int) {}
#endif

template <class E>
__global__ void __launch_bounds__(grad_threads, sizeof(typename ScalarTraits<E>::Sum) == 8 ? 3 : 4)
    weight_grad_kernel(LayersOf<WeightGradients> layers, int blocks) {
  using Block = WeightGradBlock<E>;
  using Sum = typename Block::Sum;
  DYNAMIC_SHARED(shared);
  Sum* const gradients = reinterpret_cast<Sum*>(shared + 16);    // [k][m]
  Sum* const factors = gradients + grad_tile * (grad_tile + 1);  // [k][n]
  Sum* const received = factors + grad_tile * (grad_tile + 1);   // [blocks][slice]
  GradRow* const rows = reinterpret_cast<GradRow*>(received + grad_elements);
  const uint32_t barrier = ptx::cvta_shared(shared);
  if (blocks > 1) expect_sums(barrier, grad_elements * int(sizeof(Sum)));

  int l = 0;
  int64_t tile = blockIdx.x / blocks;  // of layer l
  for (int64_t tiles; (tiles = tiles_of_layer(layers.of[l])) <= tile; ++l) tile -= tiles;
  const WeightGradients& p = layers.of[l];
  const Block block{p, GradTile(p, GradTiles(p), tile)};
  const int64_t count = p.T * p.B, tiles = (count + grad_tile - 1) / grad_tile;
  const int64_t part = (tiles + blocks - 1) / blocks, first = blockIdx.x % blocks * part;
  const int m = 2 * (threadIdx.x / 16), n = 2 * (threadIdx.x % 16);
  Sum sums[2][2] = {};
  for (int64_t k_tile = first; k_tile < first + part && k_tile < tiles; ++k_tile) {
    if (threadIdx.x < grad_tile) rows[threadIdx.x] = block.row_at(k_tile * grad_tile + threadIdx.x);
    __syncthreads();
    for (int i = threadIdx.x; i < grad_elements; i += grad_threads) {
      const int k = i / grad_tile, column = i % grad_tile, at = k * (grad_tile + 1) + column;
      gradients[at] = block.gradient(rows[k], block.tile.first_m + column);
      factors[at] = block.factor(rows[k], block.tile.first_n + column);
    }
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < grad_tile; ++k) {
      const Sum* const a = gradients + k * (grad_tile + 1) + m;
      const Sum* const b = factors + k * (grad_tile + 1) + n;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) sums[i][j] += a[i] * b[j];
      }
    }
  }
  if (blocks > 1) return reduce_in_cluster(block, sums, received, barrier, blocks);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      block.store(block.tile.first_m + m + i, block.tile.first_n + n + j, sums[i][j]);
    }
  }
}

// `most_blocks`: of a cluster. A block should have enough rows to be worth the reduction.
template <class E>
void launch_weight_grad(const LayersOf<WeightGradients>& layers, int count, int most_blocks,
                        Stream stream) {
  using Sum = typename ScalarTraits<E>::Sum;
  const WeightGradients& p = layers.of[0];
  int64_t tiles = 0;
  for (int l = 0; l < count; ++l) tiles += tiles_of_layer(layers.of[l]);
  if (tiles == 0) return;
  if (tiles > INT_MAX / 8) throw std::runtime_error("too many weights for one launch");
  int blocks = 1;
  while (blocks < most_blocks && p.T * p.B >= 256 * blocks) blocks *= 2;
  Launch shape{dim3(static_cast<unsigned>(tiles * blocks)), grad_threads, blocks};
  shape.shared = 16 + (2 * grad_tile * (grad_tile + 1) + grad_elements) * sizeof(Sum) +
                 grad_tile * sizeof(GradRow);
  launch(weight_grad_kernel<E>, shape, stream, layers, blocks);
}

}  // namespace fastrnn::cuda
