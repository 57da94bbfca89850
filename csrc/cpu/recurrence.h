// The grouped recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after gemm.h. One task owns a group and a
// tile of batch rows and runs all of time without talking to another; or a team of threads does, each
// of which owns some columns of every step. A step is a small matrix product, z = state W, then a pass
// over z that adds, activates, rounds and stores:
//
//   forward:  state = h_{t-1},   W = W_hh^T,  h_t  = act(pre_t + z)
//   backward: state = dz_{t+1},  W = W_hh,    dz_t = (dout_t + z) act'(h_t)
//
// The state and z need not be of one width: a pass says how many numbers of each a hidden unit has. A
// cell of several gates has them in z forward, and in the state backward.

// Columns of every row: all, or a team member's.
struct Columns {
  int64_t first, count;
};

template <class S, Activation activation>
struct ForwardPass {
  using Storage = S;
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr bool against_time = false;
  static constexpr int64_t state_width = 1, product_width = 1;  // of a unit
  const Forward& p;

  void begin(int64_t b, int64_t g, Columns c, A* state) const {
    const auto* h0 = static_cast<const Element*>(p.h0) + p.at(b, g) + c.first;
    each_vector<S>(c.count, [&](int64_t j, auto load_row, auto) {
      store(state + j, load_row(h0));
    });
  }

