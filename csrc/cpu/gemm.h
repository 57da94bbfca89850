// The matrix product of the CPU kernels, z = start + x W, for one instruction set.
//
// Included inside the namespace of an instruction set, after simd.h. Every element of z is summed
// over k in ascending order, for every tiling and storage of W. So a row's result does not depend
// on the other rows or on the number of threads.

// The terms of a sum. A single sum of very many terms would lose digits: the next terms are summed
// from 0, and their sum is added.
constexpr int64_t sum_terms = 4096;

// Rows and vectors of z that the micro-kernel holds in registers. With 16 registers, 6 x 2 sums,
// two vectors of W and one element of x just fit. With 32, 8 x 2 sums need few enough loads to feed
// both FMA units. Few rows use more columns, so that there are enough sums to hide the latency.
constexpr int64_t max_rows = VECTOR_REGISTERS == 32 ? 8 : 6;
constexpr int max_columns(int64_t rows) {
  return rows == 1 ? 8 : rows <= 2 ? VECTOR_REGISTERS / 4 : rows <= 4 ? VECTOR_REGISTERS / 8 : 2;
}

// Vectors of a wide panel for a single row, see `PackedMatrix`.
constexpr int64_t max_panel_width = VECTOR_REGISTERS == 32 ? 16 : 12;

// The size of L1, and a size that certainly exceeds L2.
constexpr int64_t l1_bytes = 1 << 15, beyond_l2_bytes = 1 << 21;

// A matrix in memory with rows `stride` elements apart.
template <class A>
struct MatrixView {
  A* data;
  int64_t stride;
  MatrixView at(int64_t row, int64_t column) const {
    return {data + row * stride + column, stride};
  }
};

// W [K, columns], packed in column blocks of `lanes` columns, zero-padded. `panel_width` blocks
// form a panel, whose rows are contiguous, so that a pass over k reads one stream. Narrow panels
// have two blocks, as the micro-kernels of many rows use. Wide ones have as many as a single row's
// use.
template <class A>
struct PackedMatrix {
  A* data;
  int64_t K, blocks, panel_width;

  static constexpr int64_t narrow = 2;

  // The panel width for products of `rows` rows by `threads` threads, for a wide panel a multiple
  // of `gates`. Beyond L2, several streams are faster than one.
  static int64_t panel_width_for(int64_t rows, int64_t K, int64_t blocks, int64_t threads = 1,
                                 int64_t gates = 1) {
    if (rows > 1 || blocks == 0 || K * blocks * VECTOR_BYTES > beyond_l2_bytes) return narrow;
    const int64_t units = blocks / gates, widest = max_panel_width / gates * threads,
                  panels = (units + widest - 1) / widest * threads;
    return (units + panels - 1) / panels * gates;
  }

  // The blocks from `block` on, which must begin a panel.
  PackedMatrix at(int64_t block) const {
    return {data + block * K * lanes<A>, K, blocks - block, panel_width};
  }

  // The rows of one column block.
  MatrixView<A> column_block(int64_t block) const {
    const int64_t first = block - block % panel_width, left = blocks - first;
    const int64_t wide = left < panel_width ? left : panel_width;
    return {data + (first * K + block - first) * lanes<A>, wide * lanes<A>};
  }
};

// W as it is stored, transposed: rows of `stride` elements, of which the first K are used. It has N
// rows for each gate, which begin `gate_rows` rows apart. The column blocks of the gates alternate:
// those of the first `lanes` rows of each gate, then those of the next.
template <class S>
struct TransposedMatrix {
  using A = typename S::Compute;
  const typename S::Element* data;
  int64_t stride, N, K, gates = 1, gate_rows = 0, block = 0;  // the first column block

  TransposedMatrix at(int64_t block, int64_t k) const {
    return {data + k, stride, N, K - k, gates, gate_rows, this->block + block};
  }

  // Packs the first `depth` rows of the first column block.
  void pack(int64_t depth, MatrixView<A> to) const {
    constexpr int64_t L = lanes<A>;
    const int64_t first = block / gates * L, rows = N - first;
    const auto* from = data + (block % gates * gate_rows + first) * stride;
    for_each_vector<S>(depth, [&](int64_t k, auto load_row, auto) {
      Vector<A> square[L];
      if (rows >= L) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < L; ++j) square[j] = load_row(from + j * stride);
      } else {
        for (int64_t j = 0; j < L; ++j)
          square[j] = j < rows ? load_row(from + j * stride) : Vector<A>{};
      }
      transpose<A>(square);
      const int64_t count = depth - k < L ? depth - k : L;
      if (count == L) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < L; ++j) store(to.at(k + j, 0).data, square[j]);
      } else {
        for (int64_t j = 0; j < count; ++j) store(to.at(k + j, 0).data, square[j]);
      }
    });
  }
};

