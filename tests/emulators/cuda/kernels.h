// All launchers of the kernels, by name. Those that are not linked in are null.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "cuda/launchers.h"
#include "cuda/pass_traits.h"

// clang-format off
#define KERNELS                                                                             \
  KERNEL(cluster, Bfloat16) KERNEL(cluster, Float16) KERNEL(cluster, Tf32)                  \
  KERNEL(cluster, Float32) KERNEL(grid, Bfloat16) KERNEL(grid, Float16) KERNEL(grid, Tf32)  \
  KERNEL(grid, Float32) KERNEL(step, Bfloat16) KERNEL(step, Float16) KERNEL(step, Tf32)     \
  KERNEL(step, Float32) KERNEL(step, Float64)

// The parameters of all kernels.
#define PARAMETERS                                                                           \
  PARAMS(Forward) PARAMS(Backward) PARAMS(ForwardWithoutResets) PARAMS(BackwardWithoutResets) \
  PARAMS(CellForwardOf<Lstm>) PARAMS(CellBackwardOf<Lstm>)                                   \
  PARAMS(CellForwardOf<Gru>) PARAMS(CellBackwardOf<Gru>)                                     \
  PARAMS(CellForwardOf<Leaky>) PARAMS(CellBackwardOf<Leaky>)                                 \
  PARAMS(CellForwardOf<LeakyPre>) PARAMS(CellBackwardOf<LeakyPre>)
// clang-format on

namespace fastrnn::cuda {

#define PROJECTED                  \
  PARAMS(ForwardLayers<AnyElman>)  \
  PARAMS(ForwardLayers<Lstm>)      \
  PARAMS(ForwardLayers<Gru>)       \
  PARAMS(BackwardLayers<AnyElman>) \
  PARAMS(BackwardLayers<Lstm>)     \
  PARAMS(BackwardLayers<Gru>)

#define WEAK template <> __attribute__((weak))
#define PARAMS_OF_KERNEL(P, E)                                    \
  WEAK void launch_cluster<E>(const P&, const Plan&, Stream);     \
  WEAK void launch_grid<E>(const P&, const Plan&, void*, Stream); \
  WEAK void launch_step<E>(const P&, Stream);
#define PARAMS(P)                                                                \
  PARAMS_OF_KERNEL(P, Bfloat16)                                                  \
  PARAMS_OF_KERNEL(P, Float16)                                                   \
  PARAMS_OF_KERNEL(P, Tf32)                                                      \
  PARAMS_OF_KERNEL(P, Float32) WEAK void launch_step<Float64>(const P&, Stream); \
  WEAK int64_t grid_workspace_bytes(const P&);                                   \
  WEAK int64_t step_workspace_bytes(const P&);
PARAMETERS
#undef PARAMS
#define PARAMS(P)                                                    \
  WEAK void launch_cluster<Bfloat16>(const P&, const Plan&, Stream); \
  WEAK void launch_cluster<Float16>(const P&, const Plan&, Stream);  \
  WEAK void launch_cluster<Tf32>(const P&, const Plan&, Stream);     \
  WEAK void launch_cluster<Float32>(const P&, const Plan&, Stream);
PROJECTED
#undef PARAMS
#define PARAMS(P)                                    \
  WEAK void launch_rows<Bfloat16>(const P&, Stream); \
  WEAK void launch_rows<Float16>(const P&, Stream);  \
  WEAK void launch_rows<Tf32>(const P&, Stream);     \
  WEAK void launch_rows<Float32>(const P&, Stream);
// clang-format off
#define ROWS(CELL) PARAMS(ProjectedForwardOf<CELL>) PARAMS(CellBackwardOf<CELL>)
ROWS(AnyElman) ROWS(Lstm) ROWS(Gru) ROWS(Leaky) ROWS(LeakyPre)
// clang-format on
#undef PARAMS

    // Memory of exactly this size, filled with NaNs. Null if it is empty.
    class Workspace {
 public:
  explicit Workspace(size_t bytes) : memory_(nullptr, free) {
    if (bytes == 0) return;
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) throw std::bad_alloc();
    memory_.reset(static_cast<unsigned char*>(memory));
    memset(memory, 0x7f, bytes);
  }
  unsigned char* get() const { return memory_.get(); }

