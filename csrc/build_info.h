// Build information that the modules expose to Python.
#pragma once

#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#ifndef TORCH_TARGET_VERSION
#error "TORCH_TARGET_VERSION must name the torch whose stable ABI this library keeps to"
#endif

namespace fastrnn {

inline std::string compiler() {
#if defined(__clang__)
  return std::string("Clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("GCC ") + __VERSION__;
#else
  return "unknown";
#endif
}

// The two leading bytes are the major and the minor version.
inline std::string torch_target() {
  const unsigned long long target = TORCH_TARGET_VERSION;
  return std::to_string(target >> 56) + "." + std::to_string(target >> 48 & 0xff);
}

inline pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = FASTRNN_VERSION;
  info["compiler"] = compiler();
  info["cpp_standard"] = "C++" + std::to_string(__cplusplus / 100 % 100);
  info["torch"] = TORCH_VERSION;
  info["torch_target"] = torch_target();
  return info;
}

}  // namespace fastrnn
