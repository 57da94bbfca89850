// The grouped recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after gemm.h. One task owns a group and a
// tile of batch rows and runs all steps independently. Alternatively a team of threads runs them,
// and each thread owns some columns of every step. A step is a small matrix product, z = state W,
// followed by a pass over z that adds, activates, rounds and stores:
//
//   forward:  state = h_{t-1},   W = W_hh^T,  h_t  = act(pre_t + z)
//   backward: state = dz_{t+1},  W = W_hh,    dz_t = (dout_t + z) act'(h_t)
//
// The state and z may differ in width: a pass defines how many numbers of each a hidden unit has. A
// cell of several gates has them in z forward, and in the state backward.

// The columns of every row that a task computes: all, or those of a team member.
struct Columns {
  int64_t first, count;
};

template <class S, Activation activation>
struct ForwardPass {
  using Storage = S;
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr bool is_backward = false;
  static constexpr int64_t state_width = 1, z_width = 1;  // of a unit
  const Forward& p;

  void begin(int64_t b, int64_t g, Columns c, A* state) const {
    const auto* h0 = static_cast<const Element*>(p.h0) + p.at(b, g) + c.first;
    for_each_vector<S>(c.count,
                       [&](int64_t j, auto load_row, auto) { store(state + j, load_row(h0)); });
  }

