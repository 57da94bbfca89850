// The CPU kernels' face: any shape, any of DType's types, any x86-64 or other processor.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "../params.h"

namespace fastrnn::cpu {

// How the host runs tasks in parallel. `run(n, task)` calls task(0) ... task(n - 1), each once, in
// any order, and returns when all are done; then it throws what one of them has thrown.
struct Threads {
  int64_t count;
  std::function<void(int64_t n, const std::function<void(int64_t)>& task)> run;
};

// The input's share of a layer's pre-activations: out = input weight^T + bias.
struct LinearParams {
  int64_t M, N, K;
  DType dtype;
  const void* input;   // [M, K]
  const void* weight;  // [N, K]
  const void* bias;    // [N], or null
  void* out;           // [M, N]
};

void forward(const Forward& params, const Threads& threads);
void backward(const Backward& params, const Threads& threads);
void linear(const LinearParams& params, const Threads& threads);

const char* instruction_set();          // the one in use
const char* const* instruction_sets();  // all compiled in, null-terminated

// Takes the one named from now on; false if it is not compiled in or the processor lacks it.
bool use_instruction_set(const std::string& name);

}  // namespace fastrnn::cpu
