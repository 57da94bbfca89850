// The one matrix product of the CPU kernels, z = start + x W, for one instruction set.
//
// Included inside the namespace of an instruction set, after simd.h. Every element of z is one sum
// over k in ascending order, whatever the tiling and wherever W lies: a row's result does not depend
// on the other rows, nor on the number of threads.

// Rows and vectors of z held in registers by one pass over k. With 16 registers, 6 x 2 sums, two
// vectors of W and one element of x just fit; with 32, 8 x 2 leaves loads enough to feed both
// multipliers. Few rows take more columns, so that there are sums enough to hide the latency.
constexpr int64_t max_rows = VECTOR_REGISTERS == 32 ? 8 : 6;
constexpr int max_columns(int64_t rows) {
  return rows == 1 ? 8 : rows <= 2 ? VECTOR_REGISTERS / 4 : rows <= 4 ? VECTOR_REGISTERS / 8 : 2;
}

// Vectors of the one row of a wide band, see `Packed`.
constexpr int64_t max_wide = VECTOR_REGISTERS == 32 ? 16 : 12;

// Of the nearest cache; and what surely does not fit into the second.
constexpr int64_t nearest_bytes = 1 << 15, far_bytes = 1 << 21;

// A matrix in memory, its rows `stride` elements apart.
template <class A>
struct Rows {
  A* data;
  int64_t stride;
  Rows at(int64_t row, int64_t column) const { return {data + row * stride + column, stride}; }
};

// W [K, columns], packed in column blocks of `lanes` columns, zero-padded. `width` blocks are a band:
// its rows follow one another, so that a pass over k reads one stream. Bands are two blocks wide, as
// the tiles of many rows are; or, wide, as many as a tile of a single row takes.
template <class A>
struct Packed {
  A* data;
  int64_t K, blocks, width;

  static constexpr int64_t narrow = 2;

  // The width for products of that many rows by so many threads. What comes from afar comes faster in
  // several streams.
  static int64_t width_for(int64_t rows, int64_t K, int64_t blocks, int64_t threads = 1) {
    if (rows > 1 || blocks == 0 || K * blocks * VECTOR_BYTES > far_bytes) return narrow;
    const int64_t widest = max_wide * threads, bands = (blocks + widest - 1) / widest * threads;
    return (blocks + bands - 1) / bands;
  }

  // From a block on that begins a band.
  Packed at(int64_t block) const { return {data + block * K * lanes<A>, K, blocks - block, width}; }

  // Where a block's first row lies, and how far the next one is.
  Rows<A> place(int64_t block) const {
    const int64_t first = block - block % width, left = blocks - first;
    const int64_t wide = left < width ? left : width;
    return {data + (first * K + block - first) * lanes<A>, wide * lanes<A>};
  }
};

// W as it lies, each column a row of memory: the first K of `stride` elements of N rows.
template <class S>
struct Transposed {
  using A = typename S::Compute;
  const typename S::Element* data;
  int64_t stride, N, K;

  Transposed at(int64_t block, int64_t k) const {
    const int64_t n = block * lanes<A>;
    return {data + n * stride + k, stride, N - n, K - k};
  }

  // Packs the first column block, and of it `depth` rows.
  void pack(int64_t depth, Rows<A> to) const {
    constexpr int64_t L = lanes<A>;
    each_vector<S>(depth, [&](int64_t k, auto load_row, auto) {
      Vector<A> square[L];
      if (N >= L) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < L; ++j) square[j] = load_row(data + j * stride);
      } else {
        for (int64_t j = 0; j < L; ++j)
          square[j] = j < N ? load_row(data + j * stride) : Vector<A>{};
      }
      transpose<A>(square);
      const int64_t rows = depth - k < L ? depth - k : L;
      if (rows == L) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < L; ++j) store(to.at(k + j, 0).data, square[j]);
      } else {
        for (int64_t j = 0; j < rows; ++j) store(to.at(k + j, 0).data, square[j]);
      }
    });
  }
};

