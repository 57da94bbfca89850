// The launchers of the strategies, called by dispatch.cu. None of them synchronizes with the
// device.
#pragma once

#include <cstdint>

#include "cell_params.h"
#include "plan.h"
#include "runtime.h"

namespace fastrnn::cuda {

// Each launches one strategy for one element type E. P is ForwardParams or BackwardParams, with
// resets or without, or CellForwardOf or CellBackwardOf. Each has instances of its own.
template <class E, class P>
void launch_cluster(const P& params, const Plan& plan, Stream stream);
template <class E, class P>
void launch_grid(const P& params, const Plan& plan, void* workspace, Stream stream);
template <class E, class P>
void launch_step(const P& params, Stream stream);
// P: ProjectedForwardOf, whose projection has no input features if pre is given, or CellBackwardOf.
template <class E, class P>
void launch_rows(const P& params, Stream stream);
template <class P> int64_t grid_workspace_bytes(const P& params);
template <class P> int64_t step_workspace_bytes(const P& params);  // of cells that save gates

using ForwardWithoutResets = ForwardParams<Params>;
using BackwardWithoutResets = BackwardParams<Params>;

inline ForwardWithoutResets without_resets(const Forward& p) { return {p, p}; }
inline BackwardWithoutResets without_resets(const Backward& p) { return {p, p}; }

}  // namespace fastrnn::cuda
