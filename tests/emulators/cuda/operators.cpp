// The operators of csrc/cuda/layer.cpp for CPU tensors, with emulated kernels, as fastrnn_emulated.
#include "cuda/layer.h"

#include <torch/csrc/stable/library.h>

#include "emulated_torch.h"
#include "kernels.h"

namespace fastrnn::cuda {
namespace {

const char* element_of(DType dtype, Mode mode) {
  switch (dtype) {
    case DType::float64: return "Float64";
    case DType::bfloat16: return "Bfloat16";
    case DType::float16: return "Float16";
    default: return mode == Mode::tf32 ? "Tf32" : "Float32";
  }
}

template <class P> void run_by_name(const P& params, const Plan& plan) {
  run(std::string(name(plan.strategy)) + "." + element_of(params.dtype, plan.mode), params, plan);
}

// Limits the device to a strategy, with this seed of the schedules.
void reset(int64_t strategy, int64_t seed) {
  emulator::properties.major = Strategy(strategy) == Strategy::cluster ? 9 : 8;
  emulator::properties.cooperative = Strategy(strategy) == Strategy::grid;
  emulator::device.processors = emulator::properties.processors;
  emulator::device.seed = static_cast<uint64_t>(seed);
  emulator::device.launches = emulator::products = 0;
}
// Launches of kernels and products since the last reset.
int64_t launches() { return emulator::device.launches + emulator::products; }

}  // namespace

// A workspace is allocated by the call itself.
int64_t workspace_bytes(const Forward&, const Plan&) { return 0; }
int64_t workspace_bytes(const Backward&, const Plan&) { return 0; }
int64_t workspace_bytes(const CellForward&, const Plan&) { return 0; }
int64_t workspace_bytes(const CellBackward&, const Plan&) { return 0; }
void run(const Forward& params, const Plan& plan, void*, void*) { run_by_name(params, plan); }
void run(const Backward& params, const Plan& plan, void*, void*) { run_by_name(params, plan); }
void run(const CellForward& params, const Plan& plan, void*, void*) { run_by_name(params, plan); }
void run(const CellBackward& params, const Plan& plan, void*, void*) { run_by_name(params, plan); }

void run(const LayersOf<ProjectedForward>& layers, const Plan& plan, void*) {
  run(element_of(layers.of[0].dtype, plan.mode), layers, plan);
}
void run(const LayersOf<ProjectedBackward>& layers, const Plan& plan, void*) {
  run(element_of(layers.of[0].dtype, plan.mode), layers, plan);
}

void run_rows(const ProjectedForward& params, const Plan& plan, void*) {
  run_rows<ProjectedForwardOf>(element_of(params.dtype, plan.mode), params);
}
void run_rows(const CellBackward& params, const Plan& plan, void*) {
  run_rows<CellBackwardOf>(element_of(params.dtype, plan.mode), params);
}

}  // namespace fastrnn::cuda

STABLE_TORCH_LIBRARY(fastrnn_emulated, m) {
  m.def(
      "layer(Tensor input, Tensor[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, "
      "Tensor? offsets, Tensor? resets, int mode, int num_layers, int directions, bool tf32, "
      "bool save) -> Tensor[]");
  m.def(
      "layer_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor output, "
      "Tensor[] saved, Tensor input, Tensor[] weights, Tensor? h0, Tensor? c0, Tensor? lengths, "
      "Tensor? offsets, Tensor? resets, int mode, int num_layers, int directions, bool tf32, "
      "int needs) -> Tensor[]");
  m.def("reset(int strategy, int seed) -> ()");
  m.def("launches() -> int");
}
STABLE_TORCH_LIBRARY_IMPL(fastrnn_emulated, CompositeExplicitAutograd, m) {
  m.impl("layer", TORCH_BOX(&fastrnn::cuda::layer));
  m.impl("layer_backward", TORCH_BOX(&fastrnn::cuda::layer_backward));
  m.impl("reset", TORCH_BOX(&fastrnn::cuda::reset));
  m.impl("launches", TORCH_BOX(&fastrnn::cuda::launches));
}
