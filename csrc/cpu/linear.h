// The linear operator, out = bias + input weight^T, for one instruction set.
//
// Included inside the namespace of an instruction set, after product.h. A task computes some rows
// and column blocks of the result. Every sum starts from the bias.

// W is TransposedMatrix or RowMajorMatrix, as the weight is stored.
template <class S, class W>
struct LinearTask {
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr int64_t L = lanes<A>;
  using View = MatrixView<const typename Product<S>::Operand>;
  static constexpr bool is_plain = std::is_same_v<Element, A>;
  const LinearParams& p;
  const A* bias;                              // [N], padded to whole vectors
  const typename Product<S>::Packed* packed;  // the weight of each part, or null

  static W weight(const LinearParams& p, int part) {
    const auto* data = static_cast<const Element*>(p.weight[part]);
    if constexpr (std::is_same_v<W, RowMajorMatrix<S>>) {
      return {data, p.N, p.K};
    } else {
      return {data, p.K, p.N, p.K, 1, p.N};
    }
  }

  // z = start + x weight^T of a part, for n rows and the column blocks [begin, end). Each part starts
  // from the sum of the previous one.
  void compute(Product<S>& product, int part, int64_t n, View x, int64_t begin, int64_t end,
               MatrixView<A> z) const {
    const MatrixView<const A> start =
        part > 0 ? MatrixView<const A>{z.data, z.stride} : MatrixView<const A>{bias + begin * L, 0};
    const int64_t blocks = end - begin;
    if (packed != nullptr) return product.multiply(n, x, packed[part].at(begin), blocks, start, z);
    product.multiply(n, x, weight(p, part).at(begin, 0), blocks, start, z);
  }

  // Computes rows [first, first + n) and column blocks [begin, end) of the result.
  void run(int64_t first, int64_t n, int64_t begin, int64_t end) const {
    auto* out = static_cast<Element*>(p.out) + first * p.N;
    std::deque<ProductRows<S>> rows;
    for (int i = 0; i < p.parts; ++i)
      rows.emplace_back(static_cast<const Element*>(p.input[i]) + first * p.K, p.K, n, p.K);
    Product<S> product;
    if constexpr (is_plain) {
      // Whole panels are stored directly in the result.
      constexpr int64_t panel = PackedMatrix<A>::narrow;
      const int64_t whole = end * L <= p.N ? end : p.N / L / panel * panel;
      for (int i = 0; i < p.parts; ++i)
        compute(product, i, n, rows[i].view(), begin, whole, {out + begin * L, p.N});
      if (whole < end) run_buffered(product, n, rows, whole, end, out);
    } else {
      for (int64_t c = begin; c < end; c += 8)
        run_buffered(product, n, rows, c, c + 8 < end ? c + 8 : end, out);
    }
  }

  // Computes the sums in a buffer, and converts and stores their valid part.
  void run_buffered(Product<S>& product, int64_t n, const std::deque<ProductRows<S>>& rows,
                    int64_t begin, int64_t end, Element* out) const {
    const int64_t stride = (end - begin) * L;
    Buffer<A> buffer(n * stride);
    const MatrixView<A> z{buffer.data, stride};
    for (int i = 0; i < p.parts; ++i) compute(product, i, n, rows[i].view(), begin, end, z);
    const int64_t columns = (end * L < p.N ? end * L : p.N) - begin * L;
    for (int64_t r = 0; r < n; ++r)
      for_each_vector<S>(columns, [&](int64_t j, auto, auto store_row) {
        store_row(out + r * p.N + begin * L, S::narrow(load<Vector<A>>(z.at(r, j).data)));
      });
  }
};

template <class S, class W>
void linear_with(const LinearParams& p, const Threads& threads) {
  using A = typename S::Compute;
  using Element = typename S::Element;
  constexpr int64_t L = lanes<A>;
  using Packed = typename Product<S>::Packed;
  const int64_t blocks = (p.N + L - 1) / L, size = Product<S>::packed_size(p.K, blocks);
  const LinearPlan plan = make_plan(p, threads.count, blocks);
  const auto run_tasks = [&](int64_t count, const std::function<void(int64_t)>& task) {
    if (plan.parallel) return threads.run(count, task);
    const FlushDenormals flush;
    for (int64_t i = 0; i < count; ++i) task(i);
  };
  Buffer<A> bias(blocks * L);
  Buffer<typename Product<S>::Operand> memory(plan.packing ? p.parts * size : 0);
  const Packed packed[2] = {
      Product<S>::packed(memory.data, p.K, blocks, Packed::narrow),
      Product<S>::packed(memory.data + size, p.K, blocks, Packed::narrow),
  };
  __builtin_memset(bias.data, 0, blocks * L * sizeof(A));
  if (p.bias != nullptr)
    for_each_vector<S>(p.N, [&](int64_t j, auto load_row, auto) {
      store(bias.data + j, load_row(static_cast<const Element*>(p.bias)));
    });
  using Task = LinearTask<S, W>;
  if (plan.packing)
    run_tasks(p.parts * blocks, [&](int64_t i) {
      const int64_t part = i / blocks, c = i % blocks;
      Product<S>::pack(Task::weight(p, part), c, packed[part]);
    });
  const Task task{p, bias.data, plan.packing ? packed : nullptr};
  run_tasks(plan.row_parts * plan.column_parts, [&](int64_t i) {
    const int64_t r = i / plan.column_parts, c = i % plan.column_parts;
    const int64_t first = p.M * r / plan.row_parts, last = p.M * (r + 1) / plan.row_parts;
    task.run(first, last - first, blocks * c / plan.column_parts,
             blocks * (c + 1) / plan.column_parts);
  });
}

template <class S>
void linear_of(const LinearParams& p, const Threads& threads) {
  if (p.transposed) return linear_with<S, RowMajorMatrix<S>>(p, threads);
  linear_with<S, TransposedMatrix<S>>(p, threads);
}

inline void linear(const LinearParams& p, const Threads& threads) {
  switch (p.dtype) {
    case DType::float64: return linear_of<Plain<double>>(p, threads);
    case DType::float32: return linear_of<Plain<float>>(p, threads);
    case DType::bfloat16: return linear_of<BFloat16>(p, threads);
    case DType::float16: return linear_of<Float16>(p, threads);
  }
}
