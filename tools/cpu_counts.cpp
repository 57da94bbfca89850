// Runs the forward or backward pass of the CPU kernels on one thread. cpu_counts.py counts its
// instructions under valgrind. Usage: cpu_counts DIRECTION T B H.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cpu/cpu.h"

using namespace fastrnn;

int main(int, char** arguments) {
  const bool forward = std::strcmp(arguments[1], "forward") == 0;
  const int64_t T = std::atoll(arguments[2]), B = std::atoll(arguments[3]);
  const int64_t H = std::atoll(arguments[4]);
  const cpu::Threads alone{1, [](int64_t n, const std::function<void(int64_t)>& task) {
                             for (int64_t i = 0; i < n; ++i) task(i);
                           }};
  const std::vector<float> in(T * B * H, 0.5f), weight(H * H, 0.5f / H), state(B * H, 0.5f);
  std::vector<float> out(T * B * H), last(B * H);
  const auto sized = [&](auto problem) {
    problem.T = T;
    problem.B = B;
    problem.G = 1;
    problem.H = H;
    problem.dtype = DType::float32;
    problem.activation = Activation::tanh;
    problem.reverse_from = 1;
    problem.weight_hh = weight.data();
    return problem;
  };
  if (forward) {
    Forward problem = sized(Forward{});
    problem.pre = in.data();
    problem.h0 = state.data();
    problem.out = out.data();
    problem.h_n = last.data();
    cpu::forward(problem, alone);
  } else {
    Backward problem = sized(Backward{});
    problem.grad_out = problem.out = in.data();
    problem.grad_h_n = state.data();
    problem.grad_pre = out.data();
    problem.grad_h0 = last.data();
    cpu::backward(problem, alone);
  }
}