// W [K, N] as it is stored.
template <class S>
struct RowMajorMatrix {
  using A = typename S::Compute;
  const typename S::Element* data;
  int64_t N, K, block = 0;  // the first column block

  RowMajorMatrix at(int64_t block, int64_t k) const {
    return {data + k * N, N, K - k, this->block + block};
  }

  // Packs the first `depth` rows of the first column block.
  void pack(int64_t depth, MatrixView<A> to) const {
    constexpr int64_t L = lanes<A>;
    const int64_t first = block * L, width = N - first < L ? N - first : L;
    for (int64_t k = 0; k < depth; ++k)
      store(to.at(k, 0).data, load_part<S>(data + k * N + first, width));
  }
};

// Computes rows x columns sums of `lanes` elements each in registers. W has panels of `width`
// blocks.
template <class A, int rows, int columns, int width>
inline void micro_kernel(MatrixView<const A> x, const A* w, int64_t K, MatrixView<const A> start,
                         MatrixView<A> z) {
  using V = Vector<A>;
  constexpr int64_t L = lanes<A>;
  V sum[rows][columns];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < columns; ++c) sum[r][c] = load<V>(start.at(r, c * L).data);
  for (int64_t k = 0; k < K; ++k) {
    V row[columns];
#pragma GCC unroll 16
    for (int c = 0; c < columns; ++c)
      row[c] = load<V>(w + (c / width * K + k) * width * L + c % width * L);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < columns; ++c)
        sum[r][c] = multiply_add(broadcast<A>(x.data[r * x.stride + k]), row[c], sum[r][c]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < columns; ++c) store(z.at(r, c * L).data, sum[r][c]);
}

// Calls the micro-kernel for n rows, n <= `rows`.
template <class A, int columns, int rows = max_rows>
inline void dispatch_rows(int64_t n, MatrixView<const A> x, const A* w, int64_t K,
                          MatrixView<const A> start, MatrixView<A> z) {
  if constexpr (rows > 0) {
    if (columns > max_columns(rows) || n < rows)
      return dispatch_rows<A, columns, rows - 1>(n, x, w, K, start, z);
    if constexpr (columns <= max_columns(rows)) {
      constexpr int width = columns < PackedMatrix<A>::narrow ? columns : PackedMatrix<A>::narrow;
      micro_kernel<A, rows, columns, width>(x, w, K, start, z);
    }
  }
}

// Multiplies one row by a wide panel of n blocks, n <= `columns`.
template <class A, int columns = max_panel_width>
inline void wide_panel(int64_t n, MatrixView<const A> x, const A* w, int64_t K,
                       MatrixView<const A> start, MatrixView<A> z) {
  if constexpr (columns > 0) {
    if (n < columns) return wide_panel<A, columns - 1>(n, x, w, K, start, z);
    micro_kernel<A, 1, columns, columns>(x, w, K, start, z);
  }
}

// Multiplies all rows by `blocks` column blocks. `columns` blocks stay in cache for all rows.
template <class A, int columns>
void column_panels(int64_t n, MatrixView<const A> x, PackedMatrix<A> w, int64_t blocks,
                   MatrixView<const A> start, MatrixView<A> z) {
  int64_t c = 0;
  for (; c + columns <= blocks; c += columns) {
    const int64_t j = c * lanes<A>;
    for (int64_t r = 0, rows; r < n; r += rows) {
      rows = n - r < max_rows ? n - r : max_rows;
      // Two micro-kernels of medium height are faster than a full one and one of very few rows.
      if (rows < n - r && n - r - rows < 4) rows = (n - r + 1) / 2;
      dispatch_rows<A, columns>(rows, x.at(r, 0), w.at(c).data, w.K, start.at(r, j), z.at(r, j));
    }
  }
  if constexpr (columns > 1) {
    const int64_t j = c * lanes<A>;
    if (c < blocks)
      column_panels<A, columns / 2>(n, x, w.at(c), blocks - c, start.at(0, j), z.at(0, j));
  }
}

