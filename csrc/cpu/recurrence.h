// The grouped recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after pass.h and projection.h. One task owns a group and a
// tile of batch rows and runs all steps independently. Alternatively a team of threads runs them,
// and each thread owns some units of every step. A step is a small matrix product, z = state W,
// followed by a pass over z:
//
//   forward:  state = h_{t-1},   W = W_hh^T,  z = W_hh h_{t-1}
//   backward: state = dz_{t+1},  W = W_hh,    z = W_hh^T dz_{t+1}
//
// Both run for one chunk of units at a time, so that z stays in cache. A layer's input projection is
// computed for one chunk of steps at a time.

// The states of some rows, zero-padded. There are two buffers if some units of the next state are
// written while others still need the current one.
template <class S>
struct State {
  using Operand = typename Product<S>::Operand;
  const int64_t stride, size;  // units from a row to the next; numbers, `width` of a unit
  const bool two;
  Buffer<Operand> buffers[2];

  State(int64_t rows, int64_t H, int64_t width, bool two)
      : stride(Product<S>::state_stride(H)),
        size(rows * stride * width),
        two(two),
        buffers{Buffer<Operand>(size), Buffer<Operand>(two ? size : 0)} {
    for (int i = 0; i <= two; ++i) __builtin_memset(buffers[i].data, 0, size * sizeof(Operand));
  }
};

// The memory of one thread that runs steps: z, a chunk of the input and its projection, which rows
// have started, and what rows keep between steps. It is allocated before a team forms: a member
// that failed would leave the others waiting forever.
template <class S>
struct Scratch {
  using A = typename S::Compute;
  const int64_t stride, z_stride;  // units, and numbers of z, from a row to the next
  const bool has_carry, sums_h, sums_c;
  Buffer<char> started;
  Buffer<typename Product<S>::Operand> input;
  Buffer<A> z, pre, carry, reset_h, reset_c;

  // `chunk`: the number of vectors of units that z holds.
  template <class Pass>
  Scratch(const Pass& pass, const InputProjection<S>& projection, const State<S>& states,
          int64_t rows, int64_t chunk)
      : stride(states.stride),
        z_stride((chunk * Pass::z_width + 1) * lanes<A>),
        has_carry(Pass::carry_width > 0),
        sums_h(Pass::is_backward && pass.p.reset_h != nullptr),
        sums_c(Pass::is_backward && pass.p.reset_c != nullptr),
        started(rows),
        input(projection.input_size()),
        z(rows * z_stride),
        pre(projection.pre_size(rows)),
        carry(has_carry ? rows * stride : 0),
        reset_h(sums_h ? rows * stride : 0),
        reset_c(sums_c ? rows * stride : 0) {
    __builtin_memset(started.data, 0, rows);
    __builtin_memset(z.data, 0, rows * z_stride * sizeof(A));
    const size_t bytes = rows * stride * sizeof(A);
    if (has_carry) __builtin_memset(carry.data, 0, bytes);
    if (sums_h) __builtin_memset(reset_h.data, 0, bytes);
    if (sums_c) __builtin_memset(reset_c.data, 0, bytes);
  }

  A* z_of(int64_t r) const { return z.data + r * z_stride; }

  RowMemory<A> memory(int64_t r, Units units, const A* pre = nullptr) const {
    const int64_t at = r * stride + units.first;
    return {carry.data + at, pre, sums_h ? reset_h.data + at : nullptr,
            sums_c ? reset_c.data + at : nullptr};
  }
};

// A member of a team, or a thread without one.
struct TeamMember {
  ThreadTeam* team;
  int64_t rank;
  void barrier() const {
    if (team != nullptr) team->barrier(rank);
  }
};

// The batch rows [b0, b1) of group g, and the units of them that a thread computes, `chunk` at a
// time.
struct Part {
  int64_t g, b0, b1;
  Units units;
  int64_t chunk;
};

// Calls f(units) for each chunk.
template <class F>
void for_each_chunk(const Part& part, F f) {
  const int64_t end = part.units.first + part.units.count;
  for (int64_t j = part.units.first; j < end; j += part.chunk)
    f(Units{j, end - j < part.chunk ? end - j : part.chunk});
}

