// Registers the CUDA kernels with torch through its stable ABI, and defines the module
// fastrnn._cuda. A call checks its arguments, makes a plan and launches on the current stream. It
// allocates only a workspace and never synchronizes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>

#include "../build_info.h"
#include "../tensor_args.h"
#include "dispatch.h"

// Weak: torch without CUDA lacks it, and this library can still be loaded and inspected there.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace py = pybind11;

namespace {

using fastrnn::check_shape;
using fastrnn::DType;
using fastrnn::input_tensor;
using fastrnn::TensorArgs;
using fastrnn::cuda::Mode;
using fastrnn::cuda::Pass;
using fastrnn::cuda::Plan;
using fastrnn::cuda::Sizes;
using torch::stable::Tensor;

Mode mode_of(DType dtype, bool tf32) {
  switch (dtype) {
    case DType::float64: return Mode::float64;
    case DType::float32: return tf32 ? Mode::tf32 : Mode::float32;
    default: return Mode::half;
  }
}

void* current_stream(int32_t device) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "fastrnn: this torch was built without CUDA");
  // torch's own check has different names in different releases.
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
                  "fastrnn: torch has no current stream for device ", device);
  return stream;
}

// The plan of the strategy with this index in STRATEGIES, or of the fastest for -1.
Plan make_plan(const Sizes& sizes, int64_t strategy, int32_t device) {
  const auto& properties = fastrnn::cuda::device(device);
  if (strategy == -1) return fastrnn::cuda::make_plan(properties, sizes);
  STD_TORCH_CHECK(strategy >= 0 && strategy < std::ssize(fastrnn::cuda::STRATEGIES),
                  "fastrnn: there is no strategy ", strategy);
  const auto wanted = fastrnn::cuda::STRATEGIES[strategy];
  const auto option = fastrnn::cuda::best(wanted, properties, sizes);
  STD_TORCH_CHECK(option.unsupported_reason.empty(), "fastrnn: '", name(wanted),
                  "' cannot serve this call: ", option.unsupported_reason);
  return option.plan;
}

// Caches the last plan: making one tries every tiling.
const Plan& plan_for(const fastrnn::ParamsWithResets& params, Pass pass, bool tf32,
                     int64_t strategy, int32_t device) {
  struct CachedPlan {
    int32_t device = -1;
    int64_t strategy = 0;
    Sizes sizes{};
    Plan plan{};
  };
  thread_local CachedPlan last[2];  // forward, backward
  CachedPlan& cached = last[pass == Pass::backward];
  const Sizes sizes{mode_of(params.dtype, tf32), pass, params.T, params.B, params.G, params.H};
  if (cached.device != device || cached.strategy != strategy || cached.sizes != sizes) {
    cached = {device, strategy, sizes, make_plan(sizes, strategy, device)};
  }
  return cached.plan;
}

template <class Call, class Run>
void launch(const Call& call, Pass pass, const Tensor& like, bool tf32, int64_t strategy, Run run) {
  if (call.B == 0 || call.G == 0 || call.H == 0) return;
  const int32_t device = like.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Plan& plan = plan_for(call, pass, tf32, strategy, device);
  const int64_t bytes = workspace_bytes(call, plan);
  std::optional<Tensor> workspace;
  if (bytes > 0) {
    workspace = torch::stable::new_empty(like, {bytes}, torch::headeronly::ScalarType::Byte);
  }
  try {
    run(call, plan, workspace ? workspace->mutable_data_ptr() : nullptr, current_stream(device));
  } catch (const std::runtime_error& error) {
    STD_TORCH_CHECK(false, "fastrnn: ", name(plan.strategy),
                    pass == Pass::forward ? " forward" : " backward", ", T=", call.T, " B=", call.B,
                    " G=", call.G, " H=", call.H, " (", describe(plan), "): ", error.what());
  }
}

// The data of an output tensor, which must be contiguous and match `like`.
void* output_data(const char* name, Tensor& tensor, const Tensor& like) {
  const auto sizes = like.sizes();
  check_shape(name, tensor, sizes);
  fastrnn::check_device(name, tensor, like);
  STD_TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == like.scalar_type(),
                  "fastrnn: ", name, " must be contiguous and of the others' dtype");
  return tensor.mutable_data_ptr();
}

void check_activation(const TensorArgs& args) {
  STD_TORCH_CHECK(args.cell == fastrnn::Cell::rnn_tanh || args.cell == fastrnn::Cell::rnn_relu,
                  "fastrnn: the CUDA kernels serve the cells of nn.RNN only");
}

