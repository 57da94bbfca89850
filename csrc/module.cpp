// The Python module fastrnn._C: build information, and the plans of the CUDA kernels, for which no
// GPU is needed. Loading it also registers the operators of cpu/bindings.cpp with torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>

#include "build_info.h"
#include "cpu/dispatch.h"
#include "cuda/plan.h"

namespace py = pybind11;

namespace {

py::dict info() {
  py::list compiled;
  for (const char* const* name = fastrnn::cpu::instruction_sets(); *name != nullptr; ++name) {
    compiled.append(*name);
  }
  py::dict info = fastrnn::build_info();
  info["instruction_sets"] = compiled;
  info["instruction_set"] = fastrnn::cpu::instruction_set();
  return info;
}

fastrnn::cuda::Mode mode_of(const std::string& name) {
  using fastrnn::cuda::Mode;
  const std::map<std::string, Mode> modes{{"half", Mode::half},
                                          {"tf32", Mode::tf32},
                                          {"float32", Mode::float32},
                                          {"float64", Mode::float64}};
  return modes.at(name);
}

void bind_plan(py::module_& module) {
  using namespace fastrnn::cuda;
  module.attr("small_weight_products") = small_weight_products;
  py::class_<Device>(module, "Device", "A CUDA device, as the plan sees it.")
      .def(py::init([](std::pair<int, int> capability, int processors, int shared_bytes,
                       std::array<int, 5> clusters, bool cooperative) {
             Device device{capability.first, capability.second, processors, shared_bytes, {},
                           cooperative};
             std::copy(clusters.begin(), clusters.end(), device.clusters);
             return device;
           }),
           py::arg("capability"), py::arg("processors"), py::arg("shared_bytes"),
           py::arg("clusters"), py::arg("cooperative") = true);
  py::class_<Tiling>(module, "Tiling")
      .def_readonly("blocks", &Tiling::blocks)
      .def_readonly("m_tiles", &Tiling::m_tiles)
      .def_readonly("splits", &Tiling::splits)
      .def_readonly("resident", &Tiling::resident)
      .def_readonly("streamed", &Tiling::streamed)
      .def_readonly("rows", &Tiling::rows)
      .def_readonly("layers", &Tiling::layers)
      .def_property_readonly("n_tiles", &Tiling::n_tiles);
  py::class_<Plan>(module, "Plan")
      .def_property_readonly("strategy", [](const Plan& plan) { return name(plan.strategy); })
      .def_readonly("tiling", &Plan::tiling)
      .def_readonly("threads", &Plan::threads)
      .def_readonly("shared", &Plan::shared)
      .def_readonly("tiles", &Plan::tiles)
      .def_readonly("at_once", &Plan::at_once)
      .def_readonly("cycles", &Plan::cycles)
      .def_readonly("projects", &Plan::projects)
      .def("__str__", &describe);
  module.def(
      "plans",
      [](const Device& device, const std::string& mode, bool backward, int64_t T, int64_t B,
         int64_t G, int64_t H, int cell) {
        const Sizes sizes{mode_of(mode),      backward ? Pass::backward : Pass::forward, T, B, G, H,
                          fastrnn::Cell(cell)};
        py::dict options;
        for (const Strategy strategy : STRATEGIES) {
          const Option option = best(strategy, device, sizes);
          if (option.unsupported_reason.empty()) {
            options[name(strategy)] = option.plan;
          } else {
            options[name(strategy)] = option.unsupported_reason;
          }
        }
        return std::pair(std::string(name(make_plan(device, sizes).strategy)), options);
      },
      "The name of the strategy that serves a call, and of each its best plan or why it has none.",
      py::arg("device"), py::arg("mode"), py::arg("backward"), py::arg("T"), py::arg("B"),
      py::arg("G"), py::arg("H"), py::arg("cell") = 0);
  module.def(
      "stack_plans",
      [](const Device& device, const std::string& mode, bool backward, int64_t T, int64_t B,
         int64_t H, int64_t layers, int64_t input, int cell) {
        const Sizes sizes{mode_of(mode),      backward ? Pass::backward : Pass::forward, T, B, 1, H,
                          fastrnn::Cell(cell)};
        return stack_plans(device, sizes, layers, input, H);
      },
      "The plans of a stack in one direction: for each layer, in the order in which they are "
      "computed, that of the launch which begins with it.",
      py::arg("device"), py::arg("mode"), py::arg("backward"), py::arg("T"), py::arg("B"),
      py::arg("H"), py::arg("layers"), py::arg("input"), py::arg("cell") = 0);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "The C++ kernels of fastrnn; loading it registers them with torch.";
  module.def("use_instruction_set", &fastrnn::cpu::use_instruction_set,
             "Select an instruction set by name; false if it is not compiled in or not supported.");
  module.def("info", &info, "What was built: versions, compiler, instruction sets.");
  bind_plan(module);
}