// The chunk after the given one; the first after the last.
inline Units next_chunk(const Part& part, Units units) {
  const int64_t end = part.units.first + part.units.count, next = units.first + part.chunk;
  const int64_t first = next < end ? next : part.units.first;
  return {first, end - first < part.chunk ? end - first : part.chunk};
}

// Runs all steps of a part. product(n, state, units, reverse) computes these units of z = state W
// for the first n rows, see `Product`. project(steps) returns the input projection of up to `steps`
// steps, with n rows for each, or null if there is none.
template <class Pass, class Multiply, class Project>
void run_steps(const Pass& pass, const Part& part, State<typename Pass::Storage>& states,
               const Scratch<typename Pass::Storage>& scratch, TeamMember member, int64_t steps,
               Multiply product, Project project) {
  using A = typename Pass::A;
  using Operand = typename Pass::Operand;
  const auto& p = pass.p;
  const int64_t n = part.b1 - part.b0;
  const Units all = part.units;
  Operand* state = states.buffers[0].data;
  Operand* next = states.buffers[states.two].data;
  const bool descending = (part.g >= p.reverse_from) != Pass::is_backward;

  const auto row_of = [&](int64_t t, int64_t r, Units units) {
    return Row{t, part.b0 + r, part.g, units};
  };
  const auto at = [&](Operand* state, int64_t r, Units units) {
    return state + (r * states.stride + units.first) * Pass::state_width;
  };
  const auto crosses_reset = [&](int64_t t, int64_t r) {
    return p.crosses_reset(t, part.b0 + r, descending);
  };
  MatrixView<const A> pre{nullptr, 0};  // of these steps, of which some are left to run
  Steps projected{};
  int64_t left = 0;
  const auto pre_of = [&](int64_t t, int64_t r, Units units) -> const A* {
    if (pre.data == nullptr) return nullptr;
    return pre.at((t - projected.first) * n + r, (units.first - all.first) * Pass::z_width).data;
  };
  // The product for one chunk of units of the first n rows, before step t.
  const auto multiply = [&](int64_t t, int64_t n, Units units, bool reverse) {
    product(n, state, units, reverse);
    if constexpr (Pass::is_backward)
      for (int64_t r = 0; p.resets && r < n; ++r)
        if (crosses_reset(t, r))
          pass.reset(row_of(t, r, units), scratch.z_of(r), scratch.memory(r, units));
  };

  for (int64_t r = 0; r < n; ++r) {
    const bool reset = !Pass::is_backward && crosses_reset(descending ? p.T - 1 : 0, r);
    pass.start(row_of(0, r, all), reset, at(state, r, all), scratch.memory(r, all));
  }
  member.barrier();
  for (int64_t i = 0; i < p.T; ++i) {
    const int64_t t = descending ? p.T - 1 - i : i, later = descending ? t - 1 : t + 1;
    if (left == 0) {
      left = p.T - i < steps ? p.T - i : steps;
      projected = {descending ? t + 1 - left : t, left};
      pre = project(projected);
    }
    --left;
    int64_t last = n;  // one past the last active row
    while (last > 0 && !p.active(t, part.b0 + last - 1)) --last;
    for_each_chunk(part, [&](Units units) {
      if (!(Pass::is_backward && i == 0)) multiply(t, last, units, i % 2 != 0);
      for (int64_t r = 0; r < last; ++r) {
        if (p.active(t, part.b0 + r))
          pass.run(row_of(t, r, units), !scratch.started.data[r], scratch.z_of(r),
                   at(state, r, units), at(next, r, units),
                   scratch.memory(r, units, pre_of(t, r, units)));
        const Units following = next_chunk(part, units);
        const int64_t t_of_it = following.first > units.first ? t : later;
        if (t_of_it >= 0 && t_of_it < p.T) pass.prefetch(row_of(t_of_it, r, following));
      }
    });
    for (int64_t r = 0; r < n; ++r) {
      if (p.active(t, part.b0 + r)) {
        scratch.started.data[r] = 1;
        if (!Pass::is_backward && i + 1 < p.T && crosses_reset(later, r))
          pass.start(row_of(t, r, all), true, at(next, r, all), scratch.memory(r, all));
        continue;
      }
      if (next != state)
        __builtin_memcpy(at(next, r, all), at(state, r, all),
                         all.count * Pass::state_width * sizeof(Operand));
      if (!p.offsets) pass.clear(row_of(t, r, all));
    }
    std::swap(state, next);
    member.barrier();
  }
  for_each_chunk(part, [&](Units units) {
    if (Pass::is_backward && pass.needs_first_state())
      multiply(descending ? -1 : p.T, n, units, false);
    for (int64_t r = 0; r < n; ++r)
      pass.end(row_of(0, r, units), !scratch.started.data[r], scratch.z_of(r), at(state, r, units),
               scratch.memory(r, units));
  });
}