// `out` may be `pre` where data is dense: the kernels read a row before they write it.
void forward(const Tensor& pre_, const Tensor& weight_hh_, const Tensor& h0_,
             const std::optional<Tensor>& lengths, const std::optional<Tensor>& offsets,
             const std::optional<Tensor>& resets, Tensor out, Tensor h_n, int64_t activation,
             int64_t reverse_from, bool tf32, int64_t strategy) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const Tensor weight_hh = input_tensor("weight_hh", weight_hh_, pre);
  const Tensor h0 = input_tensor("h0", h0_, pre);
  const TensorArgs args(pre, h0, weight_hh, lengths, offsets, resets, activation, reverse_from,
                        /*is_pre=*/true);
  check_activation(args);
  const fastrnn::Forward call{
      args.params,         pre.const_data_ptr(),         weight_hh.const_data_ptr(),
      h0.const_data_ptr(), output_data("out", out, pre), output_data("h_n", h_n, h0)};
  launch(call, Pass::forward, pre, tf32, strategy,
         [](const auto&... given) { fastrnn::cuda::forward(given...); });
}

void backward(const Tensor& grad_out_, const Tensor& grad_h_n_, const Tensor& out_,
              const Tensor& weight_hh_, const Tensor& h0, const std::optional<Tensor>& lengths,
              const std::optional<Tensor>& offsets, const std::optional<Tensor>& resets,
              Tensor grad_pre, Tensor grad_h0, int64_t activation, int64_t reverse_from, bool tf32,
              int64_t strategy) {
  const Tensor out = input_tensor("out", out_, out_);
  const Tensor grad_out = input_tensor("grad_out", grad_out_, out);
  const Tensor grad_h_n = input_tensor("grad_h_n", grad_h_n_, out);
  const Tensor weight_hh = input_tensor("weight_hh", weight_hh_, out);
  const TensorArgs args(out, h0, weight_hh, lengths, offsets, resets, activation, reverse_from,
                        /*is_pre=*/false);
  check_activation(args);
  const auto data = out.sizes(), state = h0.sizes();
  check_shape("grad_out", grad_out, data);
  check_shape("grad_h_n", grad_h_n, state);
  const fastrnn::Backward call{args.params,
                               grad_out.const_data_ptr(),
                               grad_h_n.const_data_ptr(),
                               out.const_data_ptr(),
                               weight_hh.const_data_ptr(),
                               output_data("grad_pre", grad_pre, out),
                               output_data("grad_h0", grad_h0, grad_h_n)};
  launch(call, Pass::backward, out, tf32, strategy,
         [](const auto&... given) { fastrnn::cuda::backward(given...); });
}

}  // namespace

// Internal operators, which fastrnn/ops/backends/cuda.py calls.
STABLE_TORCH_LIBRARY_FRAGMENT(fastrnn, m) {
  m.def(
      "cuda_forward(Tensor pre, Tensor weight_hh, Tensor h0, Tensor? lengths, Tensor? offsets, "
      "Tensor? resets, Tensor(a!) out, Tensor(b!) h_n, int activation, int reverse_from, "
      "bool tf32, int strategy) -> ()");
  m.def(
      "cuda_backward(Tensor grad_out, Tensor grad_h_n, Tensor out, Tensor weight_hh, Tensor h0, "
      "Tensor? lengths, Tensor? offsets, Tensor? resets, Tensor(a!) grad_pre, Tensor(b!) grad_h0, "
      "int activation, int reverse_from, bool tf32, int strategy) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CUDA, m) {
  m.impl("cuda_forward", TORCH_BOX(&forward));
  m.impl("cuda_backward", TORCH_BOX(&backward));
}

PYBIND11_MODULE(_cuda, module) {
  module.doc() = "The CUDA kernels of fastrnn; loading it registers them with torch.";
  module.def(
      "info",
      [] {
        py::dict info = fastrnn::build_info();
        info["cuda_archs"] = FASTRNN_CUDA_ARCHS;
        const int version = fastrnn::cuda::runtime_version();
        info["cuda"] = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
        return info;
      },
      "What was built: versions, compiler, CUDA archs.");
  py::module_::import("fastrnn._C");  // binds the type Device
  module.def(
      "device",
      [](int32_t index) {
        const torch::stable::accelerator::DeviceGuard guard(index);
        return fastrnn::cuda::device(index);
      },
      "What the plan knows of a CUDA device.");
}
