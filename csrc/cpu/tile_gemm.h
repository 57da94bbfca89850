// The matrix product in bfloat16 by tile instructions, z = start + x W.
//
// Included inside the namespace of an instruction set, after product.h and tile.h. x and W stay in
// bfloat16, zero-padded in k to whole tiles. An element of z is `start` plus the sums of 32
// products, in ascending order of k, for every tiling and storage of W. The instruction sums the 16
// products of even k and the 16 of odd k, and adds the two (Intel's manual, volume 2, TDPBF16PS;
// the intrinsics guide gives another order). So a row's result does not depend on the other rows,
// the number of threads, or the parts of W, which have whole tiles of k.
//
// The instruction takes denormal numbers as 0 and returns 0 for them, and rounds to nearest even.

static_assert(lanes<float> * sizeof(float) == tile_row_bytes, "a column block is a tile wide");

// Numbers of k in a tile of x or W.
constexpr int64_t tile_depth = tile_row_bytes / sizeof(BFloat16::Element);

inline int64_t whole_tiles(int64_t K) { return (K + tile_depth - 1) / tile_depth * tile_depth; }

// W [K, columns], K a multiple of tile_depth, packed as the instruction reads it:
// [column block][k / 2][column][k % 2].
struct PackedTiles {
  using Element = BFloat16::Element;
  Element* data;
  int64_t K, blocks, panel_width;

  static constexpr int64_t narrow = 2;

  // The micro-kernel has two column blocks, which need not be contiguous.
  static int64_t panel_width_for(int64_t, int64_t, int64_t, int64_t = 1, int64_t = 1) {
    return narrow;
  }

  PackedTiles at(int64_t block) const {
    return {column_block(block), K, blocks - block, panel_width};
  }
  Element* column_block(int64_t block) const { return data + block * K * lanes<float>; }
};

// Packs the first `depth` rows of the first column block of W, and zeros up to a whole tile. A pair
// of rows in a column is 4 bytes, as a float is: so this transposes floats, whose bits stay.
inline void pack_pairs(const TransposedMatrix<BFloat16>& w, int64_t depth, BFloat16::Element* to) {
  constexpr int64_t L = lanes<float>;
  const int64_t first = w.block / w.gates * L, rows = w.N - first < L ? w.N - first : L;
  const auto* from = w.data + (w.block % w.gates * w.gate_rows + first) * w.stride;
  for (int64_t k = 0; k < depth; k += tile_depth) {
    const int64_t left = depth - k;
    Vector<float> square[L] = {};
    for (int64_t j = 0; j < rows; ++j) {
      if (left >= tile_depth) {
        square[j] = load<Vector<float>>(from + j * w.stride + k);
      } else {
        __builtin_memcpy(&square[j], from + j * w.stride + k, left * sizeof(BFloat16::Element));
      }
    }
    transpose<float>(square);
    for (int64_t i = 0; i < L; ++i) store(to + k * L + i * tile_depth, square[i]);
  }
}

// The same for W that is stored by rows.
inline void pack_pairs(const RowMajorMatrix<BFloat16>& w, int64_t depth, BFloat16::Element* to) {
  constexpr int64_t L = lanes<float>;
  const int64_t first = w.block * L, width = w.N - first < L ? w.N - first : L;
  const auto row = [&](int64_t k) {
    if (k >= depth) return Bits{};
    return bit_cast<Bits>(load_part<BFloat16>(w.data + k * w.N + first, width)) >> 16;
  };
  for (int64_t k = 0; k < whole_tiles(depth); k += 2) store(to + k * L, row(k) | row(k + 1) << 16);
}

// The tiles: z of two tiles of rows and two column blocks, x of the rows, and W of the blocks.
enum Tile { z00, z01, z10, z11, x0, x1, w0, w1 };

// Computes z of one or two tiles of rows and one or two column blocks. Each next block of W begins
// `block` numbers after the last.
template <int row_tiles, int columns>
inline void tile_micro_kernel(MatrixView<const BFloat16::Element> x, const BFloat16::Element* w,
                              int64_t block, int64_t K, MatrixView<const float> start,
                              MatrixView<float> z) {
  constexpr bool two_rows = row_tiles == 2, two_columns = columns == 2;
  constexpr int64_t L = lanes<float>;
  const int64_t x_bytes = x.stride * sizeof(*x.data), z_bytes = z.stride * sizeof(float);
  if (start.data == nullptr) {
    tilezero<z00>();
    if constexpr (two_columns) tilezero<z01>();
    if constexpr (two_rows) tilezero<z10>();
    if constexpr (two_rows && two_columns) tilezero<z11>();
  } else {
    const int64_t bytes = start.stride * sizeof(float);
    tileloadd<z00>(start.data, bytes);
    if constexpr (two_columns) tileloadd<z01>(start.at(0, L).data, bytes);
    if constexpr (two_rows) tileloadd<z10>(start.at(tile_rows, 0).data, bytes);
    if constexpr (two_rows && two_columns) tileloadd<z11>(start.at(tile_rows, L).data, bytes);
  }
  for (int64_t k = 0; k < K; k += tile_depth) {
    tileloadd<x0>(x.at(0, k).data, x_bytes);
    tileloadd<w0>(w + k * L, tile_row_bytes);
    tdpbf16ps<z00, x0, w0>();
    if constexpr (two_columns) {
      tileloadd<w1>(w + block + k * L, tile_row_bytes);
      tdpbf16ps<z01, x0, w1>();
    }
    if constexpr (two_rows) {
      tileloadd<x1>(x.at(tile_rows, k).data, x_bytes);
      tdpbf16ps<z10, x1, w0>();
    }
    if constexpr (two_rows && two_columns) tdpbf16ps<z11, x1, w1>();
  }
  tilestored<z00>(z.data, z_bytes);
  if constexpr (two_columns) tilestored<z01>(z.at(0, L).data, z_bytes);
  if constexpr (two_rows) tilestored<z10>(z.at(tile_rows, 0).data, z_bytes);
  if constexpr (two_rows && two_columns) tilestored<z11>(z.at(tile_rows, L).data, z_bytes);
}

