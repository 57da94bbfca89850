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
#include <vector>

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
const Plan& plan_for(const TensorArgs& args, Pass pass, bool tf32, int64_t strategy,
                     int32_t device) {
  struct CachedPlan {
    int32_t device = -1;
    int64_t strategy = 0;
    Sizes sizes{};
    Plan plan{};
  };
  thread_local CachedPlan last[2];  // forward, backward
  CachedPlan& cached = last[pass == Pass::backward];
  const auto& p = args.params;
  const Sizes sizes{mode_of(p.dtype, tf32), pass, p.T, p.B, p.G, p.H, args.cell};
  if (cached.device != device || cached.strategy != strategy || cached.sizes != sizes) {
    cached = {device, strategy, sizes, make_plan(sizes, strategy, device)};
  }
  return cached.plan;
}

template <class Call>
void launch(const Call& call, const TensorArgs& args, Pass pass, const Tensor& like, bool tf32,
            int64_t strategy) {
  if (call.B == 0 || call.G == 0 || call.H == 0) return;
  const int32_t device = like.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Plan& plan = plan_for(args, pass, tf32, strategy, device);
  const int64_t bytes = workspace_bytes(call, plan);
  std::optional<Tensor> workspace;
  if (bytes > 0) {
    workspace = torch::stable::new_empty(like, {bytes}, torch::headeronly::ScalarType::Byte);
  }
  try {
    run(call, plan, workspace ? workspace->mutable_data_ptr() : nullptr, current_stream(device));
  } catch (const std::runtime_error& error) {
    STD_TORCH_CHECK(false, "fastrnn: ", name(plan.strategy),
                    pass == Pass::forward ? " forward" : " backward", ", cell ", int(args.cell),
                    ", T=", call.T, " B=", call.B, " G=", call.G, " H=", call.H, " (",
                    describe(plan), "): ", error.what());
  }
}

using MaybeTensor = std::optional<Tensor>;

// The data of an output tensor, which must be contiguous and match `like`.
void* output_data(const char* name, Tensor& tensor, const std::vector<int64_t>& shape,
                  const Tensor& like) {
  check_shape(name, tensor, shape);
  fastrnn::check_device(name, tensor, like);
  STD_TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == like.scalar_type(),
                  "fastrnn: ", name, " must be contiguous and of the others' dtype");
  return tensor.mutable_data_ptr();
}

// The arguments that both passes share, and the data of the tensors that a call may lack. It keeps
// contiguous copies alive.
class Arguments {
 public:
  Arguments(const Tensor& like, const Tensor& weight_hh, const Tensor& h0, const MaybeTensor& c0,
            const MaybeTensor& unit_param, const MaybeTensor& lengths, const MaybeTensor& offsets,
            const MaybeTensor& resets, const MaybeTensor& reset_h, const MaybeTensor& reset_c,
            int64_t mode, int64_t reverse_from, bool is_pre)
      : like_(like),
        weight_hh(input_tensor("weight_hh", weight_hh, like)),
        h0(input_tensor("h0", h0, like)),
        args(like, this->h0, this->weight_hh, lengths, offsets, resets, mode, reverse_from, is_pre),
        traits(fastrnn::traits(args.cell)) {
    const auto& p = args.params;
    this->c0 = input("c0", c0, traits.has_c, state_shape());
    this->unit_param = input("unit_param", unit_param, false, {p.G, p.H});
    this->reset_h = input("reset_h", reset_h, false, state_shape());
    this->reset_c = input("reset_c", reset_c, false, state_shape());
    STD_TORCH_CHECK(traits.saves || !reset_h,
                    "fastrnn: nn.RNN's cells start from 0 after a reset: add W_hh reset_h to pre");
  }

  std::vector<int64_t> state_shape() const { return {args.params.B, args.params.G, args.params.H}; }
  // Of `gates` numbers a unit; `rows` of packed data.
  std::vector<int64_t> data_shape(int64_t gates) const {
    return args.data_shape(like_.size(0), gates);
  }

  // An input that a call may lack, unless it is `required`.
  const void* input(const char* name, const MaybeTensor& tensor, bool required,
                    const std::vector<int64_t>& shape) {
    STD_TORCH_CHECK(tensor || !required, "fastrnn: the cell needs ", name);
    if (!tensor) return nullptr;
    kept_.push_back(input_tensor(name, *tensor, like_));
    check_shape(name, kept_.back(), shape);
    return kept_.back().const_data_ptr();
  }
  void* output(const char* name, MaybeTensor& tensor, bool required,
               const std::vector<int64_t>& shape) const {
    STD_TORCH_CHECK(tensor || !required, "fastrnn: the cell needs ", name);
    return tensor ? output_data(name, *tensor, shape, like_) : nullptr;
  }
  // A sum of gradients, in the accumulation dtype.
  void* sum(const char* name, MaybeTensor& tensor) const {
    if (!tensor) return nullptr;
    using torch::headeronly::ScalarType;
    const bool is_double = args.params.dtype == DType::float64;
    STD_TORCH_CHECK(tensor->scalar_type() == (is_double ? ScalarType::Double : ScalarType::Float),
                    "fastrnn: ", name, " must have the accumulation dtype");
    return output_data(name, *tensor, state_shape(), *tensor);
  }

 private:
  const Tensor like_;
  std::vector<Tensor> kept_;

 public:
  const Tensor weight_hh, h0;
  const TensorArgs args;
  const fastrnn::CellTraits traits;
  const void *c0, *unit_param, *reset_h, *reset_c;
};