  void row(int64_t t, int64_t b, int64_t g, Columns c, bool, A* z, A* state) const {
    const auto* pre = static_cast<const Element*>(p.pre) + p.at(t, b, g) + c.first;
    auto* out = static_cast<Element*>(p.out) + p.at(t, b, g) + c.first;
    each_vector<S>(c.count, [&](int64_t j, auto load_row, auto store_row) {
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

  void end(int64_t b, int64_t g, Columns c, bool, A*, const A* state) const {
    auto* h_n = static_cast<Element*>(p.h_n) + p.at(b, g) + c.first;
    each_vector<S>(c.count, [&](int64_t j, auto, auto store_row) {
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
  static constexpr int64_t state_width = 1, product_width = 1;
  const Backward& p;

  void begin(int64_t, int64_t, Columns c, A* state) const {
    each_vector<S>(c.count, [&](int64_t j, auto, auto) { store(state + j, Vector<A>{}); });
  }

  // Before its first step a row has no dz: what reaches its state is grad_h_n.
  void first(int64_t b, int64_t g, Columns c, A* z) const {
    const auto* grad_h_n = static_cast<const Element*>(p.grad_h_n) + p.at(b, g) + c.first;
    each_vector<S>(c.count, [&](int64_t j, auto load_row, auto) {
      store(z + j, load_row(grad_h_n));
    });
  }

  void row(int64_t t, int64_t b, int64_t g, Columns c, bool is_first, A* z, A* state) const {
    if (is_first) first(b, g, c, z);
    const auto* grad_out = static_cast<const Element*>(p.grad_out) + p.at(t, b, g) + c.first;
    const auto* out = static_cast<const Element*>(p.out) + p.at(t, b, g) + c.first;
    auto* grad_pre = static_cast<Element*>(p.grad_pre) + p.at(t, b, g) + c.first;
    each_vector<S>(c.count, [&](int64_t j, auto load_row, auto store_row) {
      using V = Vector<A>;
      const V h = load_row(out);
      const V dh = load_row(grad_out) + load<V>(z + j);
      V dz;
      if constexpr (activation == Activation::tanh) {
        dz = dh * multiply_add(-h, h, broadcast<A>(1));
      } else {
        dz = h <= 0 ? V{} : dh;  // NaN stays
      }
      const auto stored = S::narrow(dz);
      store(state + j, S::widen(stored));
      store_row(grad_pre, stored);
    });
  }

  void* output() const { return p.grad_pre; }

  void end(int64_t b, int64_t g, Columns c, bool never_active, A* z, const A*) const {
    if (never_active) first(b, g, c, z);
    auto* grad_h0 = static_cast<Element*>(p.grad_h0) + p.at(b, g) + c.first;
    each_vector<S>(c.count, [&](int64_t j, auto, auto store_row) {
      store_row(grad_h0, S::narrow(load<Vector<A>>(z + j)));
    });
  }
};

// The state of some rows. Their units are zero-padded to whole vectors, and by one more, so that rows
// of a power of two do not all fall into the same set of the cache. A team has two, and writes the next
// step's while this one's is read.
template <class A>
struct State {
  const int64_t stride, size;  // units from a row to the next; numbers, `width` of a unit
  Buffer<A> buffers[2];

  State(int64_t rows, int64_t H, int64_t width, bool two)
      : stride(((H + lanes<A> - 1) / lanes<A> + 1) * lanes<A>),
        size(rows * stride * width),
        buffers{Buffer<A>(size), Buffer<A>(two ? size : 0)} {
    for (int i = 0; i <= two; ++i) __builtin_memset(buffers[i].data, 0, size * sizeof(A));
  }
};

// What whoever runs the steps needs besides: z, and which rows have begun. It is taken before a team
// forms, in which nobody may fail: the others would wait for ever.
template <class A>
struct Scratch {
  const int64_t size;  // of z, `width` numbers of a unit
  Buffer<A> z;
  Buffer<char> started;

  Scratch(const State<A>& states, int64_t rows, int64_t width)
      : size(rows * states.stride * width), z(size), started(rows) {}
};

// A member of a team, or the one who does without.
struct Member {
  Team* team;
  int64_t me;
  void meet() const {
    if (team != nullptr) team->meet(me);
  }
};

// All of time for one group, the batch rows [b0, b1) and some columns. `product(n, state, z, backwards)`
// computes these columns of z = state W for the first n rows, see `multiply`.
template <class Pass, class Product>
void recur(const Pass& pass, int64_t g, int64_t b0, int64_t b1, Columns columns,
           State<typename Pass::A>& states, const Scratch<typename Pass::A>& scratch, Member member,
           Product product) {
  using A = typename Pass::A;
  using Element = typename Pass::Storage::Element;
  const auto& p = pass.p;
  constexpr int64_t state_width = Pass::state_width, product_width = Pass::product_width;
  const int64_t n = b1 - b0, stride = states.stride, first = columns.first;
  const size_t bytes = columns.count * sizeof(A);
  A* state = states.buffers[0].data;
  A* next = states.buffers[member.team != nullptr].data;
  A* const z = scratch.z.data;
  char* const started = scratch.started.data;
  __builtin_memset(z, 0, scratch.size * sizeof(A));
  __builtin_memset(started, 0, n);
  for (int64_t r = 0; r < n; ++r)
    pass.begin(b0 + r, g, columns, state + (r * stride + first) * state_width);
  member.meet();

  const bool descending = (g >= p.reverse_from) != Pass::against_time;
  const auto apply_resets = [&](int64_t t, int64_t rows) {
    for (int64_t r = 0; p.resets && r < rows; ++r)
      if (p.crosses_reset(t, b0 + r, descending))
        __builtin_memset(z + (r * stride + first) * product_width, 0, bytes * product_width);
  };
  for (int64_t i = 0; i < p.T; ++i) {
    const int64_t t = descending ? p.T - 1 - i : i;
    int64_t last = n;  // one past the last active row
    while (last > 0 && !p.active(t, b0 + last - 1)) --last;
    if (!(Pass::against_time && i == 0)) product(last, state, z, i % 2 != 0);
    apply_resets(t, last);
    for (int64_t r = 0; r < n; ++r) {
      const int64_t b = b0 + r, unit = r * stride + first;
      const int64_t of_state = unit * state_width, of_product = unit * product_width;
      if (p.active(t, b)) {
        pass.row(t, b, g, columns, !started[r], z + of_product, next + of_state);
        started[r] = 1;
        continue;
      }
      if (next != state)
        __builtin_memcpy(next + of_state, state + of_state, bytes * state_width);
      if (!p.offsets) {
        auto* row = static_cast<Element*>(pass.output()) + p.at(t, b, g) + first;
        __builtin_memset(row, 0, columns.count * sizeof(Element));
      }
    }
    std::swap(state, next);
    member.meet();
  }
  if (Pass::against_time) {
    product(n, state, z, false);
    apply_resets(descending ? -1 : p.T, n);
  }
  for (int64_t r = 0; r < n; ++r) {
    const int64_t unit = r * stride + first;
    pass.end(b0 + r, g, columns, !started[r], z + unit * product_width, state + unit * state_width);
  }
}

// Column block c of a group's W for the backward, which multiplies by W_hh: packed, row by row.
template <class S, class A = typename S::Compute>
void pack_rows(const typename S::Element* from, int64_t H, int64_t c, Rows<A> to) {
  constexpr int64_t L = lanes<A>;
  const int64_t width = H - c * L < L ? H - c * L : L;
  for (int64_t k = 0; k < H; ++k) {
    typename S::Stored row = {};
    __builtin_memcpy(&row, from + k * H + c * L, width * sizeof(typename S::Element));
    store(to.at(k, 0).data, S::widen(row));
  }
}

template <class Pass>
void run(const Pass& pass, const Threads& threads) {
  using S = typename Pass::Storage;
  using A = typename Pass::A;
  constexpr int64_t L = lanes<A>;
  const auto& p = pass.p;
  const int64_t blocks = (p.H + L - 1) / L, size = blocks * p.H * L;
  constexpr int64_t gates = Pass::state_width * Pass::product_width;
  const Plan plan = make_plan(p, threads.count, blocks, gates);
  const auto each = [&](bool parallel, int64_t count, const std::function<void(int64_t)>& task) {
    if (parallel) return threads.run(count, task);
    for (int64_t i = 0; i < count; ++i) task(i);
  };

  const auto weight = [&](int64_t g) {
    return Transposed<S>{static_cast<const typename S::Element*>(p.weight_hh) + g * p.H * p.H, p.H,
                         p.H, p.H};
  };
  const bool packing = Pass::against_time || plan.packing;
  const int64_t rows = (p.B + plan.tiles - 1) / plan.tiles;  // of a tile, at most
  const int64_t width = Packed<A>::width_for(rows, p.H, blocks, plan.team);
  Buffer<A> memory(packing ? p.G * size : 0), zeros(blocks * L);
  __builtin_memset(zeros.data, 0, blocks * L * sizeof(A));
  const auto packed = [&](int64_t g) {
    return Packed<A>{memory.data + g * size, p.H, blocks, width};
  };
  if (packing)
    each(plan.parallel_packing, p.G * blocks, [&](int64_t i) {
      const int64_t g = i / blocks, c = i % blocks;
      const Rows<A> to = packed(g).place(c);
      if (Pass::against_time) {
        pack_rows<S>(weight(g).data, p.H, c, to);
      } else {
        weight(g).at(c, 0).pack(p.H, to);
      }
    });

  // All of time for group g, the rows [b0, b1) and the bands [begin, end).
  const auto some = [&](int64_t g, int64_t b0, int64_t b1, int64_t begin, int64_t end,
                        State<A>& states, const Scratch<A>& scratch, Member member) {
    const int64_t from = begin * width, to = end * width < blocks ? end * width : blocks;
    const Columns columns{from * L, (to * L < p.H ? to * L : p.H) - from * L};
    recur(pass, g, b0, b1, columns, states, scratch, member,
          [&](int64_t n, const A* state, A* z, bool backwards) {
            const Rows<const A> x{state, states.stride * Pass::state_width}, start{zeros.data, 0};
            const Rows<A> sums{z + from * L * Pass::product_width,
                               states.stride * Pass::product_width};
            if (packing) {
              multiply(n, x, packed(g).at(from), to - from, start, sums, backwards);
            } else {
              multiply(n, x, weight(g).at(from, 0), to - from, start, sums);
            }
          });
  };
  const int64_t bands = (blocks + width - 1) / width;

  if (plan.team > 1) {
    // Too few rows to share out: teams of threads share each step's columns instead.
    std::deque<Team> teams;
    std::deque<State<A>> states;
    std::deque<Scratch<A>> scratch;
    for (int64_t g = 0; g < p.G; ++g) {
      teams.emplace_back(plan.team);
      states.emplace_back(p.B, p.H, Pass::state_width, true);
      for (int64_t me = 0; me < plan.team; ++me)
        scratch.emplace_back(states[g], p.B, Pass::product_width);
    }
    threads.run(p.G * plan.team, [&](int64_t i) {
      const int64_t g = i % p.G;
      const int64_t me = teams[g].join();
      if (me < 0) return;
      const int64_t n = teams[g].size();
      some(g, 0, p.B, bands * me / n, bands * (me + 1) / n, states[g],
           scratch[g * plan.team + me], Member{&teams[g], me});
    });
    for (const Team& team : teams)
      if (team.crowded()) note_crowding();
    return;
  }
  each(plan.parallel, p.G * plan.tiles, [&](int64_t i) {
    const int64_t g = i / plan.tiles, part = i % plan.tiles;
    const int64_t b0 = p.B * part / plan.tiles, b1 = p.B * (part + 1) / plan.tiles;
    State<A> state(b1 - b0, p.H, Pass::state_width, false);
    some(g, b0, b1, 0, bands, state, Scratch<A>(state, b1 - b0, Pass::product_width), Member{});
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
