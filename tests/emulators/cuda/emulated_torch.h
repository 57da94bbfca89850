// What the operators on CUDA take from torch, for CPU tensors. See csrc/cuda/torch_device.h.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include "cuda/dispatch.h"
#include "emulated_runtime.h"
#include "tensors.h"

namespace fastrnn::emulator {

// The operations of the last calls that would run on a GPU, apart from the launches of kernels.
inline int64_t products = 0;

inline cuda::Device properties{9, 0, 132, 227 << 10, {132, 66, 33, 16, 8}, true};

}  // namespace fastrnn::emulator

namespace fastrnn::cuda {

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};

inline const Device& device_of(int32_t) { return emulator::properties; }
inline void* current_stream(int32_t) { return &emulator::device; }

inline void mm_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  ++emulator::products;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}
inline void addmm_(const Tensor& out, const Tensor& a, const Tensor& b) {
  ++emulator::products;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

}  // namespace fastrnn::cuda
