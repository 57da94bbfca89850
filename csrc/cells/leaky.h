// Cells of nn.RNN's kind with a leak a, which is `unit_param`; u = pre + z:
//
//   leaky state:           h_t = (1 - a) h_{t-1} + a act(u)
//   leaky pre-activation:  x_t = (1 - a) x_{t-1} + a u    h_t = act(x_t)
//
// The first saves act(u) as its gate. The second saves u, and x, its c, as the inner value.

template <Activation activation>
struct LeakyState {
  static constexpr int gates = 1;
  static constexpr bool has_c = false, has_unit_param = true, saves = true, has_inner = false;
  static constexpr bool keeps_h = true, h_is_act_of_c = false, z_is_pre = true;

  template <class V, class Store>
  FASTRNN_HOST_DEVICE static UnitStep<V, 1> forward(const V (&pre)[1], const V (&z)[1],
                                                    UnitState<V> before, V leak, Store) {
    const V act = activate<activation>(z[0] + pre[0]);
    return {{multiply_add(leak, act - before.h, before.h), V{}}, {act}, V{}};
  }

  template <class V>
  FASTRNN_HOST_DEVICE static UnitGradients<V, 1> backward(UnitState<V> grad,
                                                          const UnitStep<V, 1>& step,
                                                          UnitState<V> before, V leak) {
    const V act = step.gates[0], leaked = grad.h * leak;
    const V dz = activate_backward<activation>(leaked, act);
    return {{dz}, {dz}, {grad.h - leaked, V{}}, grad.h * (act - before.h)};
  }
};

template <Activation activation>
struct LeakyPreActivation {
  static constexpr int gates = 1;
  static constexpr bool has_c = true, has_unit_param = true, saves = true, has_inner = true;
  static constexpr bool keeps_h = false, h_is_act_of_c = true, z_is_pre = true;

  template <class V>
  FASTRNN_HOST_DEVICE static V act(V c) {
    return activate<activation>(c);
  }

  template <class V, class Store>
  FASTRNN_HOST_DEVICE static UnitStep<V, 1> forward(const V (&pre)[1], const V (&z)[1],
                                                    UnitState<V> before, V leak, Store store) {
    const V u = z[0] + pre[0], x = store(multiply_add(leak, u - before.c, before.c));
    return {{activate<activation>(x), x}, {u}, x};
  }

  template <class V>
  FASTRNN_HOST_DEVICE static UnitGradients<V, 1> backward(UnitState<V> grad,
                                                          const UnitStep<V, 1>& step,
                                                          UnitState<V> before, V leak) {
    const V dx = activate_backward<activation>(grad.h, activate<activation>(step.inner)) + grad.c;
    const V du = dx * leak;
    return {{du}, {du}, {V{}, dx - du}, dx * (step.gates[0] - before.c)};
  }
};
