// What the recurrence and the linear operator multiply: z = start + x W, for elements of S.
//
// Included inside the namespace of an instruction set, after gemm.h. Here x and W are converted to
// the type of computation. An instruction set that multiplies elements as they are stored
// specializes `Product`, see tile_gemm.h. z and `start` always have the type of computation, and
// the column blocks of gemm.h.

// Calls f(row, stored_row) for every row of W_hh, in the order of the backward's state: for each
// vector of units, those of all gates.
template <class A, class F>
inline void for_each_state_row(int64_t H, int64_t gates, F f) {
  constexpr int64_t L = lanes<A>;
  for (int64_t j = 0, row = 0; j < H; j += L)
    for (int64_t gate = 0; gate < gates; ++gate)
      for (int64_t k = j; k < H && k < j + L; ++k, ++row) f(row, gate * H + k);
}

// A task makes its own, on the thread that runs it: it may use registers that must be released.
template <class S>
struct Product {
  using A = typename S::Compute;
  using Element = typename S::Element;
  using Stored = typename S::Stored;
  using Operand = A;  // a number of x, and of W once it is packed
  using Packed = PackedMatrix<A>;

  // The numbers that W [K, blocks] has once it is packed, and W in memory of this size.
  static int64_t packed_size(int64_t K, int64_t blocks) { return K * blocks * lanes<A>; }
  static Packed packed(Operand* data, int64_t K, int64_t blocks, int64_t panel_width) {
    return {data, K, blocks, panel_width};
  }

  // Whether x has lost digits of a state, which its row must keep elsewhere.
  static constexpr bool rounds_state = false;

  // The units from a row of states to the next: zero-padded to whole vectors plus one, so that rows
  // of a power of two do not map to the same cache set.
  static int64_t state_stride(int64_t H) { return ((H + lanes<A> - 1) / lanes<A> + 1) * lanes<A>; }

  static Vector<A> load_state(const Operand* from) { return load<Vector<A>>(from); }

  // Stores a whole vector, of which only the first `count` values count: x never reads the others,
  // or they are overwritten.
  static void store_state(Operand* to, Stored values, int64_t count) {
    static_cast<void>(count);
    store(to, S::widen(values));
  }

  // What a product starts from if it starts from 0, given zeros.
  static const A* start_at_zero(const A* zeros) { return zeros; }

  // Packs column block c of W.
  static void pack(const TransposedMatrix<S>& from, int64_t c, const Packed& to) {
    from.at(c, 0).pack(to.K, to.column_block(c));
  }
  static void pack(const RowMajorMatrix<S>& from, int64_t c, const Packed& to) {
    from.at(c, 0).pack(to.K, to.column_block(c));
  }

  // Packs column block c of a group's W_hh, by which backward multiplies.
  static void pack_rows(const Element* from, int64_t H, int64_t gates, int64_t c,
                        const Packed& to) {
    constexpr int64_t L = lanes<A>;
    const MatrixView<A> block = to.column_block(c);
    const int64_t width = H - c * L < L ? H - c * L : L;
    for_each_state_row<A>(H, gates, [&](int64_t row, int64_t stored_row) {
      store(block.at(row, 0).data, load_part<S>(from + stored_row * H + c * L, width));
    });
  }

  // Whether rows of K elements can be x of a product as they are. Otherwise they are copied.
  static bool takes_rows(int64_t) { return std::is_same_v<Element, A>; }
  static int64_t row_stride(int64_t K) { return state_stride(K); }
  static void copy_row(const Element* from, int64_t K, Operand* to) {
    for_each_vector<S>(K, [&](int64_t k, auto load_row, auto) { store(to + k, load_row(from)); });
  }

  // z = start + x W for n rows and the first `blocks` column blocks of W, see `gemm`.
  void multiply(int64_t n, MatrixView<const Operand> x, const Packed& w, int64_t blocks,
                MatrixView<const A> start, MatrixView<A> z, bool reverse = false) const {
    gemm(n, x, w, blocks, start, z, reverse);
  }
  // The same for W as it is stored, a TransposedMatrix or a RowMajorMatrix.
  template <class Matrix>
  void multiply(int64_t n, MatrixView<const Operand> x, const Matrix& w, int64_t blocks,
                MatrixView<const A> start, MatrixView<A> z) const {
    gemm(n, x, w, blocks, start, z);
  }
};

// n rows of K elements as x of a product.
template <class S>
class ProductRows {
 public:
  using Element = typename S::Element;
  using Operand = typename Product<S>::Operand;

  ProductRows(const Element* from, int64_t from_stride, int64_t n, int64_t K)
      : copies_(!Product<S>::takes_rows(K)),
        copy_(copies_ ? n * Product<S>::row_stride(K) : 0),
        view_{copy_.data, Product<S>::row_stride(K)} {
    if constexpr (std::is_same_v<Element, Operand>)
      if (!copies_) view_ = {from, from_stride};
    for (int64_t r = 0; copies_ && r < n; ++r)
      Product<S>::copy_row(from + r * from_stride, K, copy_.data + r * view_.stride);
  }
  MatrixView<const Operand> view() const { return view_; }

 private:
  const bool copies_;
  Buffer<Operand> copy_;
  MatrixView<const Operand> view_;
};