// The tiles of the calling thread, configured for the rows of a product. They are released at the
// end, also those of another object in the same thread, which then configures them again.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() {
    if (rows_ == 0) return;
    tilerelease();
    rows_ = 0;
  }

  // For up to two tiles of rows. Tiles of the exact height access no memory beyond the last row.
  void configure(int64_t rows) {
    if (rows == rows_) return;
    const int64_t first = rows < tile_rows ? rows : tile_rows;
    TileConfig config;
    for (const Tile tile : {z00, z01, x0}) set(config, tile, first);
    for (const Tile tile : {z10, z11, x1}) set(config, tile, rows - first);
    for (const Tile tile : {w0, w1}) set(config, tile, tile_rows);
    ldtilecfg(config);
    rows_ = rows;
  }

 private:
  static void set(TileConfig& config, Tile tile, int64_t rows) {
    config.rows[tile] = rows;
    config.row_bytes[tile] = rows > 0 ? tile_row_bytes : 0;
  }
  static inline thread_local int64_t rows_ = 0;  // that the tiles are configured for
};

// float32 tensors whose products are those of bfloat16: x and W are rounded as they are packed.
struct MediumFloat : Plain<float> {};

// The 16 bits of some numbers, rounded to bfloat16, in the low half of each lane.
template <class S>
inline Bits bfloat16_bits(const typename S::Element* from, int64_t n) {
  return __builtin_convertvector(BFloat16::narrow(load_part<S>(from, n)), Bits);
}

// Packs rows of float32 as `pack_pairs` does, by way of a column block in float32.
template <class Matrix>
inline void pack_rounded_pairs(const Matrix& w, int64_t depth, BFloat16::Element* to) {
  constexpr int64_t L = lanes<float>;
  Buffer<float> block(depth * L);
  w.pack(depth, {block.data, L});
  const auto row = [&](int64_t k) {
    return k < depth ? bfloat16_bits<Plain<float>>(block.data + k * L, L) : Bits{};
  };
  for (int64_t k = 0; k < whole_tiles(depth); k += 2) store(to + k * L, row(k) | row(k + 1) << 16);
}
inline void pack_pairs(const TransposedMatrix<MediumFloat>& w, int64_t depth,
                       BFloat16::Element* to) {
  pack_rounded_pairs(w, depth, to);
}
inline void pack_pairs(const RowMajorMatrix<MediumFloat>& w, int64_t depth, BFloat16::Element* to) {
  pack_rounded_pairs(w, depth, to);
}

template <>
struct Product<BFloat16> {
  using A = float;
  using Element = BFloat16::Element;
  using Operand = Element;
  using Packed = PackedTiles;
  using View = MatrixView<const Element>;

  static int64_t packed_size(int64_t K, int64_t blocks) {
    return whole_tiles(K) * blocks * lanes<A>;
  }

  // Whole tiles plus one. So rows begin at a cache line, and the last tile of k ends within the row.
  static int64_t state_stride(int64_t H) { return whole_tiles(H) + tile_depth; }

  static Vector<A> load_state(const Operand* from) { return BFloat16::widen(load<HalfBits>(from)); }

  // The values beyond `count` must be 0, as they are multiplied by zeros: NaN would remain.
  static void store_state(Operand* to, HalfBits values, int64_t count) {
    if (count < lanes<A>) {
      constexpr HalfBits index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
      values &= (HalfBits)(index < static_cast<Element>(count));
    }
    store(to, values);
  }

  // Tiles are set to 0 without a load.
  static const A* start_at_zero(const A*) { return nullptr; }

  static Packed packed(Element* data, int64_t K, int64_t blocks, int64_t panel_width) {
    return {data, whole_tiles(K), blocks, panel_width};
  }

  template <class Matrix>
  static void pack(const Matrix& from, int64_t c, const Packed& to) {
    pack_pairs(from.at(c, 0), from.K, to.column_block(c));
  }

