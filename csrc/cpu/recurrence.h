// The grouped recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after vector.h. One task owns a group and a
// tile of batch rows and runs all of time without talking to another. Each step is a small matrix
// product, z = state W, then a pass over z that adds, activates, rounds and stores:
//
//   forward:  state = h_{t-1},   W = W_hh^T,  h_t  = act(pre_t + z)
//   backward: state = dz_{t+1},  W = W_hh,    dz_t = (dout_t + z) act'(h_t)
//
// Every element of z is one sum over k in ascending order, whatever the tiling: the result does not
// depend on the number of threads.

// Rows and vectors of z held in registers by one pass over k. With 16 registers, 6 x 2 sums, two
// vectors of W and one element of the state just fit; with 32, 8 x 2 leaves loads enough to feed
// both multipliers. Few rows take more columns, so that there are sums enough to hide the latency.
constexpr int max_rows = VECTOR_REGISTERS == 32 ? 8 : 6;
template <int rows>
constexpr int max_columns = rows > 4 ? 2 : rows == 4 ? VECTOR_REGISTERS / 8 : VECTOR_REGISTERS / 4;

// W of one group: for each block of `lanes` columns, its rows one after the other, zero-padded.
template <class A>
struct Packed {
  const A* data;
  int64_t H;
  const A* block(int64_t c) const { return data + c * H * lanes<A>; }
};

// One tile: z[r][c] = sum over k of state[r][k] W[k][c], rows `stride` elements apart.
template <class A, int rows, int columns>
inline void tile(const A* state, int64_t stride, const A* w, int64_t H, A* z) {
  using V = Vector<A>;
  V sum[rows][columns] = {};
  for (int64_t k = 0; k < H; ++k) {
    V row[columns];
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) row[c] = load<V>(w + (c * H + k) * lanes<A>);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < columns; ++c) sum[r][c] += state[r * stride + k] * row[c];
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < columns; ++c) store(z + r * stride + c * lanes<A>, sum[r][c]);
}

// `bands` times `rows` rows, column blocks [begin, end): a block of W stays near for all bands.
template <class A, int rows, int columns = max_columns<rows>>
void bands(const A* state, int64_t stride, Packed<A> w, int64_t begin, int64_t end, int64_t count,
           A* z) {
  int64_t c = begin;
  for (; c + columns <= end; c += columns)
    for (int64_t i = 0; i < count; ++i)
      tile<A, rows, columns>(state + i * rows * stride, stride, w.block(c), w.H,
                             z + i * rows * stride + c * lanes<A>);
  if constexpr (columns > 1)
    if (c < end) bands<A, rows, columns / 2>(state, stride, w, c, end, count, z);
}

// z = state W for n rows and the column blocks [begin, end).
template <class A>
void multiply(const A* state, int64_t stride, Packed<A> w, int64_t begin, int64_t end, int64_t n,
              A* z) {
  int64_t r = 0;
  const auto some = [&](auto rows) {
    const int64_t count = (n - r) / rows;
    if (count) bands<A, rows>(state + r * stride, stride, w, begin, end, count, z + r * stride);
    r += count * rows;
  };
  some(std::integral_constant<int, max_rows>{});
  some(std::integral_constant<int, 4>{});
  some(std::integral_constant<int, 2>{});
  some(std::integral_constant<int, 1>{});
}

// Calls f(j, load, store) for each vector of a row of H elements. The last, partial one is loaded
// and stored through a buffer, so that nothing outside the row is touched.
template <class S, class F>
inline void each_vector(int64_t H, F f) {
  using Stored = typename S::Stored;
  using Element = typename S::Element;
  constexpr int64_t L = lanes<typename S::Compute>;
  int64_t j = 0;
  for (; j + L <= H; j += L)
    f(
        j, [j](const Element* p) { return S::widen(load<Stored>(p + j)); },
        [j](Element* p, Stored v) { store(p + j, v); });
  if (j == H) return;
  const size_t bytes = (H - j) * sizeof(Element);
  f(
      j,
      [=](const Element* p) {
        Stored v = {};
        __builtin_memcpy(&v, p + j, bytes);
        return S::widen(v);
      },
      [=](Element* p, Stored v) { __builtin_memcpy(p + j, &v, bytes); });
}