// One tile: rows x columns sums, of `lanes` elements each. W comes in bands of `width` blocks.
template <class A, int rows, int columns, int width>
inline void tile(Rows<const A> x, const A* w, int64_t K, Rows<const A> start, Rows<A> z) {
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

// The tile of n rows, at most `rows` of them.
template <class A, int columns, int rows = max_rows>
inline void some_rows(int64_t n, Rows<const A> x, const A* w, int64_t K, Rows<const A> start,
                      Rows<A> z) {
  if constexpr (rows > 0) {
    if (columns > max_columns(rows) || n < rows)
      return some_rows<A, columns, rows - 1>(n, x, w, K, start, z);
    if constexpr (columns <= max_columns(rows)) {
      constexpr int width = columns < Packed<A>::narrow ? columns : Packed<A>::narrow;
      tile<A, rows, columns, width>(x, w, K, start, z);
    }
  }
}

// The wide band of one row, of n blocks, at most `columns`.
template <class A, int columns = max_wide>
inline void wide_band(int64_t n, Rows<const A> x, const A* w, int64_t K, Rows<const A> start,
                      Rows<A> z) {
  if constexpr (columns > 0) {
    if (n < columns) return wide_band<A, columns - 1>(n, x, w, K, start, z);
    tile<A, 1, columns, columns>(x, w, K, start, z);
  }
}

// All rows and `blocks` column blocks: `columns` of them stay near while all rows pass.
template <class A, int columns>
void bands(int64_t n, Rows<const A> x, Packed<A> w, int64_t blocks, Rows<const A> start,
           Rows<A> z) {
  int64_t c = 0;
  for (; c + columns <= blocks; c += columns) {
    const int64_t j = c * lanes<A>;
    for (int64_t r = 0, rows; r < n; r += rows) {
      rows = n - r < max_rows ? n - r : max_rows;
      // Two bands of some rows are faster than a full one and one of very few.
      if (rows < n - r && n - r - rows < 4) rows = (n - r + 1) / 2;
      some_rows<A, columns>(rows, x.at(r, 0), w.at(c).data, w.K, start.at(r, j), z.at(r, j));
    }
  }
  if constexpr (columns > 1) {
    const int64_t j = c * lanes<A>;
    if (c < blocks)
      bands<A, columns / 2>(n, x, w.at(c), blocks - c, start.at(0, j), z.at(0, j));
  }
}

// z = start + x W for n rows and the first column blocks of W, which end a band. Wide bands from the
// last to the first if `backwards`: what was read last is still near.
template <class A>
void multiply(int64_t n, Rows<const A> x, Packed<A> w, int64_t blocks, Rows<const A> start,
              Rows<A> z, bool backwards = false) {
  if (n == 0) return;
  if (n == 1 && blocks <= w.width) return wide_band<A>(blocks, x, w.data, w.K, start, z);
  if (w.width > Packed<A>::narrow) {
    const auto band = [&](int64_t c) {
      const int64_t left = blocks - c, j = c * lanes<A>;
      wide_band<A>(left < w.width ? left : w.width, x, w.at(c).data, w.K, start.at(0, j),
                   z.at(0, j));
    };
    if (!backwards) {
      for (int64_t c = 0; c < blocks; c += w.width) band(c);
    } else {
      for (int64_t c = (blocks - 1) / w.width * w.width; c >= 0; c -= w.width) band(c);
    }
    return;
  }
  const int columns = max_columns(n);
  if (columns == 8) return bands<A, 8>(n, x, w, blocks, start, z);
  if (columns == 4) return bands<A, 4>(n, x, w, blocks, start, z);
  bands<A, 2>(n, x, w, blocks, start, z);
}

// The same with W as it lies: some columns and some of their depth at a time are packed, for one use
// by each row, into a panel that the nearest cache holds. A single row takes more columns, as above.
template <class S, class A = typename S::Compute>
void multiply(int64_t n, Rows<const A> x, Transposed<S> w, int64_t blocks, Rows<const A> start,
              Rows<A> z) {
  constexpr int64_t L = lanes<A>;
  alignas(64) A panel[nearest_bytes / sizeof(A)];
  const int64_t width = n == 1 ? 8 : 4;
  const int64_t depth = (n == 1 ? nearest_bytes / 2 : nearest_bytes) / width / VECTOR_BYTES;
  for (int64_t c = 0; c < blocks; c += width) {
    const int64_t some = blocks - c < width ? blocks - c : width;
    const Rows<A> to = z.at(0, c * L);
    Rows<const A> from = start.at(0, c * L);
    for (int64_t k = 0; k == 0 || k < w.K; k += depth) {
      const int64_t K = w.K - k < depth ? w.K - k : depth;
      const Packed<A> packed{panel, K, some, Packed<A>::width_for(n, K, some)};
      for (int64_t i = 0; i < some; ++i) w.at(c + i, k).pack(K, packed.place(i));
      multiply(n, x.at(0, k), packed, some, from, to);
      from = {to.data, to.stride};  // the sums go on
    }
  }
}