// The bytes of z that a chunk of units may have: more than L1 holds, since the pass reads z in order,
// but it stays in L2. Chunks of two vectors of units, as with z in L1, are up to 20% slower.
constexpr int64_t chunk_bytes = 1 << 17;

// A call of the forward or the backward.
template <class Pass>
class Recurrence {
 public:
  using S = typename Pass::Storage;
  using A = typename Pass::A;
  using Operand = typename Pass::Operand;
  using Packed = typename Product<S>::Packed;

  Recurrence(const Pass& pass, const InputProjection<S>& projection, const Plan& plan,
             const Threads& threads)
      : pass_(pass),
        p_(pass.p),
        projection_(projection),
        plan_(plan),
        threads_(threads),
        vectors_((p_.H + L - 1) / L),
        blocks_(vectors_ * z_width),
        depth_(p_.H * Pass::state_width),
        size_(Product<S>::packed_size(depth_, blocks_)),
        packs_(Pass::is_backward ? p_.T > 1 || pass.needs_first_state() : plan.packing),
        rows_((p_.B + plan.tiles - 1) / plan.tiles),
        panel_width_(Packed::panel_width_for(rows_, depth_, blocks_, plan.team_size, z_width)),
        whole_(std::lcm(panel_width_, z_width) / z_width),
        parts_((vectors_ + whole_ - 1) / whole_),
        packed_(packs_ ? p_.G * size_ : 0),
        zeros_(blocks_ * L),
        ahead_(projection.is_ahead() ? p_.G * p_.T * p_.B * projection.pre_stride() : 0) {
    __builtin_memset(zeros_.data, 0, blocks_ * L * sizeof(A));
    const int64_t row_bytes = std::max<int64_t>(rows_, 1) * z_width * VECTOR_BYTES,
                  fitting = std::max(whole_, chunk_bytes / row_bytes / whole_ * whole_);
    chunk_ = rows_ == 1 ? vectors_ : std::min(fitting, vectors_);
  }

  void run() const {
    const int64_t of_weight_hh = packs_ ? p_.G * blocks_ : 0;
    run_tasks(plan_.parallel_packing, of_weight_hh + projection_.pack_tasks(),
              [&](int64_t i) { i < of_weight_hh ? pack(i) : projection_.pack(i - of_weight_hh); });
    if (projection_.is_ahead()) project_ahead();
    plan_.team_size > 1 ? run_teams() : run_tiles();
  }

 private:
  static constexpr int64_t L = lanes<A>, z_width = Pass::z_width;

  template <class Task>
  void run_tasks(bool parallel, int64_t count, Task task) const {
    if (parallel) return threads_.run(count, task);
    const FlushDenormals flush;
    for (int64_t i = 0; i < count; ++i) task(i);
  }

  TransposedMatrix<S> weight(int64_t g) const {
    const auto* data = static_cast<const typename S::Element*>(p_.weight_hh[p_.direction(g)]);
    return {data + p_.head(g) * Pass::K * p_.H * p_.H, p_.H, p_.H, p_.H, Pass::K, p_.H};
  }

