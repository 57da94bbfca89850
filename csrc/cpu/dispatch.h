// The interface of the CPU kernels: any shape and dtype on any CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "params.h"

namespace fastrnn::cpu {

// How the host runs tasks in parallel. `run(n, task)` calls task(0) ... task(n - 1), each once, in
// any order. It returns when all are done, and rethrows an exception of one of them.
struct Threads {
  int64_t count;
  std::function<void(int64_t n, const std::function<void(int64_t)>& task)> run;
};

void forward(const CellForward& params, const Threads& threads);
void backward(const CellBackward& params, const Threads& threads);
void linear(const LinearParams& params, const Threads& threads);
void outer(const OuterParams& params);

const char* instruction_set();          // the one in use
const char* const* instruction_sets();  // all compiled in, null-terminated

// Selects an instruction set by name; false if it is not compiled in or the CPU does not support
// it.
bool use_instruction_set(const std::string& name);

}  // namespace fastrnn::cpu
