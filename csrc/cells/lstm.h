// The cell of nn.LSTM; gates i, f, g, o:
//
//   i, f, o = sigmoid(pre + z)    g = tanh(pre + z)
//   c_t = f c_{t-1} + i g         h_t = o tanh(c_t)
//
// The inner value that a step saves is c.

struct Lstm {
  static constexpr int gates = 4;
  static constexpr bool has_c = true, has_unit_param = false, saves = true, has_inner = true;
  static constexpr bool keeps_h = false, h_is_act_of_c = false, z_is_pre = true;

  template <class V, class Store>
  FASTRNN_HOST_DEVICE static UnitStep<V, 4> forward(const V (&pre)[4], const V (&z)[4],
                                                    UnitState<V> before, V, Store store) {
    const V i = sigmoid(pre[0] + z[0]), f = sigmoid(pre[1] + z[1]), g = tanh(pre[2] + z[2]),
            o = sigmoid(pre[3] + z[3]);
    const V c = store(multiply_add(f, before.c, i * g));
    return {{o * tanh(c), c}, {i, f, g, o}, c};
  }

  template <class V>
  FASTRNN_HOST_DEVICE static UnitGradients<V, 4> backward(UnitState<V> grad,
                                                          const UnitStep<V, 4>& step,
                                                          UnitState<V> before, V) {
    const auto& [i, f, g, o] = step.gates;
    const V one = 1 - V{}, tanh_c = tanh(step.inner);
    const V dc = multiply_add(grad.h * o, multiply_add(-tanh_c, tanh_c, one), grad.c);
    const V di = dc * g * (i * (one - i)), df = dc * before.c * (f * (one - f)),
            dg = dc * i * multiply_add(-g, g, one), d_o = grad.h * tanh_c * (o * (one - o));
    return {{di, df, dg, d_o}, {di, df, dg, d_o}, {V{}, dc * f}, V{}};
  }
};