// The sum of a vector's elements, halving it.
template <class A, class V>
inline A reduce(V v) {
  if constexpr (sizeof(V) == sizeof(A)) {
    return bit_cast<A>(v);
  } else {
    typedef A Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return reduce<A>(halves[0] + halves[1]);
  }
}

// One tile of z = state W_hh^T, from the rows of W_hh as they lie: z[r][c] = state[r] . w[c].
template <class S, int rows, int columns>
inline void tile_unpacked(const typename S::Compute* state, int64_t stride,
                          const typename S::Element* w, int64_t H, typename S::Compute* z) {
  using V = Vector<typename S::Compute>;
  V sum[rows][columns] = {};
  each_vector<S>(H, [&](int64_t k, auto load_row, auto) {
    V h[rows];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) h[r] = load<V>(state + r * stride + k);
#pragma GCC unroll 4
    for (int c = 0; c < columns; ++c) {
      const V row = load_row(w + c * H);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) sum[r][c] += h[r] * row;
    }
  });
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) z[r * stride + c] = reduce<typename S::Compute>(sum[r][c]);
}

// z = state W_hh^T for n rows and the columns [begin, end). For calls of so little work that
// packing W would cost more than it saves. The state's padding must be finite: it meets zeros.
template <class S>
void multiply_unpacked(const typename S::Compute* state, int64_t stride,
                       const typename S::Element* w, int64_t H, int64_t begin, int64_t end,
                       int64_t n, typename S::Compute* z) {
  // Four rows of W_hh stay near while all rows of the state pass.
  const auto each_row = [&](int64_t j, auto columns) {
    const auto tile = [&](int64_t r, auto rows) {
      tile_unpacked<S, rows, columns>(state + r * stride, stride, w + j * H, H,
                                      z + r * stride + j);
    };
    int64_t r = 0;
    if constexpr (VECTOR_REGISTERS == 32)
      for (; r + 6 <= n; r += 6) tile(r, std::integral_constant<int, 6>{});
    for (; r + 2 <= n; r += 2) tile(r, std::integral_constant<int, 2>{});
    if (r < n) tile(r, std::integral_constant<int, 1>{});
  };
  int64_t j = begin;
  for (; j + 4 <= end; j += 4) each_row(j, std::integral_constant<int, 4>{});
  for (; j < end; ++j) each_row(j, std::integral_constant<int, 1>{});
}

template <class S, Activation activation>
struct ForwardPass {
  using Storage = S;
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr bool against_time = false;
  const Forward& p;

  void begin(int64_t b, int64_t g, A* state) const {
    const auto* h0 = static_cast<const Element*>(p.h0) + p.at(b, g);
    each_vector<S>(p.H, [&](int64_t j, auto load_row, auto) { store(state + j, load_row(h0)); });
  }

  void row(int64_t t, int64_t b, int64_t g, bool, A* z, A* state) const {
    const auto* pre = static_cast<const Element*>(p.pre) + p.at(t, b, g);
    auto* out = static_cast<Element*>(p.out) + p.at(t, b, g);
    each_vector<S>(p.H, [&](int64_t j, auto load_row, auto store_row) {
      using V = Vector<A>;
      const V sum = load<V>(z + j) + load_row(pre);
      V h;
      if constexpr (activation == Activation::tanh) {
        h = tanh(sum);
      } else {
        h = sum < 0 ? V{} : sum;  // NaN stays
      }
      const auto stored = S::narrow(h);
      store(state + j, S::widen(stored));
      store_row(out, stored);
    });
  }

  void* output() const { return p.out; }

  void end(int64_t b, int64_t g, bool, A*, const A* state) const {
    auto* h_n = static_cast<Element*>(p.h_n) + p.at(b, g);
    each_vector<S>(p.H, [&](int64_t j, auto, auto store_row) {
      store_row(h_n, S::narrow(load<Vector<A>>(state + j)));
    });
  }
};

template <class S, Activation activation>
struct BackwardPass {
  using Storage = S;
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr bool against_time = true;
  const Backward& p;

  void begin(int64_t, int64_t, A* state) const {
    each_vector<S>(p.H, [&](int64_t j, auto, auto) { store(state + j, Vector<A>{}); });
  }

  // Before its first step a row has no dz: what reaches its state is grad_h_n.
  void first(int64_t b, int64_t g, A* z) const {
    const auto* grad_h_n = static_cast<const Element*>(p.grad_h_n) + p.at(b, g);
    each_vector<S>(p.H, [&](int64_t j, auto load_row, auto) { store(z + j, load_row(grad_h_n)); });
  }