  static constexpr bool rounds_state = false;

  template <class S = BFloat16>
  static void pack_rows(const typename S::Element* from, int64_t H, int64_t gates, int64_t c,
                        const Packed& to) {
    constexpr int64_t L = lanes<A>;
    const int64_t width = H - c * L < L ? H - c * L : L, rows = gates * H;
    Element* block = to.column_block(c);
    Bits even{};
    const auto store_pair = [&](int64_t row, Bits odd) {
      store(block + row / 2 * tile_depth, even | odd << 16);
    };
    for_each_state_row<A>(H, gates, [&](int64_t row, int64_t stored_row) {
      const Bits values = bfloat16_bits<S>(from + stored_row * H + c * L, width);
      if (row % 2 != 0) return store_pair(row, values);
      even = values;
    });
    if (rows % 2 != 0) store_pair(rows, Bits{});
    for (int64_t pair = (rows + 1) / 2; pair < to.K / 2; ++pair)
      store(block + pair * tile_depth, Bits{});
  }

  // The last tile of k must not exceed the row.
  static bool takes_rows(int64_t K) { return K % tile_depth == 0; }
  static int64_t row_stride(int64_t K) { return state_stride(K); }
  static void copy_row(const Element* from, int64_t K, Element* to) {
    __builtin_memcpy(to, from, K * sizeof(Element));
    __builtin_memset(to + K, 0, (whole_tiles(K) - K) * sizeof(Element));
  }

  void multiply(int64_t n, View x, const Packed& w, int64_t blocks, MatrixView<const A> start,
                MatrixView<A> z, bool reverse = false) {
    constexpr int64_t rows_at_once = 2 * tile_rows;
    const int64_t pairs = (blocks + 1) / 2;
    for (int64_t r = 0; r < n; r += rows_at_once) {
      const int64_t rows = n - r < rows_at_once ? n - r : rows_at_once;
      tiles_.configure(rows);
      for (int64_t i = 0; i < pairs; ++i) {
        const int64_t c = 2 * (reverse ? pairs - 1 - i : i), j = c * lanes<A>;
        const MatrixView<const A> from = start.data == nullptr ? start : start.at(r, j);
        const auto run = [&](auto kernel) {
          kernel(x.at(r, 0), w.column_block(c), w.K * lanes<A>, w.K, from, z.at(r, j));
        };
        if (rows > tile_rows) {
          c + 1 < blocks ? run(tile_micro_kernel<2, 2>) : run(tile_micro_kernel<2, 1>);
        } else {
          c + 1 < blocks ? run(tile_micro_kernel<1, 2>) : run(tile_micro_kernel<1, 1>);
        }
      }
    }
  }

  // W as it is stored: two column blocks and a part of K at a time are packed into a buffer that
  // fits into L1.
  template <class Matrix>
  void multiply(int64_t n, View x, const Matrix& w, int64_t blocks, MatrixView<const A> start,
                MatrixView<A> z) {
    constexpr int64_t L = lanes<A>, width = PackedTiles::narrow;
    constexpr int64_t depth = l1_bytes / 2 / sizeof(Element) / (width * L);
    static_assert(depth % tile_depth == 0, "so that the order of the sums stays");
    alignas(64) Element buffer[depth * width * L];
    for (int64_t c = 0; c < blocks; c += width) {
      const int64_t some = blocks - c < width ? blocks - c : width;
      const MatrixView<A> to = z.at(0, c * L);
      MatrixView<const A> from = start.data == nullptr ? start : start.at(0, c * L);
      for (int64_t k = 0; k == 0 || k < w.K; k += depth) {
        const int64_t K = w.K - k < depth ? w.K - k : depth;
        const Packed part = packed(buffer, K, some, width);
        for (int64_t i = 0; i < some; ++i) pack_pairs(w.at(c + i, k), K, part.column_block(i));
        multiply(n, x.at(0, k), part, some, from, to);
        from = {to.data, to.stride};  // continue the sums
      }
    }
  }

 private:
  Tiles tiles_;
};

template <>
struct Product<MediumFloat> : Product<BFloat16> {
  using Element = float;
  static constexpr bool rounds_state = true;

  static void store_state(Operand* to, Vector<float> values, int64_t count) {
    Product<BFloat16>::store_state(to, BFloat16::narrow(values), count);
  }

  static void pack_rows(const float* from, int64_t H, int64_t gates, int64_t c, const Packed& to) {
    Product<BFloat16>::pack_rows<MediumFloat>(from, H, gates, c, to);
  }

  static bool takes_rows(int64_t) { return false; }
  static void copy_row(const float* from, int64_t K, Operand* to) {
    for_each_vector<MediumFloat>(K, [&](int64_t k, auto load_row, auto) {
      store(to + k, BFloat16::narrow(load_row(from)));
    });
    __builtin_memset(to + K, 0, (whole_tiles(K) - K) * sizeof(Operand));
  }
};
