// The CUDA kernels' face, for the binding: no CUDA headers. Pointers are to device memory, streams
// are cudaStream_t; nothing here waits for the device. What fails throws std::runtime_error.
#pragma once

#include <cstdint>

#include "../params.h"
#include "plan.h"

namespace fastrnn::cuda {

int runtime_version();  // of CUDA, as 13000 for 13.0

// What the plan needs to know of a device; asked of the driver once.
const Device& device(int index);

// Bytes of device memory that a call needs beside its tensors. It holds nothing between calls.
int64_t workspace_bytes(const Forward& problem, const Plan& plan);
int64_t workspace_bytes(const Backward& problem, const Plan& plan);

void forward(const Forward& problem, const Plan& plan, void* workspace, void* stream);
void backward(const Backward& problem, const Plan& plan, void* workspace, void* stream);

}  // namespace fastrnn::cuda
