// The cell of nn.RNN: h_t = act(pre_t + W_hh h_{t-1}).

template <Activation activation, class V>
FASTRNN_HOST_DEVICE inline V activate(V z) {
  if constexpr (activation == Activation::tanh) {
    return tanh(z);
  } else {
    return z < 0 ? V{} : z;  // NaN stays
  }
}

// The gradient of z from that of h, in terms of h.
template <Activation activation, class V>
FASTRNN_HOST_DEVICE inline V activate_backward(V dh, V h) {
  if constexpr (activation == Activation::tanh) {
    return dh * multiply_add(-h, h, 1 - V{});
  } else {
    return h <= 0 ? V{} : dh;  // NaN stays
  }
}

template <Activation activation>
struct Elman {
  static constexpr int gates = 1;
  static constexpr bool has_c = false, has_unit_param = false, saves = false, has_inner = false;
  static constexpr bool keeps_h = false, h_is_act_of_c = false, z_is_pre = true;

  template <class V, class Store>
  FASTRNN_HOST_DEVICE static UnitStep<V, 1> forward(const V (&pre)[1], const V (&z)[1],
                                                    UnitState<V>, V, Store) {
    return {{activate<activation>(z[0] + pre[0]), V{}}, {}, V{}};
  }

  template <class V>
  FASTRNN_HOST_DEVICE static UnitGradients<V, 1> backward(UnitState<V> grad,
                                                          const UnitStep<V, 1>& step, UnitState<V>,
                                                          V) {
    const V dz = activate_backward<activation>(grad.h, step.state.h);
    return {{dz}, {dz}, {V{}, V{}}, V{}};
  }
};
