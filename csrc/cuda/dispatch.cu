// Dispatches a call to the launcher of its strategy.
#include "dispatch.h"

#include "launchers.h"
#include "mma_traits.h"

namespace fastrnn::cuda {
namespace {

// Calls `function` with the element traits of the dtype and mode.
template <class Function> auto with_traits(const Params& params, Mode mode, Function function) {
  if (params.dtype == DType::bfloat16) return function(Bfloat16());
  if (params.dtype == DType::float16) return function(Float16());
  if (mode == Mode::tf32) return function(Tf32());
  return function(Float32());
}

template <class P>
void launch(const P& params, const Plan& plan, void* workspace, void* stream_) {
  const auto stream = static_cast<Stream>(stream_);
  if (params.dtype == DType::float64) return launch_step<Float64>(params, stream);
  with_traits(params, plan.mode, [&](auto traits) {
    using E = decltype(traits);
    switch (plan.strategy) {
      case Strategy::cluster: return launch_cluster<E>(params, plan, stream);
      case Strategy::grid: return launch_grid<E>(params, plan, workspace, stream);
      default: return launch_step<E>(params, stream);
    }
  });
}

template <class P> int64_t cell_bytes(const P& params, const Plan& plan) {
  switch (plan.strategy) {
    case Strategy::grid: return grid_workspace_bytes(params);
    case Strategy::step: return step_workspace_bytes(params);
    default: return 0;
  }
}

template <template <class> class Of, class P>
void launch_layers(const LayersOf<P>& layers, const Plan& plan, void* stream) {
  with_projected_cell<Of>(layers, [&](const auto& of_cell) {
    with_traits(of_cell.of[0], plan.mode, [&](auto traits) {
      launch_cluster<decltype(traits)>(of_cell, plan, static_cast<Stream>(stream));
    });
  });
}

template <template <class> class Of, class P>
void launch_rows_of(const P& params, const Plan& plan, void* stream) {
  with_any_cell<Of>(params, [&](const auto& p) {
    with_traits(p, plan.mode, [&](auto traits) {
      launch_rows<decltype(traits)>(p, static_cast<Stream>(stream));
    });
  });
}

}  // namespace

int64_t workspace_bytes(const Forward& params, const Plan& plan) {
  return plan.strategy == Strategy::grid ? grid_workspace_bytes(params) : 0;
}
int64_t workspace_bytes(const Backward& params, const Plan& plan) {
  return plan.strategy == Strategy::grid ? grid_workspace_bytes(params) : 0;
}
int64_t workspace_bytes(const CellForward& params, const Plan& plan) {
  return with_cell<CellForwardOf>(params, [&](const auto& p) { return cell_bytes(p, plan); });
}
int64_t workspace_bytes(const CellBackward& params, const Plan& plan) {
  return with_cell<CellBackwardOf>(params, [&](const auto& p) { return cell_bytes(p, plan); });
}

void run(const Forward& params, const Plan& plan, void* workspace, void* stream) {
  if (params.resets) return launch(params, plan, workspace, stream);
  launch(without_resets(params), plan, workspace, stream);
}
void run(const Backward& params, const Plan& plan, void* workspace, void* stream) {
  if (params.resets) return launch(params, plan, workspace, stream);
  launch(without_resets(params), plan, workspace, stream);
}
void run(const CellForward& params, const Plan& plan, void* workspace, void* stream) {
  with_cell<CellForwardOf>(params, [&](auto p) {
    p.workspace = static_cast<unsigned char*>(workspace);
    launch(p, plan, workspace, stream);
  });
}
void run(const CellBackward& params, const Plan& plan, void* workspace, void* stream) {
  with_cell<CellBackwardOf>(params, [&](auto p) {
    p.workspace = static_cast<unsigned char*>(workspace);
    launch(p, plan, workspace, stream);
  });
}

void run_rows(const ProjectedForward& params, const Plan& plan, void* stream) {
  launch_rows_of<ProjectedForwardOf>(params, plan, stream);
}
void run_rows(const CellBackward& params, const Plan& plan, void* stream) {
  launch_rows_of<CellBackwardOf>(params, plan, stream);
}

void run(const LayersOf<ProjectedForward>& layers, const Plan& plan, void* stream) {
  launch_layers<ProjectedForwardOf>(layers, plan, stream);
}
void run(const LayersOf<ProjectedBackward>& layers, const Plan& plan, void* stream) {
  launch_layers<ProjectedBackwardOf>(layers, plan, stream);
}

}  // namespace fastrnn::cuda
