// The cell of nn.GRU; gates r, z, n:
//
//   r, z = sigmoid(pre + W_hh h_{t-1})    q = W_hn h_{t-1} + b_hn
//   n = tanh(pre_n + r q)                 h_t = (1 - z) n + z h_{t-1}
//
// b_hn is `unit_param`. The inner value that a step saves is q.

struct Gru {
  static constexpr int gates = 3;
  static constexpr bool has_c = false, has_unit_param = true, saves = true, has_inner = true;
  static constexpr bool keeps_h = true, h_is_act_of_c = false, z_is_pre = false;

  template <class V, class Store>
  FASTRNN_HOST_DEVICE static UnitStep<V, 3> forward(const V (&pre)[3], const V (&product)[3],
                                                    UnitState<V> before, V b_hn, Store) {
    const V r = sigmoid(pre[0] + product[0]), z = sigmoid(pre[1] + product[1]);
    const V q = product[2] + b_hn, n = tanh(multiply_add(r, q, pre[2]));
    return {{multiply_add(z, before.h - n, n), V{}}, {r, z, n}, q};
  }

  template <class V>
  FASTRNN_HOST_DEVICE static UnitGradients<V, 3> backward(UnitState<V> grad,
                                                          const UnitStep<V, 3>& step,
                                                          UnitState<V> before, V) {
    const auto& [r, z, n] = step.gates;
    const V one = 1 - V{};
    const V dz = grad.h * (before.h - n) * (z * (one - z));
    const V dn = grad.h * (one - z) * multiply_add(-n, n, one);
    const V dq = dn * r, dr = dn * step.inner * (r * (one - r));
    return {{dr, dz, dn}, {dr, dz, dq}, {grad.h * z, V{}}, dq};
  }
};
