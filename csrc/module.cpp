// fastrnn._C as Python sees it: what this library was built from, with and for. The operators are
// registered in cpu/binding.cpp, through torch's stable ABI, when the library is loaded.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#include "cpu/cpu.h"

#ifndef TORCH_TARGET_VERSION
#error "TORCH_TARGET_VERSION must name the torch whose stable ABI this library keeps to"
#endif

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return std::string("Clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("GCC ") + __VERSION__;
#else
  return "unknown";
#endif
}

// The two leading bytes are the major and the minor version.
std::string torch_target() {
  const unsigned long long target = TORCH_TARGET_VERSION;
  return std::to_string(target >> 56) + "." + std::to_string(target >> 48 & 0xff);
}

py::dict info() {
  py::list compiled;
  for (const char* const* name = fastrnn::cpu::instruction_sets(); *name != nullptr; ++name) {
    compiled.append(*name);
  }
  py::dict info;
  info["version"] = FASTRNN_VERSION;
  info["compiler"] = compiler();
  info["cpp_standard"] = "C++" + std::to_string(__cplusplus / 100 % 100);
  info["torch"] = TORCH_VERSION;
  info["torch_target"] = torch_target();
  info["instruction_sets"] = compiled;
  info["instruction_set"] = fastrnn::cpu::instruction_set();
  info["cuda_archs"] = py::list();
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "The C++ kernels of fastrnn; loading it registers them with torch.";
  module.def("use_instruction_set", &fastrnn::cpu::use_instruction_set,
             "Take the one named; false if it is not compiled in or the processor lacks it.");
  module.def("info", &info, "What was built: versions, compiler, instruction sets, CUDA archs.");
}
