// The passes over a row of a step, after the product with W_hh, for one instruction set.
//
// Included inside the namespace of an instruction set, after product.h and the cells. A pass loads
// what a step of the cell needs, runs it for a vector of units at a time, and stores the results.
// A unit has `z_width` numbers in the product's result z and `state_width` in the product's
// operand, the state. Within each vector of units, all numbers of one kind are contiguous.

// The hidden units of every row that a task computes: all, or those of a team member.
struct Units {
  int64_t first, count;
};

// A row of a step, and the units to compute.
struct Row {
  int64_t t, b, g;
  Units units;
};

// What a row keeps between steps in addition to its state, at its first unit: `carry` is c in the
// forward, and in the backward the gradient that reaches the previous state without W_hh. `h` is the
// state itself if the product rounds it. In a layer `pre` is the projection of the row's step, in
// the order of z.
template <class A>
struct RowMemory {
  A *carry, *h;
  const A* pre;
  A *reset_h, *reset_c;  // sums of the gradients of the states at which resets start
};

// An element of a tensor that may be absent.
template <class Element>
inline const Element* element(const void* data, int64_t index) {
  return data == nullptr ? nullptr : static_cast<const Element*>(data) + index;
}
template <class Element>
inline Element* element(void* data, int64_t index) {
  return data == nullptr ? nullptr : static_cast<Element*>(data) + index;
}

// The unit_param of a row's first unit.
template <class Element>
inline const Element* param_of(const CellParams& p, const Row& row) {
  return element<Element>(p.unit_param[p.direction(row.g)], p.head(row.g) * p.H + row.units.first);
}

// Loads a row's numbers into cache: `gates` times `count`, H apart.
template <class Element>
inline void prefetch_row(const Element* data, int64_t gates, int64_t H, int64_t count) {
  constexpr int64_t line = 64 / sizeof(Element);
  for (int64_t k = 0; k < gates; ++k)
    for (int64_t j = 0; j < count; j += line) __builtin_prefetch(data + k * H + j);
}

template <class S, class C>
struct ForwardPass {
  using Storage = S;
  using Cell = C;
  using A = typename S::Compute;
  using V = Vector<A>;
  using Element = typename S::Element;
  using Operand = typename Product<S>::Operand;
  static constexpr bool is_backward = false;
  static constexpr int64_t K = Cell::gates;
  static constexpr int64_t state_width = 1, z_width = K, carry_width = Cell::has_c;
  static constexpr bool rounds_state = Product<S>::rounds_state;
  const CellForward& p;

  // Starts a sequence from h0 and c0, or after a reset from reset_h and reset_c.
  void start(const Row& row, bool reset, Operand* state, RowMemory<A> memory) const {
    const int64_t index = p.state_at(row.b, row.g) + row.units.first;
    const auto *h = element<Element>(reset ? p.reset_h : p.h0, index),
               *c = element<Element>(reset ? p.reset_c : p.c0, index);
    for_each_vector<S>(row.units.count, [&](int64_t j, auto load_row, auto) {
      V first = h ? load_row(h) : V{};
      if constexpr (Cell::has_c) {
        const V c0 = c ? load_row(c) : V{};
        store(memory.carry + j, c0);
        if constexpr (Cell::h_is_act_of_c) first = S::widen(S::narrow(Cell::act(c0)));
      }
      Product<S>::store_state(state + j, S::narrow(first), row.units.count - j);
      if constexpr (rounds_state) store(memory.h + j, first);
    });
  }

  void run(const Row& row, bool, A* z, const Operand* before, Operand* state,
           RowMemory<A> memory) const {
    const int64_t H = p.H, index = p.at(row.t, row.b, row.g), first = row.units.first;
    const auto* pre = element<Element>(p.pre, index * K + first);
    const auto* unit_param = param_of<Element>(p, row);
    auto *out = element<Element>(p.out, index + first),
         *gates = element<Element>(p.gates, index * K + first),
         *inner = element<Element>(p.inner, index + first);
    for_each_vector<S>(row.units.count, [&](int64_t j, auto load_row, auto store_row) {
      V x[K], product[K], param{};
      for (int k = 0; k < K; ++k) {
        x[k] = memory.pre ? load<V>(memory.pre + j * K + k * lanes<A>) : load_row(pre + k * H);
        product[k] = load<V>(z + j * K + k * lanes<A>);
      }
      UnitState<V> last{};
      if constexpr (Cell::keeps_h) last.h = state_of(before, memory, j);
      if constexpr (Cell::has_c) last.c = load<V>(memory.carry + j);
      if constexpr (Cell::has_unit_param)
        if (unit_param) param = load_row(unit_param);
      const auto step =
          Cell::forward(x, product, last, param, [](V v) { return S::widen(S::narrow(v)); });
      const auto h = S::narrow(step.state.h);
      Product<S>::store_state(state + j, h, row.units.count - j);
      if constexpr (rounds_state) store(memory.h + j, S::widen(h));
      store_row(out, h);
      if constexpr (Cell::has_c) store(memory.carry + j, step.state.c);
      if constexpr (Cell::saves) {
        if (gates == nullptr) return;
        for (int k = 0; k < K; ++k) store_row(gates + k * H, S::narrow(step.gates[k]));
        if constexpr (Cell::has_inner) store_row(inner, S::narrow(step.inner));
      }
    });
  }