// Calls sum(k, terms, start, z) for every sum of K terms, and adds the sums for n rows and `blocks`
// column blocks.
template <class A, class Sum>
void add_sums(int64_t K, int64_t n, int64_t blocks, MatrixView<const A> start, MatrixView<A> z,
              Sum sum) {
  constexpr int64_t L = lanes<A>;
  sum(0, std::min(K, sum_terms), start, z);
  if (K <= sum_terms) return;
  const int64_t stride = blocks * L;
  const Buffer<A> memory((n + 1) * stride);
  const MatrixView<A> next{memory.data, stride}, zeros{memory.data + n * stride, 0};
  __builtin_memset(zeros.data, 0, stride * sizeof(A));
  for (int64_t k = sum_terms; k < K; k += sum_terms) {
    sum(k, std::min(K - k, sum_terms), MatrixView<const A>{zeros.data, 0}, next);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t j = 0; j < stride; j += L) {
        A* to = z.at(r, j).data;
        store(to, load<Vector<A>>(to) + load<Vector<A>>(next.at(r, j).data));
      }
  }
}

// z = start + x W for n rows and the first `blocks` column blocks of W, which end a panel.
// `reverse` reads wide panels from the last to the first: the ones read last are still in cache.
template <class A>
void gemm(int64_t n, MatrixView<const A> x, PackedMatrix<A> w, int64_t blocks,
          MatrixView<const A> start, MatrixView<A> z, bool reverse = false) {
  if (n == 0) return;
  if (w.K > sum_terms) {
    for (int64_t c = 0; c < blocks; c += w.panel_width) {
      const int64_t wide = std::min(blocks - c, w.panel_width), j = c * lanes<A>;
      const auto sum = [&](int64_t k, int64_t terms, MatrixView<const A> start, MatrixView<A> z) {
        const PackedMatrix<A> part{w.at(c).data + k * wide * lanes<A>, terms, wide, w.panel_width};
        gemm(n, x.at(0, k), part, wide, start, z);
      };
      add_sums(w.K, n, wide, start.at(0, j), z.at(0, j), sum);
    }
    return;
  }
  if (n == 1 && blocks <= w.panel_width) return wide_panel<A>(blocks, x, w.data, w.K, start, z);
  if (w.panel_width > PackedMatrix<A>::narrow) {
    const auto panel = [&](int64_t c) {
      const int64_t left = blocks - c, j = c * lanes<A>;
      wide_panel<A>(left < w.panel_width ? left : w.panel_width, x, w.at(c).data, w.K,
                    start.at(0, j), z.at(0, j));
    };
    if (!reverse) {
      for (int64_t c = 0; c < blocks; c += w.panel_width) panel(c);
    } else {
      for (int64_t c = (blocks - 1) / w.panel_width * w.panel_width; c >= 0; c -= w.panel_width)
        panel(c);
    }
    return;
  }
  const int columns = max_columns(n);
  if (columns == 8) return column_panels<A, 8>(n, x, w, blocks, start, z);
  if (columns == 4) return column_panels<A, 4>(n, x, w, blocks, start, z);
  column_panels<A, 2>(n, x, w, blocks, start, z);
}

// The same for W as it is stored. Some columns and a part of K at a time are packed into a buffer
// that fits into L1, and used once by each row. A single row uses more columns, as above.
template <class Stored, class A = typename Stored::A>
void gemm(int64_t n, MatrixView<const A> x, Stored w, int64_t blocks, MatrixView<const A> start,
          MatrixView<A> z) {
  constexpr int64_t L = lanes<A>;
  alignas(64) A buffer[l1_bytes / sizeof(A)];
  const int64_t width = n == 1 ? 8 : 4;
  const int64_t depth = (n == 1 ? l1_bytes / 2 : l1_bytes) / width / VECTOR_BYTES;
  for (int64_t c = 0; c < blocks; c += width) {
    const int64_t some = blocks - c < width ? blocks - c : width;
    const auto sum = [&](int64_t first, int64_t terms, MatrixView<const A> start, MatrixView<A> z) {
      const int64_t end = first + terms;
      for (int64_t k = first; k == first || k < end; k += depth) {
        const int64_t K = end - k < depth ? end - k : depth;
        const PackedMatrix<A> packed{buffer, K, some, PackedMatrix<A>::panel_width_for(n, K, some)};
        for (int64_t i = 0; i < some; ++i) w.at(c + i, k).pack(K, packed.column_block(i));
        gemm(n, x.at(0, k), packed, some, start, z);
        start = {z.data, z.stride};  // continue the sum
      }
    };
    add_sums(w.K, n, some, start.at(0, c * L), z.at(0, c * L), sum);
  }
}