  void row(int64_t t, int64_t b, int64_t g, bool is_first, A* z, A* state) const {
    if (is_first) first(b, g, z);
    const auto* grad_out = static_cast<const Element*>(p.grad_out) + p.at(t, b, g);
    const auto* out = static_cast<const Element*>(p.out) + p.at(t, b, g);
    auto* grad_pre = static_cast<Element*>(p.grad_pre) + p.at(t, b, g);
    each_vector<S>(p.H, [&](int64_t j, auto load_row, auto store_row) {
      using V = Vector<A>;
      const V h = load_row(out);
      const V dh = load_row(grad_out) + load<V>(z + j);
      V dz;
      if constexpr (activation == Activation::tanh) {
        dz = dh * (1 - h * h);
      } else {
        dz = h > 0 ? dh : V{};
      }
      const auto stored = S::narrow(dz);
      store(state + j, S::widen(stored));
      store_row(grad_pre, stored);
    });
  }

  void* output() const { return p.grad_pre; }

  void end(int64_t b, int64_t g, bool never_active, A* z, const A*) const {
    if (never_active) first(b, g, z);
    auto* grad_h0 = static_cast<Element*>(p.grad_h0) + p.at(b, g);
    each_vector<S>(p.H, [&](int64_t j, auto, auto store_row) {
      store_row(grad_h0, S::narrow(load<Vector<A>>(z + j)));
    });
  }
};

// All of time for one group and the batch rows [b0, b1). `product(n, state, stride, z)` computes
// z = state W for the first n rows.
template <class Pass, class Product>
void recur(const Pass& pass, int64_t g, int64_t b0, int64_t b1, Product product) {
  using A = typename Pass::A;
  using Element = typename Pass::Storage::Element;
  const auto& p = pass.p;
  const int64_t n = b1 - b0;
  // Padded to whole vectors, and by one more, so that rows of a power of two do not all fall into
  // the same set of the cache.
  const int64_t stride = ((p.H + lanes<A> - 1) / lanes<A> + 1) * lanes<A>;
  Buffer<A> state(n * stride), z(n * stride);
  __builtin_memset(state.data, 0, n * stride * sizeof(A));
  __builtin_memset(z.data, 0, n * stride * sizeof(A));
  std::vector<char> started(n, 0);
  for (int64_t r = 0; r < n; ++r) pass.begin(b0 + r, g, state.data + r * stride);

  const bool descending = (g >= p.reverse_from) != Pass::against_time;
  const auto cut = [&](int64_t t, int64_t rows) {
    for (int64_t r = 0; p.resets && r < rows; ++r)
      if (p.cut(t, b0 + r, descending))
        __builtin_memset(z.data + r * stride, 0, p.H * sizeof(A));
  };
  for (int64_t i = 0; i < p.T; ++i) {
    const int64_t t = descending ? p.T - 1 - i : i;
    int64_t last = n;  // one past the last active row
    while (last > 0 && !p.active(t, b0 + last - 1)) --last;
    if (!(Pass::against_time && i == 0)) product(last, state.data, stride, z.data);
    cut(t, last);
    for (int64_t r = 0; r < n; ++r) {
      const int64_t b = b0 + r;
      if (p.active(t, b)) {
        pass.row(t, b, g, !started[r], z.data + r * stride, state.data + r * stride);
        started[r] = 1;
      } else if (!p.offsets) {
        auto* row = static_cast<Element*>(pass.output()) + p.at(t, b, g);
        __builtin_memset(row, 0, p.H * sizeof(Element));
      }
    }
  }
  if (Pass::against_time) {
    product(n, state.data, stride, z.data);
    cut(descending ? -1 : p.T, n);
  }
  for (int64_t r = 0; r < n; ++r)
    pass.end(b0 + r, g, !started[r], z.data + r * stride, state.data + r * stride);
}

