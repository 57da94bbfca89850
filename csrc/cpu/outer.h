// Sums of outer products, out = sum over k of a_k b_k^T, for one instruction set: the gradients of
// a layer's weights where they are too small for a library's matrix product.
//
// Included inside the namespace of an instruction set, after gemm.h.

// Sums the products of K rows for `rows` rows of a vector each. `load_row` loads a vector of a row
// of b.
template <class A, int rows, class Load>
inline void add_products(int64_t K, const A* const* a, int64_t m, const A* const* b, Load load_row,
                         Vector<A>* sums) {
  Vector<A> sum[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sum[r] = Vector<A>{};
  for (int64_t k = 0; k < K; ++k) {
    if (b[k] == nullptr) continue;
    const Vector<A> row = load_row(b[k]);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) sum[r] = multiply_add(broadcast<A>(a[k][m + r]), row, sum[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) sums[r] = sum[r];
}

template <class A, int rows = 8, class... More>
inline void dispatch_products(int64_t n, More... more) {
  if constexpr (rows > 0) {
    if (n < rows) return dispatch_products<A, rows - 1>(n, more...);
    add_products<A, rows>(more...);
  }
}

// Adds the products of some rows to `out`, or stores them if they are the first.
template <class A>
void outer_chunk(int64_t M, int64_t N, int64_t K, const A* const* a, const A* const* b, A* out,
                 bool first) {
  for_each_vector<Plain<A>>(N, [&](int64_t, auto load_row, auto store_row) {
    for (int64_t m = 0; m < M; m += 8) {
      const int64_t rows = M - m < 8 ? M - m : 8;
      Vector<A> sums[8];
      dispatch_products<A>(rows, K, a, m, b, load_row, sums);
      for (int64_t r = 0; r < rows; ++r) {
        A* to = out + (m + r) * N;
        store_row(to, first ? sums[r] : load_row(to) + sums[r]);
      }
    }
  });
}

// Some rows at a time stay in cache, and are converted if they are not stored as computed. The sum
// of the parts' sums is more accurate than one long sum.
template <class S>
void outer_with(const OuterParams& p) {
  using A = typename S::Compute;
  using Element = typename S::Element;
  constexpr bool is_plain = std::is_same_v<Element, A>;
  constexpr int64_t depth = 256, L = lanes<A>;
  const int64_t some = p.K < depth ? p.K : depth;
  const int64_t a_width = (p.M + L - 1) / L * L, b_width = (p.N + L - 1) / L * L;
  const bool narrows = !is_plain && !p.is_wide;
  Buffer<A> converted(is_plain ? 0 : some * (a_width + b_width)), buffer(narrows ? p.M * p.N : 0);
  A* const sums = narrows ? buffer.data : static_cast<A*>(p.out);
  const A *a[depth], *b[depth];
  const auto row = [](const void* from, int64_t offset, int64_t n, A* to) -> const A* {
    if (from == nullptr) return nullptr;
    const auto* row = static_cast<const Element*>(from) + offset;
    if constexpr (is_plain) {
      return row;
    } else {
      for_each_vector<S>(n, [&](int64_t j, auto load_row, auto) { store(to + j, load_row(row)); });
      return to;
    }
  };
  for (int64_t k = 0; k == 0 || k < p.K; k += depth) {
    const int64_t count = p.K - k < depth ? p.K - k : depth;
    for (int64_t i = 0; i < count; ++i) {
      A* to = converted.data + i * (a_width + b_width);
      a[i] = row(p.a[k + i], p.a_offset, p.M, to);
      b[i] = row(p.b[k + i], p.b_offset, p.N, to + a_width);
    }
    outer_chunk<A>(p.M, p.N, count, a, b, sums, k == 0);
  }
  if (narrows) {
    const int64_t size = p.M * p.N;
    for_each_vector<S>(size, [&](int64_t j, auto, auto store_row) {
      const int64_t left = size - j < L ? size - j : L;
      store_row(static_cast<Element*>(p.out), S::narrow(load_part<Plain<A>>(sums + j, left)));
    });
  }
}

inline void outer(const OuterParams& p) {
  switch (p.dtype) {
    case DType::float64: return outer_with<Plain<double>>(p);
    case DType::float32: return outer_with<Plain<float>>(p);
    case DType::bfloat16: return outer_with<BFloat16>(p);
    case DType::float16: return outer_with<Float16>(p);
  }
}
