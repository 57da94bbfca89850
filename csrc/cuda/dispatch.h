// The interface of the CUDA kernels for the bindings, free of CUDA headers. Pointers are to device
// memory, streams are cudaStream_t. No function synchronizes with the device; failures throw
// std::runtime_error.
#pragma once

#include <cstdint>

#include "params.h"
#include "plan.h"

namespace fastrnn::cuda {

int runtime_version();  // of CUDA: 13000 is 13.0

// The properties of a device that the plan uses, queried once.
const Device& device(int index);

// Bytes of device memory that a call needs in addition to its tensors. Not used between calls.
int64_t workspace_bytes(const Forward& params, const Plan& plan);
int64_t workspace_bytes(const Backward& params, const Plan& plan);
int64_t workspace_bytes(const CellForward& params, const Plan& plan);
int64_t workspace_bytes(const CellBackward& params, const Plan& plan);

void run(const Forward& params, const Plan& plan, void* workspace, void* stream);
void run(const Backward& params, const Plan& plan, void* workspace, void* stream);
void run(const CellForward& params, const Plan& plan, void* workspace, void* stream);
void run(const CellBackward& params, const Plan& plan, void* workspace, void* stream);

// As many layers as the plan of best_stack has.
void run(const LayersOf<ProjectedForward>& layers, const Plan& plan, void* stream);
void run(const LayersOf<ProjectedBackward>& layers, const Plan& plan, void* stream);

// The kernels of `rows`: a forward with the input of the layer or, without input features, pre.
void run_rows(const ProjectedForward& params, const Plan& plan, void* stream);
void run_rows(const CellBackward& params, const Plan& plan, void* stream);

// `device`: that of the stream.
void run(const LayersOf<WeightGradients>& layers, int count, const Device& device, void* stream);

}  // namespace fastrnn::cuda