  static bool needs_first_state() { return false; }

  // A vector of a row's state.
  static V state_of(const Operand* state, RowMemory<A> memory, int64_t j) {
    if constexpr (rounds_state) {
      return load<V>(memory.h + j);
    } else {
      return Product<S>::load_state(state + j);
    }
  }

  void prefetch(const Row& row) const {
    if (p.pre == nullptr) return;
    prefetch_row(element<Element>(p.pre, p.at(row.t, row.b, row.g) * K + row.units.first), K, p.H,
                 row.units.count);
  }

  // Sets the results of a row to 0 where it is inactive.
  void clear(const Row& row) const {
    const int64_t index = p.at(row.t, row.b, row.g), first = row.units.first;
    const size_t bytes = row.units.count * sizeof(Element);
    __builtin_memset(element<Element>(p.out, index + first), 0, bytes);
    if (p.gates == nullptr) return;
    for (int k = 0; k < K; ++k)
      __builtin_memset(element<Element>(p.gates, index * K + k * p.H + first), 0, bytes);
    if constexpr (Cell::has_inner)
      __builtin_memset(element<Element>(p.inner, index + first), 0, bytes);
  }

  void end(const Row& row, bool, A*, const Operand* state, RowMemory<A> memory) const {
    const int64_t index = p.state_at(row.b, row.g) + row.units.first;
    auto *h_n = element<Element>(p.h_n, index), *c_n = element<Element>(p.c_n, index);
    for_each_vector<S>(row.units.count, [&](int64_t j, auto, auto store_row) {
      store_row(h_n, S::narrow(state_of(state, memory, j)));
      if constexpr (Cell::has_c) store_row(c_n, S::narrow(load<V>(memory.carry + j)));
    });
  }
};

template <class S, class C>
struct BackwardPass {
  using Storage = S;
  using Cell = C;
  using A = typename S::Compute;
  using V = Vector<A>;
  using Element = typename S::Element;
  using Operand = typename Product<S>::Operand;
  static constexpr bool is_backward = true;
  static constexpr int64_t K = Cell::gates;
  static constexpr int64_t state_width = K, z_width = 1;
  static constexpr int64_t carry_width = Cell::has_c || Cell::keeps_h;
  static constexpr bool rounds_state = false;  // its state is used by the product alone
  const CellBackward& p;

  void start(const Row& row, bool, Operand*, RowMemory<A> memory) const {
    if constexpr (carry_width > 0) {
      const auto* grad_c_n = element<Element>(p.grad_c_n, state_index(row));
      for_each_vector<S>(row.units.count, [&](int64_t j, auto load_row, auto) {
        store(memory.carry + j, grad_c_n ? load_row(grad_c_n) : V{});
      });
    }
  }

  // Whether the gradient of the state before the first step is wanted.
  bool needs_first_state() const {
    return p.grad_h0 || p.grad_c0 || p.grad_reset_h || p.grad_reset_c;
  }

  // Before a row's first step there is no dz: the gradient of its state is grad_h_n.
  void load_grad_h_n(const Row& row, A* z) const {
    const auto* grad_h_n = element<Element>(p.grad_h_n, state_index(row));
    for_each_vector<S>(row.units.count, [&](int64_t j, auto load_row, auto) {
      store(z + j, grad_h_n ? load_row(grad_h_n) : V{});
    });
  }

  // The index of the first unit of a row's state.
  int64_t state_index(const Row& row) const { return p.state_at(row.b, row.g) + row.units.first; }

  // The first unit of a row of grad_pre.
  Element* grad_pre_of(const Row& row) const {
    const int64_t index = p.at(p.grad_pre_layout, p.row(row.t, row.b), row.g);
    return element<Element>(p.grad_pre, index + row.units.first);
  }

  // The state before a step, as stored; null: 0.
  UnitState<const Element*> state_before(const Row& row) const {
    const bool descending = row.g >= p.reverse_from;
    const int64_t previous = descending ? row.t + 1 : row.t - 1;
    const int64_t state = state_index(row);
    if (p.crosses_reset(row.t, row.b, descending))
      return {element<Element>(p.reset_h, state), element<Element>(p.reset_c, state)};
    if (previous < 0 || previous >= p.T || !p.active(previous, row.b))
      return {element<Element>(p.h0, state), element<Element>(p.c0, state)};
    const int64_t index = p.at(previous, row.b, row.g) + row.units.first;
    return {element<Element>(p.out, index), element<Element>(p.inner, index)};
  }

