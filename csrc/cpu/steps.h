// The loop over the steps of a recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after pass.h and projection.h. A thread runs
// some rows and units of a group. A step is a small matrix product, z = state W, followed by a pass
// over z:
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
  Buffer<A> z, pre, carry, h, reset_h, reset_c;

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
        h(Pass::rounds_state ? rows * stride : 0),
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
    return {carry.data + at, h.data + at, pre, sums_h ? reset_h.data + at : nullptr,
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

// Some rows of group g, and the units of them that a thread computes, `chunk` at a time.
struct Part {
  int64_t g;
  BatchRows rows;
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
// for the first n rows, see `Product`. project(steps, rows) returns the input projection of up to
// `steps` steps, for the first of its rows at least `rows`.
template <class Pass, class Multiply, class Project>
void run_steps(const Pass& pass, const Part& part, State<typename Pass::Storage>& states,
               const Scratch<typename Pass::Storage>& scratch, TeamMember member, int64_t steps,
               Multiply product, Project project) {
  using A = typename Pass::A;
  using Operand = typename Pass::Operand;
  const auto& p = pass.p;
  const int64_t n = part.rows.count;
  const Units all = part.units;
  Operand* state = states.buffers[0].data;
  Operand* next = states.buffers[states.two].data;
  const bool descending = (part.g >= p.reverse_from) != Pass::is_backward;

  const auto row_of = [&](int64_t t, int64_t r, Units units) {
    return Row{t, part.rows[r], part.g, units};
  };
  const auto at = [&](Operand* state, int64_t r, Units units) {
    return state + (r * states.stride + units.first) * Pass::state_width;
  };
  const auto crosses_reset = [&](int64_t t, int64_t r) {
    return p.crosses_reset(t, part.rows[r], descending);
  };
  const auto end_of_active = [&](int64_t t) {  // one past the last active row
    int64_t end = n;
    while (end > 0 && !p.active(t, part.rows[end - 1])) --end;
    return end;
  };
  Projected<A> projected{};
  int64_t left = 0;  // of the projected steps
  const auto pre_of = [&](int64_t t, int64_t r, Units units) -> const A* {
    if (projected.pre.data == nullptr) return nullptr;
    const int64_t row = (t - projected.steps.first) * projected.rows + r;
    return projected.pre.at(row, (units.first - all.first) * Pass::z_width).data;
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
      const int64_t first = descending ? t + 1 - left : t;
      projected = project({first, left}, end_of_active(first));
    }
    --left;
    const int64_t last = end_of_active(t);
    for_each_chunk(part, [&](Units units) {
      if (!(Pass::is_backward && i == 0)) multiply(t, last, units, i % 2 != 0);
      for (int64_t r = 0; r < last; ++r) {
        if (p.active(t, part.rows[r]))
          pass.run(row_of(t, r, units), !scratch.started.data[r], scratch.z_of(r),
                   at(state, r, units), at(next, r, units),
                   scratch.memory(r, units, pre_of(t, r, units)));
        const Units following = next_chunk(part, units);
        const int64_t t_of_it = following.first > units.first ? t : later;
        if (t_of_it >= 0 && t_of_it < p.T) pass.prefetch(row_of(t_of_it, r, following));
      }
    });
    for (int64_t r = 0; r < n; ++r) {
      if (p.active(t, part.rows[r])) {
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