  Packed packed(int64_t g) const {
    return Product<S>::packed(packed_.data + g * size_, depth_, blocks_, panel_width_);
  }

  void pack(int64_t task) const {
    const int64_t g = task / blocks_, c = task % blocks_;
    if (Pass::is_backward) {
      Product<S>::pack_rows(weight(g).data, p_.H, Pass::K, c, packed(g));
    } else {
      Product<S>::pack(weight(g), c, packed(g));
    }
  }

  // Runs all steps of group g for rows [b0, b1) and parts [begin, end) of the units.
  void run_units(int64_t g, int64_t b0, int64_t b1, int64_t begin, int64_t end, State<S>& states,
                 const Scratch<S>& scratch, TeamMember member) const {
    const int64_t from = begin * whole_ * L, to = std::min(end * whole_ * L, p_.H);
    const Part part{g, b0, b1, {from, to - from}, chunk_ * L};
    Product<S> product;
    const auto multiply = [&](int64_t n, const Operand* state, Units units, bool reverse) {
      const MatrixView<const Operand> x{state, states.stride * Pass::state_width};
      const MatrixView<const A> start{Product<S>::start_at_zero(zeros_.data), 0};
      const MatrixView<A> z{scratch.z.data, scratch.z_stride};
      const int64_t block = units.first / L * z_width, count = (units.count + L - 1) / L * z_width;
      if (packs_) {
        product.multiply(n, x, packed(g).at(block), count, start, z, reverse);
      } else {
        product.multiply(n, x, weight(g).at(block, 0), count, start, z);
      }
    };
    const auto project = [&](Steps steps) -> MatrixView<const A> {
      if (!projection_.is_given()) return {nullptr, 0};
      MatrixView<A> pre{scratch.pre.data, projection_.pre_stride()};
      if (projection_.is_ahead()) {
        pre = ahead(g, steps.first);
        return {pre.data, pre.stride};
      }
      const int64_t count = (part.units.count + L - 1) / L * z_width;
      projection_.run(product, g, steps, b0, b1 - b0, from / L * z_width, count, scratch.input.data,
                      pre);
      return {pre.data, pre.stride};
    };
    run_steps(pass_, part, states, scratch, member, projection_.steps(), multiply, project);
  }

  // The projection of a group's steps from `step` on.
  MatrixView<A> ahead(int64_t g, int64_t step) const {
    const int64_t stride = projection_.pre_stride();
    return {ahead_.data + (g * p_.T + step) * p_.B * stride, stride};
  }

  // Computes the projection of all steps on all threads, some steps in each task.
  void project_ahead() const {
    const int64_t steps = projection_.steps(), parts = (p_.T + steps - 1) / steps;
    run_tasks(true, p_.G * parts, [&](int64_t i) {
      const int64_t g = i / parts, first = i % parts * steps;
      Product<S> product;
      const Buffer<Operand> copy(projection_.input_size());
      projection_.run(product, g, {first, std::min(steps, p_.T - first)}, 0, p_.B, 0, blocks_,
                      copy.data, ahead(g, first));
    });
  }

  // A team of threads divides the units of each step.
  void run_teams() const {
    std::deque<ThreadTeam> teams;
    std::deque<State<S>> states;
    std::deque<Scratch<S>> scratch;
    for (int64_t g = 0; g < p_.G; ++g) {
      teams.emplace_back(plan_.team_size);
      states.emplace_back(p_.B, p_.H, Pass::state_width, true);
      for (int64_t rank = 0; rank < plan_.team_size; ++rank)
        scratch.emplace_back(pass_, projection_, states[g], p_.B, chunk_);
    }
    threads_.run(p_.G * plan_.team_size, [&](int64_t i) {
      const int64_t g = i % p_.G;
      const int64_t rank = teams[g].join();
      if (rank < 0) return;
      const int64_t n = teams[g].size();
      run_units(g, 0, p_.B, parts_ * rank / n, parts_ * (rank + 1) / n, states[g],
                scratch[g * plan_.team_size + rank], TeamMember{&teams[g], rank});
    });
    for (const ThreadTeam& team : teams)
      if (team.oversubscribed()) note_oversubscription();
  }