// `out`, if the cell has one gate, and `gates` may be `pre` where data is dense: the kernels read a
// row before they write it.
void forward(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0, const MaybeTensor& c0,
             const MaybeTensor& unit_param, const MaybeTensor& lengths, const MaybeTensor& offsets,
             const MaybeTensor& resets, const MaybeTensor& reset_h, const MaybeTensor& reset_c,
             int64_t mode, int64_t reverse_from, Tensor out, Tensor h_n, MaybeTensor c_n,
             MaybeTensor gates, MaybeTensor inner, bool tf32, int64_t strategy) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const Arguments given(pre, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                        reset_c, mode, reverse_from, /*is_pre=*/true);
  const auto state = given.state_shape(), data = given.data_shape(1);
  const fastrnn::Forward call{given.args.params,
                              pre.const_data_ptr(),
                              given.weight_hh.const_data_ptr(),
                              given.h0.const_data_ptr(),
                              output_data("out", out, data, pre),
                              output_data("h_n", h_n, state, pre)};
  if (!given.traits.saves) return launch(call, given.args, Pass::forward, pre, tf32, strategy);
  const bool saves = gates.has_value();
  const fastrnn::cuda::CellForward of_cell{
      call,
      given.args.cell,
      given.c0,
      given.unit_param,
      given.reset_h,
      given.reset_c,
      given.output("c_n", c_n, given.traits.has_c, state),
      given.output("gates", gates, false, given.data_shape(given.traits.gates)),
      given.output("inner", inner, saves && given.traits.has_inner, data)};
  launch(of_cell, given.args, Pass::forward, pre, tf32, strategy);
}

// Adds the gradients of reset_h and reset_c to the sums.
void backward(const Tensor& grad_out_, const Tensor& grad_h_n_, const MaybeTensor& grad_c_n,
              const Tensor& out_, const MaybeTensor& gates, const MaybeTensor& inner,
              const Tensor& weight_hh, const Tensor& h0, const MaybeTensor& c0,
              const MaybeTensor& unit_param, const MaybeTensor& lengths, const MaybeTensor& offsets,
              const MaybeTensor& resets, const MaybeTensor& reset_h, const MaybeTensor& reset_c,
              int64_t mode, int64_t reverse_from, Tensor grad_pre, Tensor grad_h0,
              MaybeTensor grad_c0, MaybeTensor grad_unit_param, MaybeTensor reset_h_sum,
              MaybeTensor reset_c_sum, bool tf32, int64_t strategy) {
  const Tensor out = input_tensor("out", out_, out_);
  const Tensor grad_out = input_tensor("grad_out", grad_out_, out);
  const Tensor grad_h_n = input_tensor("grad_h_n", grad_h_n_, out);
  Arguments given(out, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h, reset_c,
                  mode, reverse_from, /*is_pre=*/false);
  const auto state = given.state_shape(), data = given.data_shape(1),
             of_gates = given.data_shape(given.traits.gates);
  check_shape("grad_out", grad_out, data);
  check_shape("grad_h_n", grad_h_n, state);
  const fastrnn::Backward call{given.args.params,
                               grad_out.const_data_ptr(),
                               grad_h_n.const_data_ptr(),
                               out.const_data_ptr(),
                               given.weight_hh.const_data_ptr(),
                               output_data("grad_pre", grad_pre, of_gates, out),
                               output_data("grad_h0", grad_h0, state, out)};
  const auto& traits = given.traits;
  if (!traits.saves) return launch(call, given.args, Pass::backward, out, tf32, strategy);
  const fastrnn::cuda::CellBackward of_cell{
      call,
      given.args.cell,
      given.input("grad_c_n", grad_c_n, false, state),
      given.input("gates", gates, true, of_gates),
      given.input("inner", inner, traits.has_inner, data),
      given.h0.const_data_ptr(),
      given.c0,
      given.unit_param,
      given.reset_h,
      given.reset_c,
      given.output("grad_c0", grad_c0, traits.has_c, state),
      given.output("grad_unit_param", grad_unit_param, traits.has_unit_param, data),
      given.sum("reset_h_sum", reset_h_sum),
      given.sum("reset_c_sum", reset_c_sum)};
  launch(of_cell, given.args, Pass::backward, out, tf32, strategy);
}

}  // namespace

// Internal operators, which fastrnn/ops/backends/cuda.py calls.
STABLE_TORCH_LIBRARY_FRAGMENT(fastrnn, m) {
  m.def(
      "cuda_forward(Tensor pre, Tensor weight_hh, Tensor h0, Tensor? c0, Tensor? unit_param, "
      "Tensor? lengths, Tensor? offsets, Tensor? resets, Tensor? reset_h, Tensor? reset_c, "
      "int mode, int reverse_from, Tensor(a!) out, Tensor(b!) h_n, Tensor(c!)? c_n, "
      "Tensor(d!)? gates, Tensor(e!)? inner, bool tf32, int strategy) -> ()");
  m.def(
      "cuda_backward(Tensor grad_out, Tensor grad_h_n, Tensor? grad_c_n, Tensor out, "
      "Tensor? gates, Tensor? inner, Tensor weight_hh, Tensor h0, Tensor? c0, Tensor? unit_param, "
      "Tensor? lengths, Tensor? offsets, Tensor? resets, Tensor? reset_h, Tensor? reset_c, "
      "int mode, int reverse_from, Tensor(a!) grad_pre, Tensor(b!) grad_h0, Tensor(c!)? grad_c0, "
      "Tensor(d!)? grad_unit_param, Tensor(e!)? reset_h_sum, Tensor(f!)? reset_c_sum, bool tf32, "
      "int strategy) -> ()");
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