 private:
  std::unique_ptr<unsigned char, void (*)(void*)> memory_;
};

// Calls a launcher, whatever its signature.
template <class P> struct Call {
  P params;
  const Plan& plan;

  void operator()(void (*launcher)(const P&, const Plan&, Stream)) const {
    launcher(params, plan, &emulator::device);
  }
  void operator()(void (*launcher)(const P&, const Plan&, void*, Stream)) const {
    const Workspace workspace(grid_workspace_bytes<P>(params));
    launcher(params, plan, workspace.get(), &emulator::device);
  }
  void operator()(void (*launcher)(const P&, Stream)) {
    const auto bytes = &step_workspace_bytes<P>;
    if (!bytes) return launcher(params, &emulator::device);
    const Workspace workspace(bytes(params));
    if constexpr (saves_gates<P>) params.workspace = workspace.get();
    launcher(params, &emulator::device);
  }
};

template <class P> void launch(const std::string& kernel, const P& params, const Plan& plan) {
  Call<P> call{params, plan};
#define KERNEL(strategy, E)                          \
  if (kernel == #strategy "." #E) {                  \
    auto* const launcher = &launch_##strategy<E, P>; \
    if (launcher) return call(launcher);             \
  }
  KERNELS
#undef KERNEL
  throw std::runtime_error("not compiled in: " + kernel);
}

inline void run(const std::string& kernel, const Forward& params, const Plan& plan) {
  if (params.resets) return launch(kernel, params, plan);
  launch(kernel, without_resets(params), plan);
}
inline void run(const std::string& kernel, const Backward& params, const Plan& plan) {
  if (params.resets) return launch(kernel, params, plan);
  launch(kernel, without_resets(params), plan);
}
inline void run(const std::string& kernel, const CellForward& params, const Plan& plan) {
  with_cell<CellForwardOf>(params, [&](const auto& p) { launch(kernel, p, plan); });
}
inline void run(const std::string& kernel, const CellBackward& params, const Plan& plan) {
  with_cell<CellBackwardOf>(params, [&](const auto& p) { launch(kernel, p, plan); });
}

// With an input projection; `element`: the suffix of the kernel's name.
template <template <class> class Of, class Layer>
void run_layers(const std::string& element, const LayersOf<Layer>& layers, const Plan& plan) {
  with_projected_cell<Of>(layers, [&](const auto& p) {
    using P = std::decay_t<decltype(p)>;
    void (*launcher)(const P&, const Plan&, Stream) = nullptr;
    if (element == "Bfloat16") launcher = &launch_cluster<Bfloat16, P>;
    if (element == "Float16") launcher = &launch_cluster<Float16, P>;
    if (element == "Tf32") launcher = &launch_cluster<Tf32, P>;
    if (element == "Float32") launcher = &launch_cluster<Float32, P>;
    if (!launcher) throw std::runtime_error("not compiled in: projected " + element);
    launcher(p, plan, &emulator::device);
  });
}
inline void run(const std::string& element, const LayersOf<ProjectedForward>& layers,
                const Plan& plan) {
  run_layers<ProjectedForwardOf>(element, layers, plan);
}
inline void run(const std::string& element, const LayersOf<ProjectedBackward>& layers,
                const Plan& plan) {
  run_layers<ProjectedBackwardOf>(element, layers, plan);
}

// The kernels of `rows`; `element`: the suffix of the kernel's name.
template <template <class> class Of, class Call>
void run_rows(const std::string& element, const Call& call) {
  with_any_cell<Of>(call, [&](const auto& p) {
    using P = std::decay_t<decltype(p)>;
    void (*launcher)(const P&, Stream) = nullptr;
    if (element == "Bfloat16") launcher = &launch_rows<Bfloat16, P>;
    if (element == "Float16") launcher = &launch_rows<Float16, P>;
    if (element == "Tf32") launcher = &launch_rows<Tf32, P>;
    if (element == "Float32") launcher = &launch_rows<Float32, P>;
    if (!launcher) throw std::runtime_error("not compiled in: rows " + element);
    launcher(p, &emulator::device);
  });
}

}  // namespace fastrnn::cuda
