// What a cell computes in a step, for one hidden unit or a vector of them: V is a number or a
// vector. fastrnn/ops/cells has the same in Python, with the same names.
//
// Included inside the namespace of a device or an instruction set that defines tanh, sigmoid and
// multiply_add for V.

template <class V>
struct UnitState {
  V h, c;
};

// The results of a step, or their gradients.
template <class V, int K>
struct UnitStep {
  UnitState<V> state;
  V gates[K], inner;
};

// A cell is a struct with these constants, and `forward` and `backward` of a step:
//   gates           K
//   has_c           whether there is a second state, c
//   has_unit_param  whether a step uses `unit_param`
//   saves           whether the forward saves gates for the backward, and with has_inner an inner
//                   value
//   keeps_h         whether h_{t-1} reaches h_t without W_hh, too
//   h_is_act_of_c   whether h = act(c). Then callers pass on c alone from a sequence to the next, and
//                   the first h is computed from it, as every other h is
//   z_is_pre        whether pre and z have the same gradient

template <class V, int K>
struct UnitGradients {
  V pre[K];
  V z[K];               // W_hh^T z is a part of the gradient of the previous h
  UnitState<V> before;  // the rest of the gradient of the previous state
  V unit_param;
};
