// Registers the CUDA kernels with torch through its stable ABI, and defines the module
// fastrnn._cuda. A call checks its arguments, makes a plan and launches on the current stream. It
// allocates only a workspace and never synchronizes.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "../build_info.h"
#include "launch.h"
#include "layer.h"

namespace py = pybind11;

namespace fastrnn::cuda {
namespace {

// The data of an output tensor, which must be contiguous and match `like`.
void* output_data(const char* name, Tensor& tensor, const std::vector<int64_t>& shape,
                  const Tensor& like) {
  check_shape(name, tensor, shape);
  check_device(name, tensor, like);
  STD_TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == like.scalar_type(),
                  "fastrnn: ", name, " must be contiguous and of the others' dtype");
  return tensor.mutable_data_ptr();
}

// The arguments that both passes share, and the data of the tensors that a call may lack. It keeps
// contiguous copies alive.
class Arguments {
 public:
  Arguments(const Tensor& like, const Tensor& weight_hh, const Tensor& h0, const Given& c0,
            const Given& unit_param, const Given& lengths, const Given& offsets,
            const Given& resets, const Given& reset_h, const Given& reset_c, int64_t mode,
            int64_t reverse_from, bool is_pre)
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

  // The groups count as heads of one direction.
  GroupTensors groups() const {
    const auto& p = args.params;
    return {p.G, 0, p.G * p.H, {weight_hh.const_data_ptr(), nullptr}};
  }

  // An input that a call may lack, unless it is `required`.
  const void* input(const char* name, const Given& tensor, bool required,
                    const std::vector<int64_t>& shape) {
    STD_TORCH_CHECK(tensor || !required, "fastrnn: the cell needs ", name);
    if (!tensor) return nullptr;
    kept_.push_back(input_tensor(name, *tensor, like_));
    check_shape(name, kept_.back(), shape);
    return kept_.back().const_data_ptr();
  }
  void* output(const char* name, Given& tensor, bool required,
               const std::vector<int64_t>& shape) const {
    STD_TORCH_CHECK(tensor || !required, "fastrnn: the cell needs ", name);
    return tensor ? output_data(name, *tensor, shape, like_) : nullptr;
  }
  // A sum of gradients, in the accumulation dtype.
  void* sum(const char* name, Given& tensor) const {
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
  const CellTraits traits;
  const void *c0, *unit_param, *reset_h, *reset_c;
};

// `out`, if the cell has one gate, and `gates` may be `pre` where data is dense: the kernels read a
// row before they write it.
void forward(const Tensor& pre_, const Tensor& weight_hh, const Tensor& h0, const Given& c0,
             const Given& unit_param, const Given& lengths, const Given& offsets,
             const Given& resets, const Given& reset_h, const Given& reset_c, int64_t mode,
             int64_t reverse_from, Tensor out, Tensor h_n, Given c_n, Given gates, Given inner,
             bool tf32, int64_t strategy) {
  const Tensor pre = input_tensor("pre", pre_, pre_);
  const Arguments given(pre, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h,
                        reset_c, mode, reverse_from, /*is_pre=*/true);
  const auto state = given.state_shape(), data = given.data_shape(1);
  const Forward call{given.args.params,
                     {given.groups(),
                      pre.const_data_ptr(),
                      {},
                      {},
                      given.h0.const_data_ptr(),
                      output_data("out", out, data, pre),
                      output_data("h_n", h_n, state, pre)}};
  const Cell cell = given.args.cell;
  if (!given.traits.saves) return launch(call, cell, Pass::forward, pre, tf32, strategy);
  const bool saves = gates.has_value();
  const CellForward of_cell{
      call,
      cell,
      given.c0,
      {given.unit_param, nullptr},
      given.reset_h,
      given.reset_c,
      given.output("c_n", c_n, given.traits.has_c, state),
      given.output("gates", gates, false, given.data_shape(given.traits.gates)),
      given.output("inner", inner, saves && given.traits.has_inner, data)};
  launch(of_cell, cell, Pass::forward, pre, tf32, strategy);
}

// Adds the gradients of reset_h and reset_c to the sums.
void backward(const Tensor& grad_out_, const Tensor& grad_h_n_, const Given& grad_c_n,
              const Tensor& out_, const Given& gates, const Given& inner, const Tensor& weight_hh,
              const Tensor& h0, const Given& c0, const Given& unit_param, const Given& lengths,
              const Given& offsets, const Given& resets, const Given& reset_h, const Given& reset_c,
              int64_t mode, int64_t reverse_from, Tensor grad_pre, Tensor grad_h0, Given grad_c0,
              Given grad_unit_param, Given reset_h_sum, Given reset_c_sum, bool tf32,
              int64_t strategy) {
  const Tensor out = input_tensor("out", out_, out_);
  const Tensor grad_out = input_tensor("grad_out", grad_out_, out);
  const Tensor grad_h_n = input_tensor("grad_h_n", grad_h_n_, out);
  Arguments given(out, weight_hh, h0, c0, unit_param, lengths, offsets, resets, reset_h, reset_c,
                  mode, reverse_from, /*is_pre=*/false);
  const auto state = given.state_shape(), data = given.data_shape(1),
             of_gates = given.data_shape(given.traits.gates);
  check_shape("grad_out", grad_out, data);
  check_shape("grad_h_n", grad_h_n, state);
  const Backward call{given.args.params,
                      {given.groups(), grad_out.const_data_ptr(), grad_h_n.const_data_ptr(),
                       out.const_data_ptr(), output_data("grad_pre", grad_pre, of_gates, out),
                       output_data("grad_h0", grad_h0, state, out)}};
  const Cell cell = given.args.cell;
  const auto& traits = given.traits;
  if (!traits.saves) return launch(call, cell, Pass::backward, out, tf32, strategy);
  const CellBackward of_cell{
      call,
      cell,
      given.input("grad_c_n", grad_c_n, false, state),
      given.input("gates", gates, true, of_gates),
      given.input("inner", inner, traits.has_inner, data),
      given.h0.const_data_ptr(),
      given.c0,
      {given.unit_param, nullptr},
      given.reset_h,
      given.reset_c,
      given.output("grad_c0", grad_c0, traits.has_c, state),
      given.output("grad_unit_param", grad_unit_param, traits.has_unit_param, data),
      given.sum("reset_h_sum", reset_h_sum),
      given.sum("reset_c_sum", reset_c_sum)};
  launch(of_cell, cell, Pass::backward, out, tf32, strategy);
}

}  // namespace
}  // namespace fastrnn::cuda

// Internal operators, which fastrnn/ops/backends/cuda.py calls. fastrnn/ops/layer.py defines the
// schemas of the others.
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
  m.impl("layer", TORCH_BOX(&fastrnn::cuda::layer));
  m.impl("layer_backward", TORCH_BOX(&fastrnn::cuda::layer_backward));
  m.impl("cuda_forward", TORCH_BOX(&fastrnn::cuda::forward));
  m.impl("cuda_backward", TORCH_BOX(&fastrnn::cuda::backward));
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
