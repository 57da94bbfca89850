// The grouped recurrence, forward and backward, for one instruction set.
//
// Included inside the namespace of an instruction set, after steps.h. One task owns a group and a
// tile of batch rows, and runs all steps independently. Alternatively a team of threads runs them,
// and each thread owns some units of every step.

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
        ahead_(projection.is_ahead() ? p_.G * p_.T * p_.B * projection.pre_stride() : 0),
        deals_rows_(lengths_differ() && plan.team_size == 1 && !projection.is_ahead()),
        order_(deals_rows_ ? p_.B : 0) {
    if (deals_rows_) sort_rows();
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

  // Runs all steps of group g for some rows and parts [begin, end) of the units.
  void run_units(int64_t g, const BatchRows& batch_rows, int64_t begin, int64_t end,
                 State<S>& states, const Scratch<S>& scratch, TeamMember member) const {
    const int64_t from = begin * whole_ * L, to = std::min(end * whole_ * L, p_.H);
    const Part part{g, batch_rows, {from, to - from}, chunk_ * L};
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
    // The column blocks of the units, and the whole panels of W_ih that contain them.
    const int64_t first = from / L * z_width, last = (to + L - 1) / L * z_width;
    const int64_t panels = first - first % Packed::narrow,
                  panels_end = std::min(last + last % Packed::narrow, blocks_);
    // Rows that end before the first of the steps need no projection.
    const auto project = [&](Steps steps, int64_t rows) -> Projected<A> {
      if (!projection_.is_given()) return {};
      if (projection_.is_ahead()) {
        const MatrixView<A> pre = ahead(g, steps.first).at(batch_rows.first, first * L);
        return {steps, p_.B, {pre.data, pre.stride}};
      }
      const MatrixView<A> pre{scratch.pre.data, projection_.pre_stride()};
      projection_.run(product, g, steps, batch_rows, rows, panels, panels_end - panels,
                      scratch.input.data, pre);
      return {steps, rows, {pre.at(0, (first - panels) * L).data, pre.stride}};
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
      projection_.run(product, g, {first, std::min(steps, p_.T - first)}, all_rows(), p_.B, 0,
                      blocks_, copy.data, ahead(g, first));
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
      run_units(g, all_rows(), parts_ * rank / n, parts_ * (rank + 1) / n, states[g],
                scratch[g * plan_.team_size + rank], TeamMember{&teams[g], rank});
    });
    for (const ThreadTeam& team : teams)
      if (team.oversubscribed()) note_oversubscription();
  }

  // Each task runs all units of some rows.
  void run_tiles() const {
    run_tasks(plan_.parallel, p_.G * plan_.tiles, [&](int64_t i) {
      const int64_t g = i / plan_.tiles;
      const BatchRows rows = rows_of(i % plan_.tiles);
      State<S> state(rows.count, p_.H, Pass::state_width, chunk_ < vectors_);
      const Scratch<S> scratch(pass_, projection_, state, rows.count, chunk_);
      run_units(g, rows, 0, parts_, state, scratch, TeamMember{});
    });
  }

  BatchRows all_rows() const { return {0, 1, p_.B, nullptr}; }

  // The rows of a tile. From longest to shortest, rows with different lengths are dealt to the
  // tiles in turn: all tiles have about the same work, and a step of a tile multiplies no row that
  // has ended.
  BatchRows rows_of(int64_t tile) const {
    const int64_t tiles = plan_.tiles;
    if (deals_rows_) return {tile, tiles, (p_.B - tile + tiles - 1) / tiles, order_.data};
    const int64_t first = p_.B * tile / tiles;
    return {first, 1, p_.B * (tile + 1) / tiles - first, nullptr};
  }

  bool lengths_differ() const {
    const int64_t* lengths = p_.lengths;
    return lengths != nullptr && std::any_of(lengths, lengths + p_.B,
                                             [&](int64_t length) { return length != lengths[0]; });
  }

  void sort_rows() const {
    std::iota(order_.data, order_.data + p_.B, int64_t{0});
    std::stable_sort(order_.data, order_.data + p_.B,
                     [&](int64_t a, int64_t b) { return p_.lengths[a] > p_.lengths[b]; });
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
  const bool deals_rows_;
  const Buffer<int64_t> order_;
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
