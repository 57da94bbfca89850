// The linear operator, out = bias + input weight^T, for one instruction set.
//
// Included inside the namespace of an instruction set, after product.h. A task computes some rows and
// column blocks of the result. Every sum starts from the bias.

template <class S>
struct LinearTask {
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr int64_t L = lanes<A>;
  using View = MatrixView<const typename Product<S>::Operand>;
  static constexpr bool is_plain = std::is_same_v<Element, A>;
  const LinearParams& p;
  const A* bias;                              // [N], padded to whole vectors
  const typename Product<S>::Packed* packed;  // the weight, or null

  // z = bias + x weight^T for n rows and the column blocks [begin, end).
  void compute(Product<S>& product, int64_t n, View x, int64_t begin, int64_t end,
               MatrixView<A> z) const {
    const MatrixView<const A> start{bias + begin * L, 0};
    if (packed != nullptr) return product.multiply(n, x, packed->at(begin), end - begin, start, z);
    const TransposedMatrix<S> w{static_cast<const Element*>(p.weight), p.K, p.N, p.K};
    product.multiply(n, x, w.at(begin, 0), end - begin, start, z);
  }

  // Computes rows [first, first + n) and column blocks [begin, end) of the result.
  void run(int64_t first, int64_t n, int64_t begin, int64_t end) const {
    const auto* input = static_cast<const Element*>(p.input) + first * p.K;
    auto* out = static_cast<Element*>(p.out) + first * p.N;
    Product<S> product;
    const typename Product<S>::Rows rows(input, p.K, n, p.K);
    const View x = rows.view();
    if constexpr (is_plain) {
      // Whole panels are stored directly in the result.
      constexpr int64_t panel = PackedMatrix<A>::narrow;
      const int64_t whole = end * L <= p.N ? end : p.N / L / panel * panel;
      compute(product, n, x, begin, whole, {out + begin * L, p.N});
      if (whole < end) run_buffered(product, n, x, whole, end, out);
    } else {
      for (int64_t c = begin; c < end; c += 8)
        run_buffered(product, n, x, c, c + 8 < end ? c + 8 : end, out);
    }
  }

  // Computes the sums in a buffer, and converts and stores their valid part.
  void run_buffered(Product<S>& product, int64_t n, View x, int64_t begin, int64_t end,
                    Element* out) const {
    const int64_t stride = (end - begin) * L;
    Buffer<A> z(n * stride);
    compute(product, n, x, begin, end, {z.data, stride});
    const int64_t columns = (end * L < p.N ? end * L : p.N) - begin * L;
    for (int64_t r = 0; r < n; ++r)
      for_each_vector<S>(columns, [&](int64_t j, auto, auto store_row) {
        store_row(out + r * p.N + begin * L, S::narrow(load<Vector<A>>(z.data + r * stride + j)));
      });
  }
};

template <class S>
void linear_with(const LinearParams& p, const Threads& threads) {
  using A = typename S::Compute;
  using Element = typename S::Element;
  constexpr int64_t L = lanes<A>;
  const int64_t blocks = (p.N + L - 1) / L;
  const LinearPlan plan = make_plan(p, threads.count, blocks);
  const auto run_tasks = [&](int64_t count, const std::function<void(int64_t)>& task) {
    if (plan.parallel) return threads.run(count, task);
    for (int64_t i = 0; i < count; ++i) task(i);
  };
  using Packed = typename Product<S>::Packed;
  Buffer<A> bias(blocks * L);
  Buffer<typename Product<S>::Operand> memory(plan.packing ? Product<S>::packed_size(p.K, blocks)
                                                           : 0);
  const Packed packed = Product<S>::packed(memory.data, p.K, blocks, Packed::narrow);
  __builtin_memset(bias.data, 0, blocks * L * sizeof(A));
  if (p.bias != nullptr)
    for_each_vector<S>(p.N, [&](int64_t j, auto load_row, auto) {
      store(bias.data + j, load_row(static_cast<const Element*>(p.bias)));
    });
  if (plan.packing) {
    const TransposedMatrix<S> w{static_cast<const Element*>(p.weight), p.K, p.N, p.K};
    run_tasks(blocks, [&](int64_t c) { Product<S>::pack(w, c, packed); });
  }
  const LinearTask<S> task{p, bias.data, plan.packing ? &packed : nullptr};
  run_tasks(plan.row_parts * plan.column_parts, [&](int64_t i) {
    const int64_t r = i / plan.column_parts, c = i % plan.column_parts;
    const int64_t first = p.M * r / plan.row_parts, last = p.M * (r + 1) / plan.row_parts;
    task.run(first, last - first, blocks * c / plan.column_parts,
             blocks * (c + 1) / plan.column_parts);
  });
}

inline void linear(const LinearParams& p, const Threads& threads) {
  switch (p.dtype) {
    case DType::float64: return linear_with<Plain<double>>(p, threads);
    case DType::float32: return linear_with<Plain<float>>(p, threads);
    case DType::bfloat16: return linear_with<BFloat16>(p, threads);
    case DType::float16: return linear_with<Float16>(p, threads);
  }
}
