// The grouped recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after product.h. One task owns a group and a
// tile of batch rows and runs all of time without talking to another. Each step is a small matrix
// product, z = state W, then a pass over z that adds, activates, rounds and stores:
//
//   forward:  state = h_{t-1},   W = W_hh^T,  h_t  = act(pre_t + z)
//   backward: state = dz_{t+1},  W = W_hh,    dz_t = (dout_t + z) act'(h_t)

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
        dz = dh * multiply_add(-h, h, broadcast<A>(1));
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

// Column block c of a group's W for the backward, which multiplies by W_hh: packed, row by row.
template <class S, class A = typename S::Compute>
void pack_rows(const typename S::Element* from, int64_t H, int64_t c, A* to) {
  constexpr int64_t L = lanes<A>;
  const int64_t width = H - c * L < L ? H - c * L : L;
  for (int64_t k = 0; k < H; ++k) {
    typename S::Stored row = {};
    __builtin_memcpy(&row, from + k * H + c * L, width * sizeof(typename S::Element));
    store(to + k * L, S::widen(row));
  }
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

  const auto weight = [&](int64_t g) {
    return Transposed<S>{static_cast<const typename S::Element*>(p.weight_hh) + g * p.H * p.H, p.H,
                         p.H, p.H};
  };
  const bool packing = Pass::against_time || plan.packing;
  const int64_t blocks = (p.H + L - 1) / L, size = blocks * p.H * L;
  Buffer<A> packed(packing ? p.G * size : 0), zeros(blocks * L);
  __builtin_memset(zeros.data, 0, blocks * L * sizeof(A));
  if (packing)
    each(plan.parallel_packing, p.G * blocks, [&](int64_t i) {
      const int64_t g = i / blocks, c = i % blocks;
      A* to = packed.data + i * p.H * L;
      if (Pass::against_time) {
        pack_rows<S>(weight(g).data, p.H, c, to);
      } else {
        weight(g).at(c, 0).pack(p.H, to);
      }
    });

  // z = state W for n rows of group g and the column blocks [begin, end).
  const auto product = [&](int64_t g, int64_t begin, int64_t end, int64_t n, const A* state,
                           int64_t stride, A* z) {
    const Rows<const A> x{state, stride}, start{zeros.data, 0};
    const Rows<A> to{z + begin * L, stride};
    if (packing) {
      multiply(n, x, Packed<A>{packed.data + g * size, p.H}.at(begin), end - begin, start, to);
    } else {
      multiply(n, x, weight(g).at(begin, 0), end - begin, start, to);
    }
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
