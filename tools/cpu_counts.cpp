// Runs calls of the CPU kernels on one thread. cpu_counts.py counts their instructions under
// valgrind. Usage: cpu_counts KIND T B H CALLS, where KIND is forward or backward, of the recurrence
// alone, or layer, whose forward projects an input of H features.
#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/isa.h"

// As in csrc/cpu/isa_avx2.cpp and isa_baseline.cpp, but only for the cell and dtype that are counted.
#if defined(__x86_64__)
#define VECTOR_BYTES 32
#define FUSED_FLOAT _mm256_fmadd_ps
#define FUSED_DOUBLE _mm256_fmadd_pd
#else
#define VECTOR_BYTES 16
#define FUSED_FLOAT(a, b, c) vfmaq_f32(c, a, b)
#define FUSED_DOUBLE(a, b, c) vfmaq_f64(c, a, b)
#endif
#define VECTOR_REGISTERS 16

namespace fastrnn::cpu::counted {
// clang-format off: each uses the previous ones
#include "cpu/simd.h"
#include "cpu/gemm.h"
#include "cpu/product.h"
#include "cells/step.h"
#include "cells/elman.h"
#include "cells/gru.h"
#include "cells/leaky.h"
#include "cells/lstm.h"
#include "cpu/pass.h"
#include "cpu/projection.h"
#include "cpu/steps.h"
#include "cpu/recurrence.h"
// clang-format on
}  // namespace fastrnn::cpu::counted

using namespace fastrnn;
using Storage = cpu::counted::Plain<float>;
using Rnn = cpu::counted::Elman<Activation::tanh>;

int main(int, char** arguments) {
  const std::string kind = arguments[1];
  const int64_t T = std::atoll(arguments[2]), B = std::atoll(arguments[3]);
  const int64_t H = std::atoll(arguments[4]), calls = std::atoll(arguments[5]);
  const cpu::Threads alone{1, [](int64_t n, const std::function<void(int64_t)>& task) {
                             for (int64_t i = 0; i < n; ++i) task(i);
                           }};
  const std::vector<float> in(T * B * H, 0.5f), weight(H * H, 0.5f / H), state(B * H, 0.5f);
  std::vector<float> out(T * B * H), last(B * H);
  const auto sized = [&](auto params) {
    params.T = T;
    params.B = B;
    params.G = 1;
    params.H = H;
    params.dtype = DType::float32;
    params.cell = Cell::rnn_tanh;
    params.reverse_from = 1;
    params.heads = 1;
    params.state_layout = {0, H, H, H};
    params.weight_hh[0] = weight.data();
    return params;
  };
  if (kind == "backward") {
    cpu::CellBackward params = sized(cpu::CellBackward{});
    params.grad_pre_layout = {0, H, H, H};
    params.grad_out = params.out = in.data();
    params.grad_h_n = state.data();
    params.grad_pre = out.data();
    params.grad_h0 = last.data();
    for (int64_t i = 0; i < calls; ++i)
      cpu::counted::run(cpu::counted::BackwardPass<Storage, Rnn>{params}, alone);
  } else {
    cpu::CellForward params = sized(cpu::CellForward{});
    if (kind == "layer") {
      params.projection = {H, in.data(), B * H, H, {weight.data()}, {state.data()}, {state.data()}};
    } else {
      params.pre = in.data();
    }
    params.h0 = state.data();
    params.out = out.data();
    params.h_n = last.data();
    for (int64_t i = 0; i < calls; ++i)
      cpu::counted::run(cpu::counted::ForwardPass<Storage, Rnn>{params}, alone);
  }
}