  void run(const Row& row, bool is_first, A* z, const Operand*, Operand* state,
           RowMemory<A> memory) const {
    if (is_first) load_grad_h_n(row, z);
    const int64_t H = p.H, index = p.at(row.t, row.b, row.g), first = row.units.first;
    const auto *grad_out = element<Element>(p.grad_out, index + first),
               *out = element<Element>(p.out, index + first),
               *gates = element<Element>(p.gates, index * K + first),
               *inner = element<Element>(p.inner, index + first);
    const auto* unit_param = param_of<Element>(p, row);
    const auto before = Cell::saves ? state_before(row) : UnitState<const Element*>{};
    auto *grad_pre = grad_pre_of(row),
         *grad_unit_param = element<Element>(p.grad_unit_param, index + first);
    const int64_t gate = p.grad_pre_layout.gate;
    for_each_vector<S>(row.units.count, [&](int64_t j, auto load_row, auto store_row) {
      UnitState<V> grad{load<V>(z + j), V{}}, last{};
      if (grad_out) grad.h += load_row(grad_out);
      if constexpr (Cell::keeps_h) {
        grad.h += load<V>(memory.carry + j);
        if (before.h) last.h = load_row(before.h);
      }
      UnitStep<V, K> step{};
      if constexpr (Cell::has_c) {
        grad.c = load<V>(memory.carry + j);
        if (before.c) last.c = load_row(before.c);
      }
      if constexpr (Cell::saves) {
        for (int k = 0; k < K; ++k) step.gates[k] = load_row(gates + k * H);
        if constexpr (Cell::has_inner) step.inner = load_row(inner);
      } else {
        step.state.h = load_row(out);
      }
      V param{};
      if constexpr (Cell::has_unit_param)
        if (unit_param) param = load_row(unit_param);
      const auto gradients = Cell::backward(grad, step, last, param);
      const int64_t width = row.units.count - j < lanes<A> ? row.units.count - j : lanes<A>;
      for (int k = 0; k < K; ++k) {
        // Beyond the row's last unit, the next gate's numbers overwrite the rest of the vector.
        Product<S>::store_state(state + j * K + k * width, S::narrow(gradients.z[k]), width);
        store_row(grad_pre + k * gate, S::narrow(gradients.pre[k]));
      }
      if constexpr (Cell::has_unit_param)
        store_row(grad_unit_param, S::narrow(gradients.unit_param));
      if constexpr (carry_width > 0)
        store(memory.carry + j, Cell::has_c ? gradients.before.c : gradients.before.h);
    });
  }

  void prefetch(const Row& row) const {
    const int64_t index = p.at(row.t, row.b, row.g), first = row.units.first;
    if (p.grad_out)
      prefetch_row(element<Element>(p.grad_out, index + first), 1, p.H, row.units.count);
    if constexpr (Cell::saves)
      prefetch_row(element<Element>(p.gates, index * K + first), K, p.H, row.units.count);
    if constexpr (Cell::has_inner)
      prefetch_row(element<Element>(p.inner, index + first), 1, p.H, row.units.count);
    if constexpr (!Cell::saves || Cell::keeps_h)
      prefetch_row(element<Element>(p.out, index + first), 1, p.H, row.units.count);
  }

  // The gradient of the state before a sequence's first step belongs to the state from which the
  // reset started.
  void reset(const Row& row, A* z, RowMemory<A> memory) const {
    for_each_vector<S>(row.units.count, [&](int64_t j, auto, auto) {
      V h = load<V>(z + j);
      if constexpr (Cell::keeps_h) h += load<V>(memory.carry + j);
      if (memory.reset_h) store(memory.reset_h + j, load<V>(memory.reset_h + j) + h);
      if constexpr (Cell::has_c)
        if (memory.reset_c)
          store(memory.reset_c + j, load<V>(memory.reset_c + j) + load<V>(memory.carry + j));
      store(z + j, V{});
      if constexpr (carry_width > 0) store(memory.carry + j, V{});
    });
  }

  void clear(const Row& row) const {
    const int64_t index = p.at(row.t, row.b, row.g), first = row.units.first;
    const size_t bytes = row.units.count * sizeof(Element);
    for (int k = 0; k < K; ++k)
      __builtin_memset(grad_pre_of(row) + k * p.grad_pre_layout.gate, 0, bytes);
    if constexpr (Cell::has_unit_param)
      __builtin_memset(element<Element>(p.grad_unit_param, index + first), 0, bytes);
  }

  void end(const Row& row, bool never_active, A* z, const Operand*, RowMemory<A> memory) const {
    if (never_active) load_grad_h_n(row, z);
    const int64_t index = state_index(row);
    auto *grad_h0 = element<Element>(p.grad_h0, index),
         *grad_c0 = element<Element>(p.grad_c0, index),
         *grad_reset_h = element<Element>(p.grad_reset_h, index),
         *grad_reset_c = element<Element>(p.grad_reset_c, index);
    for_each_vector<S>(row.units.count, [&](int64_t j, auto, auto store_row) {
      V h = load<V>(z + j);
      if constexpr (Cell::keeps_h) h += load<V>(memory.carry + j);
      if (grad_h0) store_row(grad_h0, S::narrow(h));
      if constexpr (Cell::has_c)
        if (grad_c0) store_row(grad_c0, S::narrow(load<V>(memory.carry + j)));
      if (grad_reset_h) store_row(grad_reset_h, S::narrow(load<V>(memory.reset_h + j)));
      if (grad_reset_c) store_row(grad_reset_c, S::narrow(load<V>(memory.reset_c + j)));
    });
  }
};
