// The input projection of a layer, for one instruction set: W_ih x + b_ih + b_hh.
//
// Included inside the namespace of an instruction set, after product.h. A task computes the projection
// of its own rows and units for a chunk of steps at a time, just before it runs them. So the
// pre-activations stay in cache. Their order within a row is that of z.

// The rows for which one read of W_ih pays.
constexpr int64_t projection_rows = 96;

// The steps [first, first + count) of a chunk.
struct Steps {
  int64_t first, count;
};

// Some rows of the batch: every `step`-th of an order, or of the batch itself.
struct BatchRows {
  int64_t first, step, count;
  const int64_t* order;  // null: that of the batch
  int64_t operator[](int64_t r) const {
    const int64_t b = first + r * step;
    return order == nullptr ? b : order[b];
  }
};

// The projection of some steps, with the same number of rows for each.
template <class A>
struct Projected {
  Steps steps;
  int64_t rows;
  MatrixView<const A> pre;  // null if there is none
};

template <class S>
class InputProjection {
 public:
  using A = typename S::Compute;
  using Element = typename S::Element;
  using Operand = typename Product<S>::Operand;
  using Packed = typename Product<S>::Packed;
  static constexpr int64_t L = lanes<A>;

  InputProjection(const CellParams& p, const Projection& input, int64_t gates, const Plan& plan)
      : p_(p),
        in_(input),
        gates_(gates),
        blocks_((p.H + L - 1) / L * gates),
        size_(Product<S>::packed_size(input.I, blocks_)),
        is_given_(input.input != nullptr),
        is_ahead_(is_given_ && plan.projects_ahead),
        rows_(is_ahead_ ? p.B : (p.B + plan.tiles - 1) / plan.tiles),
        steps_(std::clamp<int64_t>(projection_rows / std::max<int64_t>(1, rows_), 1,
                                   std::max<int64_t>(1, p.T))),
        packs_(is_given_ && plan.tiles * p.T > steps_),
        packed_(packs_ ? p.G * size_ : 0),
        bias_(is_given_ ? p.G * blocks_ * L : 0) {
    if (is_given_) merge_biases();
  }

  bool is_given() const { return is_given_; }
  bool is_ahead() const { return is_ahead_; }  // whether it is computed before all steps
  int64_t steps() const { return steps_; }     // of a chunk

  // The numbers from a row of pre to the next, and those of a thread's chunk.
  int64_t pre_stride() const { return blocks_ * L + L; }
  int64_t pre_size(int64_t rows) const {
    return is_given_ && !is_ahead_ ? steps_ * rows * pre_stride() : 0;
  }

  // The tasks of packing W_ih.
  int64_t pack_tasks() const { return packs_ ? p_.G * blocks_ : 0; }
  void pack(int64_t task) const {
    const int64_t g = task / blocks_, c = task % blocks_;
    Product<S>::pack(weight(g), c, packed(g));
  }

  // The numbers of a thread's copy of a chunk's input.
  int64_t input_size() const {
    return is_given_ ? steps_ * rows_ * Product<S>::row_stride(in_.I) : 0;
  }

  // Computes pre for some steps of the first n rows of a group, and the column blocks
  // [block, block + count). pre has n rows for each step.
  void run(Product<S>& product, int64_t g, Steps steps, const BatchRows& rows, int64_t n,
           int64_t block, int64_t count, Operand* copy, MatrixView<A> pre) const {
    const MatrixView<const Operand> x = input(steps, rows, n, copy);
    const MatrixView<const A> start{bias_.data + (g * blocks_ + block) * L, 0};
    if (packs_) {
      product.multiply(steps.count * n, x, packed(g).at(block), count, start, pre);
    } else {
      product.multiply(steps.count * n, x, weight(g).at(block, 0), count, start, pre);
    }
  }

 private:
  TransposedMatrix<S> weight(int64_t g) const {
    const auto* data = static_cast<const Element*>(in_.weight_ih[p_.direction(g)]);
    return {data + p_.head(g) * p_.H * in_.I, in_.I, p_.H, in_.I, gates_, p_.heads * p_.H};
  }

  Packed packed(int64_t g) const {
    return Product<S>::packed(packed_.data + g * size_, in_.I, blocks_, Packed::narrow);
  }

  // The bias of every column. b_hh of the GRU's n is multiplied by r, and is the cell's unit_param.
  void merge_biases() const {
    __builtin_memset(bias_.data, 0, p_.G * blocks_ * L * sizeof(A));
    for (int64_t g = 0; g < p_.G; ++g)
      for (int64_t k = 0; k < gates_; ++k) {
        const int64_t first = (k * p_.heads + p_.head(g)) * p_.H, d = p_.direction(g);
        const auto *ih = static_cast<const Element*>(in_.bias_ih[d]),
                   *hh = static_cast<const Element*>(in_.bias_hh[d]);
        if (ih == nullptr) continue;
        const bool both = !(p_.cell == Cell::gru && k == 2);
        A* to = bias_.data + (g * blocks_ + k) * L;
        for_each_vector<S>(p_.H, [&](int64_t j, auto load_row, auto) {
          Vector<A> sum = load_row(ih + first);
          if (both) sum += load_row(hh + first);
          store(to + j * gates_, sum);
        });
      }
  }

  // The input of some steps. It is copied unless it can be read where it is.
  MatrixView<const Operand> input(Steps steps, const BatchRows& rows, int64_t n,
                                  Operand* copy) const {
    const auto* data = static_cast<const Element*>(in_.input);
    if constexpr (std::is_same_v<Element, Operand>) {
      const bool are_consecutive = rows.order == nullptr && rows.step == 1,
                 as_is = !p_.offsets && are_consecutive && Product<S>::takes_rows(in_.I);
      const auto* first = data + steps.first * in_.step + rows.first * in_.row;
      if (as_is && n == 1) return {first, in_.step};
      if (as_is && (steps.count == 1 || in_.step == n * in_.row)) return {first, in_.row};
    }
    const int64_t stride = Product<S>::row_stride(in_.I);
    for (int64_t i = 0; i < steps.count; ++i)
      for (int64_t r = 0; r < n; ++r) {
        const int64_t t = steps.first + i, b = rows[r];
        Operand* to = copy + (i * n + r) * stride;
        // Packed data has no row for a step after the last.
        if (!p_.active(t, b)) {
          __builtin_memset(to, 0, stride * sizeof(Operand));
          continue;
        }
        const auto* from =
            data + (p_.offsets ? p_.row(t, b) * in_.row : t * in_.step + b * in_.row);
        Product<S>::copy_row(from, in_.I, to);
      }
    return {copy, stride};
  }

  const CellParams& p_;
  const Projection& in_;
  const int64_t gates_, blocks_, size_;
  const bool is_given_, is_ahead_;
  const int64_t rows_, steps_;  // of a chunk
  const bool packs_;
  const Buffer<Operand> packed_;
  const Buffer<A> bias_;
};