  // Each task runs all units of some rows.
  void run_tiles() const {
    run_tasks(plan_.parallel, p_.G * plan_.tiles, [&](int64_t i) {
      const int64_t g = i / plan_.tiles, tile = i % plan_.tiles;
      const int64_t b0 = p_.B * tile / plan_.tiles, b1 = p_.B * (tile + 1) / plan_.tiles;
      State<S> state(b1 - b0, p_.H, Pass::state_width, chunk_ < vectors_);
      run_units(g, b0, b1, 0, parts_, state, Scratch<S>(pass_, projection_, state, b1 - b0, chunk_),
                TeamMember{});
    });
  }

  const Pass& pass_;
  const CellParams& p_;
  const InputProjection<S>& projection_;
  const Plan& plan_;
  const Threads& threads_;
  const int64_t vectors_;  // of units
  const int64_t blocks_, depth_, size_;
  const bool packs_;
  const int64_t rows_;  // of a tile, at most
  const int64_t panel_width_;
  // The fewest vectors of units whose column blocks are whole panels. A team divides the units, and
  // a chunk has as many as fit into cache.
  const int64_t whole_, parts_;
  int64_t chunk_;
  const Buffer<Operand> packed_;
  const Buffer<A> zeros_, ahead_;
};

template <class Pass>
void run(const Pass& pass, const Threads& threads) {
  using S = typename Pass::Storage;
  const CellParams& p = pass.p;
  const int64_t vectors = (p.H + lanes<typename Pass::A> - 1) / lanes<typename Pass::A>;
  const Projection none{};
  const Projection* input = &none;
  if constexpr (!Pass::is_backward) input = &pass.p.projection;
  const Plan plan = make_plan(p, threads.count, vectors, Pass::K, input->I);
  const InputProjection<S> projection(p, *input, Pass::K, plan);
  Recurrence<Pass>(pass, projection, plan, threads).run();
}

template <class Pass, Cell cell, class P>
void run_cell(const P& p, const Threads& threads) {
  using C = typename Pass::Cell;
  static_assert(traits(cell) ==
                CellTraits{C::gates, C::has_c, C::has_unit_param, C::saves, C::has_inner});
  run(Pass{p}, threads);
}

template <template <class, class> class Pass, class S, class P>
void dispatch_cell(const P& p, const Threads& threads) {
  using enum Activation;
  switch (p.cell) {
    case Cell::rnn_tanh: return run_cell<Pass<S, Elman<tanh>>, Cell::rnn_tanh>(p, threads);
    case Cell::rnn_relu: return run_cell<Pass<S, Elman<relu>>, Cell::rnn_relu>(p, threads);
    case Cell::lstm: return run_cell<Pass<S, Lstm>, Cell::lstm>(p, threads);
    case Cell::gru: return run_cell<Pass<S, Gru>, Cell::gru>(p, threads);
    case Cell::leaky_tanh: return run_cell<Pass<S, LeakyState<tanh>>, Cell::leaky_tanh>(p, threads);
    case Cell::leaky_relu: return run_cell<Pass<S, LeakyState<relu>>, Cell::leaky_relu>(p, threads);
    case Cell::leaky_pre_tanh:
      return run_cell<Pass<S, LeakyPreActivation<tanh>>, Cell::leaky_pre_tanh>(p, threads);
    case Cell::leaky_pre_relu:
      return run_cell<Pass<S, LeakyPreActivation<relu>>, Cell::leaky_pre_relu>(p, threads);
  }
}

template <template <class, class> class Pass, class P>
void dispatch_dtype(const P& p, const Threads& threads) {
  switch (p.dtype) {
    case DType::float64: return dispatch_cell<Pass, Plain<double>>(p, threads);
    case DType::float32: return dispatch_cell<Pass, Plain<float>>(p, threads);
    case DType::bfloat16: return dispatch_cell<Pass, BFloat16>(p, threads);
    case DType::float16: return dispatch_cell<Pass, Float16>(p, threads);
  }
}
