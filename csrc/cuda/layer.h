// The operators `layer` and `layer_backward` on CUDA, see ../layer.h.
#pragma once

#include <vector>

#include "../tensors.h"

namespace fastrnn::cuda {

// `tf32`: whether the products of the recurrence may be rounded to tf32.
std::vector<Tensor> layer(const Tensor& input, const std::vector<Tensor>& weights, const Given& h0,
                          const Given& c0, const Given& lengths, const Given& offsets,
                          const Given& resets, int64_t mode, int64_t layers, int64_t directions,
                          bool tf32, bool save);
std::vector<Tensor> layer_backward(const Given& grad_output, const Given& grad_h_n,
                                   const Given& grad_c_n, const Tensor& output,
                                   const std::vector<Tensor>& saved, const Tensor& input,
                                   const std::vector<Tensor>& weights, const Given& h0,
                                   const Given& c0, const Given& lengths, const Given& offsets,
                                   const Given& resets, int64_t mode, int64_t layers,
                                   int64_t directions, bool tf32, int64_t needs);

}  // namespace fastrnn::cuda