  void row(int64_t t, int64_t b, int64_t g, Columns c, bool, A* z, A* state) const {
    const auto* pre = static_cast<const Element*>(p.pre) + p.at(t, b, g) + c.first;
    auto* out = static_cast<Element*>(p.out) + p.at(t, b, g) + c.first;
    for_each_vector<S>(c.count, [&](int64_t j, auto load_row, auto store_row) {
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

  void* result() const { return p.out; }

  void end(int64_t b, int64_t g, Columns c, bool, A*, const A* state) const {
    auto* h_n = static_cast<Element*>(p.h_n) + p.at(b, g) + c.first;
    for_each_vector<S>(c.count, [&](int64_t j, auto, auto store_row) {
      store_row(h_n, S::narrow(load<Vector<A>>(state + j)));
    });
  }
};

template <class S, Activation activation>
struct BackwardPass {
  using Storage = S;
  using A = typename S::Compute;
  using Element = typename S::Element;
  static constexpr bool is_backward = true;
  static constexpr int64_t state_width = 1, z_width = 1;
  const Backward& p;

  void begin(int64_t, int64_t, Columns c, A* state) const {
    for_each_vector<S>(c.count, [&](int64_t j, auto, auto) { store(state + j, Vector<A>{}); });
  }

  // Before a row's first step there is no dz: the gradient of its state is grad_h_n.
  void load_grad_h_n(int64_t b, int64_t g, Columns c, A* z) const {
    const auto* grad_h_n = static_cast<const Element*>(p.grad_h_n) + p.at(b, g) + c.first;
    for_each_vector<S>(c.count,
                       [&](int64_t j, auto load_row, auto) { store(z + j, load_row(grad_h_n)); });
  }

  void row(int64_t t, int64_t b, int64_t g, Columns c, bool is_first, A* z, A* state) const {
    if (is_first) load_grad_h_n(b, g, c, z);
    const auto* grad_out = static_cast<const Element*>(p.grad_out) + p.at(t, b, g) + c.first;
    const auto* out = static_cast<const Element*>(p.out) + p.at(t, b, g) + c.first;
    auto* grad_pre = static_cast<Element*>(p.grad_pre) + p.at(t, b, g) + c.first;
    for_each_vector<S>(c.count, [&](int64_t j, auto load_row, auto store_row) {
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

  void* result() const { return p.grad_pre; }

  void end(int64_t b, int64_t g, Columns c, bool never_active, A* z, const A*) const {
    if (never_active) load_grad_h_n(b, g, c, z);
    auto* grad_h0 = static_cast<Element*>(p.grad_h0) + p.at(b, g) + c.first;
    for_each_vector<S>(c.count, [&](int64_t j, auto, auto store_row) {
      store_row(grad_h0, S::narrow(load<Vector<A>>(z + j)));
    });
  }
};

// The state of some rows. Units are zero-padded to whole vectors plus one, so that rows of a power
// of two do not map to the same cache set. A team has two buffers, and writes the next step's state
// while it reads the current one.
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

// The memory of one thread that runs steps: z, and which rows have started. It is allocated before
// a team forms: a member that failed would leave the others waiting forever.
template <class A>
struct Scratch {
  const int64_t size;  // of z, `width` numbers of a unit
  Buffer<A> z;
  Buffer<char> started;

  Scratch(const State<A>& states, int64_t rows, int64_t width)
      : size(rows * states.stride * width), z(size), started(rows) {}
};

// A member of a team, or a thread without one.
struct TeamMember {
  ThreadTeam* team;
  int64_t rank;
  void barrier() const {
    if (team != nullptr) team->barrier(rank);
  }
};

// Runs all steps of a group for batch rows [b0, b1) and some columns. product(n, state, z, reverse)
// computes these columns of z = state W for the first n rows, see `gemm`.
template <class Pass, class Product>
void run_steps(const Pass& pass, int64_t g, int64_t b0, int64_t b1, Columns columns,
               State<typename Pass::A>& states, const Scratch<typename Pass::A>& scratch,
               TeamMember member, Product product) {
  using A = typename Pass::A;
  using Element = typename Pass::Storage::Element;
  const auto& p = pass.p;
  constexpr int64_t state_width = Pass::state_width, z_width = Pass::z_width;
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
  member.barrier();

  const bool descending = (g >= p.reverse_from) != Pass::is_backward;
  const auto apply_resets = [&](int64_t t, int64_t rows) {
    for (int64_t r = 0; p.resets && r < rows; ++r)
      if (p.crosses_reset(t, b0 + r, descending))
        __builtin_memset(z + (r * stride + first) * z_width, 0, bytes * z_width);
  };
  for (int64_t i = 0; i < p.T; ++i) {
    const int64_t t = descending ? p.T - 1 - i : i;
    int64_t last = n;  // one past the last active row
    while (last > 0 && !p.active(t, b0 + last - 1)) --last;
    if (!(Pass::is_backward && i == 0)) product(last, state, z, i % 2 != 0);
    apply_resets(t, last);
    for (int64_t r = 0; r < n; ++r) {
      const int64_t b = b0 + r, unit = r * stride + first;
      const int64_t state_offset = unit * state_width, z_offset = unit * z_width;
      if (p.active(t, b)) {
        pass.row(t, b, g, columns, !started[r], z + z_offset, next + state_offset);
        started[r] = 1;
        continue;
      }
      if (next != state)
        __builtin_memcpy(next + state_offset, state + state_offset, bytes * state_width);
      if (!p.offsets) {
        auto* row = static_cast<Element*>(pass.result()) + p.at(t, b, g) + first;
        __builtin_memset(row, 0, columns.count * sizeof(Element));
      }
    }
    std::swap(state, next);
    member.barrier();
  }
  if (Pass::is_backward) {
    product(n, state, z, false);
    apply_resets(descending ? -1 : p.T, n);
  }
  for (int64_t r = 0; r < n; ++r) {
    const int64_t unit = r * stride + first;
    pass.end(b0 + r, g, columns, !started[r], z + unit * z_width, state + unit * state_width);
  }
}

// Packs column block c of a group's W_hh, by which backward multiplies, row by row.
template <class S, class A = typename S::Compute>
void pack_rows(const typename S::Element* from, int64_t H, int64_t c, MatrixView<A> to) {
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
  constexpr int64_t gates = Pass::state_width * Pass::z_width;
  const Plan plan = make_plan(p, threads.count, blocks, gates);
  const auto run_tasks = [&](bool parallel, int64_t count,
                             const std::function<void(int64_t)>& task) {
    if (parallel) return threads.run(count, task);
    for (int64_t i = 0; i < count; ++i) task(i);
  };

  const auto weight = [&](int64_t g) {
    return TransposedMatrix<S>{static_cast<const typename S::Element*>(p.weight_hh) + g * p.H * p.H,
                               p.H, p.H, p.H};
  };
  const bool packing = Pass::is_backward || plan.packing;
  const int64_t rows = (p.B + plan.tiles - 1) / plan.tiles;  // of a tile, at most
  const int64_t panel_width = PackedMatrix<A>::panel_width_for(rows, p.H, blocks, plan.team_size);
  Buffer<A> memory(packing ? p.G * size : 0), zeros(blocks * L);
  __builtin_memset(zeros.data, 0, blocks * L * sizeof(A));
  const auto packed = [&](int64_t g) {
    return PackedMatrix<A>{memory.data + g * size, p.H, blocks, panel_width};
  };
  if (packing)
    run_tasks(plan.parallel_packing, p.G * blocks, [&](int64_t i) {
      const int64_t g = i / blocks, c = i % blocks;
      const MatrixView<A> to = packed(g).column_block(c);
      if (Pass::is_backward) {
        pack_rows<S>(weight(g).data, p.H, c, to);
      } else {
        weight(g).at(c, 0).pack(p.H, to);
      }
    });

  // Runs all steps of group g for rows [b0, b1) and panels [begin, end).
  const auto run_columns = [&](int64_t g, int64_t b0, int64_t b1, int64_t begin, int64_t end,
                               State<A>& states, const Scratch<A>& scratch, TeamMember member) {
    const int64_t from = begin * panel_width,
                  to = end * panel_width < blocks ? end * panel_width : blocks;
    const Columns columns{from * L, (to * L < p.H ? to * L : p.H) - from * L};
    run_steps(pass, g, b0, b1, columns, states, scratch, member,
              [&](int64_t n, const A* state, A* z, bool reverse) {
                const MatrixView<const A> x{state, states.stride * Pass::state_width},
                    start{zeros.data, 0};
                const MatrixView<A> sums{z + from * L * Pass::z_width,
                                         states.stride * Pass::z_width};
                if (packing) {
                  gemm(n, x, packed(g).at(from), to - from, start, sums, reverse);
                } else {
                  gemm(n, x, weight(g).at(from, 0), to - from, start, sums);
                }
              });
  };
  const int64_t panels = (blocks + panel_width - 1) / panel_width;

  if (plan.team_size > 1) {
    // Too few rows for all threads: a team of threads divides the columns of each step.
    std::deque<ThreadTeam> teams;
    std::deque<State<A>> states;
    std::deque<Scratch<A>> scratch;
    for (int64_t g = 0; g < p.G; ++g) {
      teams.emplace_back(plan.team_size);
      states.emplace_back(p.B, p.H, Pass::state_width, true);
      for (int64_t rank = 0; rank < plan.team_size; ++rank)
        scratch.emplace_back(states[g], p.B, Pass::z_width);
    }
    threads.run(p.G * plan.team_size, [&](int64_t i) {
      const int64_t g = i % p.G;
      const int64_t rank = teams[g].join();
      if (rank < 0) return;
      const int64_t n = teams[g].size();
      run_columns(g, 0, p.B, panels * rank / n, panels * (rank + 1) / n, states[g],
                  scratch[g * plan.team_size + rank], TeamMember{&teams[g], rank});
    });
    for (const ThreadTeam& team : teams)
      if (team.oversubscribed()) note_oversubscription();
    return;
  }
  run_tasks(plan.parallel, p.G * plan.tiles, [&](int64_t i) {
    const int64_t g = i / plan.tiles, part = i % plan.tiles;
    const int64_t b0 = p.B * part / plan.tiles, b1 = p.B * (part + 1) / plan.tiles;
    State<A> state(b1 - b0, p.H, Pass::state_width, false);
    run_columns(g, b0, b1, 0, panels, state, Scratch<A>(state, b1 - b0, Pass::z_width),
                TeamMember{});
  });
}

template <template <class, Activation> class Pass, class S, class P>
void dispatch_activation(const P& p, const Threads& threads) {
  if (p.activation == Activation::tanh) {
    run(Pass<S, Activation::tanh>{p}, threads);
  } else {
    run(Pass<S, Activation::relu>{p}, threads);
  }
}

template <template <class, Activation> class Pass, class P>
void dispatch_dtype(const P& p, const Threads& threads) {
  switch (p.dtype) {
    case DType::float64: return dispatch_activation<Pass, Plain<double>>(p, threads);
    case DType::float32: return dispatch_activation<Pass, Plain<float>>(p, threads);
    case DType::bfloat16: return dispatch_activation<Pass, BFloat16>(p, threads);
    case DType::float16: return dispatch_activation<Pass, Float16>(p, threads);
  }
}
