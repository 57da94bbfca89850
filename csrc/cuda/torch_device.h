// What the operators on CUDA take from torch: the device, its current stream, and matrix products.
// FASTRNN_EMULATE replaces them with an emulation on the CPU: emulated_torch.h, which the include
// path must provide.
#pragma once

#ifdef FASTRNN_EMULATE
#include "emulated_torch.h"
#else
#include <torch/csrc/stable/accelerator.h>

#include "../tensors.h"
#include "dispatch.h"

// Weak: torch without CUDA lacks them, and this library can still be loaded and inspected there.
#define FASTRNN_WEAK extern "C" __attribute__((weak)) AOTITorchError
FASTRNN_WEAK aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
FASTRNN_WEAK aoti_torch_cuda_mm_out(AtenTensorHandle out, AtenTensorHandle self,
                                    AtenTensorHandle mat2);
FASTRNN_WEAK aoti_torch_cuda_addmm_out(AtenTensorHandle out, AtenTensorHandle self,
                                       AtenTensorHandle mat1, AtenTensorHandle mat2, double beta,
                                       double alpha);
#undef FASTRNN_WEAK

namespace fastrnn::cuda {

using torch::stable::accelerator::DeviceGuard;

inline const Device& device_of(int32_t index) { return device(index); }

inline void* current_stream(int32_t device) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "fastrnn: this torch was built without CUDA");
  // torch's own check has different names in different releases.
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
                  "fastrnn: torch has no current stream for device ", device);
  return stream;
}

// out = a b. The functions of torch's kernels: a call of the dispatcher takes longer than a short
// recurrence.
inline void mm_out(const Tensor& out, const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(aoti_torch_cuda_mm_out != nullptr && aoti_torch_cuda_addmm_out != nullptr,
                  "fastrnn: this torch was built without CUDA");
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_mm_out(out.get(), a.get(), b.get()));
}
// out += a b.
inline void addmm_(const Tensor& out, const Tensor& a, const Tensor& b) {
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cuda_addmm_out(out.get(), out.get(), a.get(), b.get(), 1.0, 1.0));
}

}  // namespace fastrnn::cuda
#endif
