// The cell of nn.RNN: h_t = act(pre_t + W_hh h_{t-1}).

template <Activation activation>
struct Elman {
  static constexpr int gates = 1;
  static constexpr bool has_c = false, has_unit_param = false, saves = false;
  static constexpr bool keeps_h = false;  // whether h_{t-1} reaches h_t without W_hh, too

  template <class V, class Store>
  static UnitStep<V, 1> forward(const V (&pre)[1], const V (&z)[1], UnitState<V>, V, Store) {
    const V sum = z[0] + pre[0];
    if constexpr (activation == Activation::tanh) {
      return {{tanh(sum), V{}}, {}, V{}};
    } else {
      return {{sum < 0 ? V{} : sum, V{}}, {}, V{}};  // NaN stays
    }
  }

  template <class V>
  static UnitGradients<V, 1> backward(UnitState<V> grad, const UnitStep<V, 1>& step, UnitState<V>,
                                      V) {
    const V h = step.state.h;
    V dz;
    if constexpr (activation == Activation::tanh) {
      dz = grad.h * multiply_add(-h, h, 1 - V{});
    } else {
      dz = h <= 0 ? V{} : grad.h;  // NaN stays
    }
    return {{dz}, {dz}, {V{}, V{}}, V{}};
  }
};