// Column block c of a group's W, packed. The forward multiplies by W_hh^T, the backward by W_hh.
template <class Pass>
void pack(const Pass& pass, int64_t g, int64_t c, typename Pass::A* to) {
  using S = typename Pass::Storage;
  using A = typename Pass::A;
  constexpr int64_t L = lanes<A>;
  const int64_t H = pass.p.H;
  const auto* from = static_cast<const typename S::Element*>(pass.p.weight_hh) + g * H * H;
  const int64_t width = H - c * L < L ? H - c * L : L;
  if (Pass::against_time) {
    for (int64_t k = 0; k < H; ++k) {
      typename S::Stored row = {};
      __builtin_memcpy(&row, from + k * H + c * L, width * sizeof(typename S::Element));
      store(to + k * L, S::widen(row));
    }
    return;
  }
  // Transpose L x L squares, each of which the nearest cache holds.
  each_vector<S>(H, [&](int64_t k, auto load_row, auto) {
    A square[L][L] = {};
    for (int64_t j = 0; j < width; ++j) {
      const Vector<A> row = load_row(from + (c * L + j) * H);
      for (int64_t i = 0; i < L; ++i) square[i][j] = row[i];
    }
    const int64_t height = H - k < L ? H - k : L;
    __builtin_memcpy(to + k * L, square, height * L * sizeof(A));
  });
}

template <class Pass>
void run(const Pass& pass, const Threads& threads) {
  using S = typename Pass::Storage;
  using A = typename Pass::A;
  constexpr int64_t L = lanes<A>;
  const auto& p = pass.p;
  const Plan plan = make_plan(p, threads.count);
  const auto each = [&](bool parallel, int64_t count, const std::function<void(int64_t)>& task) {
    if (parallel) return threads.run(count, task);
    for (int64_t i = 0; i < count; ++i) task(i);
  };

  // The backward reads W_hh's rows as they lie, so packing costs it little.
  const bool packing = Pass::against_time || plan.packing;
  const int64_t blocks = (p.H + L - 1) / L, size = blocks * p.H * L;
  Buffer<A> packed(packing ? p.G * size : 0);
  if (packing)
    each(plan.parallel_packing, p.G * blocks, [&](int64_t i) {
      pack(pass, i / blocks, i % blocks, packed.data + i * p.H * L);
    });

  // z = state W for n rows of group g and the column blocks [begin, end).
  const auto product = [&](int64_t g, int64_t begin, int64_t end, int64_t n, const A* state,
                           int64_t stride, A* z) {
    if (packing)
      return multiply<A>(state, stride, {packed.data + g * size, p.H}, begin, end, n, z);
    const auto* w = static_cast<const typename S::Element*>(p.weight_hh) + g * p.H * p.H;
    const int64_t last = end * L < p.H ? end * L : p.H;
    multiply_unpacked<S>(state, stride, w, p.H, begin * L, last, n, z);
  };

  if (plan.share_step) {
    // Too few rows to share out: the threads share the columns of each step's product instead.
    for (int64_t g = 0; g < p.G; ++g)
      recur(pass, g, 0, p.B, [&](int64_t n, const A* state, int64_t stride, A* z) {
        threads.run(threads.count, [&](int64_t i) {
          product(g, blocks * i / threads.count, blocks * (i + 1) / threads.count, n, state,
                  stride, z);
        });
      });
    return;
  }
  each(plan.parallel, p.G * plan.tiles, [&](int64_t i) {
    const int64_t g = i / plan.tiles, part = i % plan.tiles;
    recur(pass, g, p.B * part / plan.tiles, p.B * (part + 1) / plan.tiles,
          [&](int64_t n, const A* state, int64_t stride, A* z) {
            product(g, 0, blocks, n, state, stride, z);
          });
  });
}

template <template <class, Activation> class Pass, class S, class P>
void run_activation(const P& p, const Threads& threads) {
  if (p.activation == Activation::tanh) {
    run(Pass<S, Activation::tanh>{p}, threads);
  } else {
    run(Pass<S, Activation::relu>{p}, threads);
  }
}

template <template <class, Activation> class Pass, class P>
void run_any(const P& p, const Threads& threads) {
  switch (p.dtype) {
    case DType::float64: return run_activation<Pass, Plain<double>>(p, threads);
    case DType::float32: return run_activation<Pass, Plain<float>>(p, threads);
    case DType::bfloat16: return run_activation<Pass, BFloat16>(p, threads);
    case DType::float16: return run_activation<Pass, Float16>(p, threads);
  }
}

extern const Kernels kernels = {&run_any<ForwardPass, Forward>, &run_any<BackwardPass, Backward>};
