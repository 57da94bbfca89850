// The strategies' launchers, which call.cu chooses from. Nothing here waits for the device.
#pragma once

#include <cstdint>

#include "../problem.h"
#include "plan.h"
#include "runtime.h"

namespace fastrnn::cuda {

// One strategy, for one dtype. Direction is Forward or Backward of problem.h.
template <class E, class Direction>
void launch_cluster(const Direction& problem, const Plan& plan, Stream stream);
template <class E, class Direction>
void launch_grid(const Direction& problem, const Plan& plan, void* workspace, Stream stream);
template <class E, class Direction>
void launch_step(const Direction& problem, Stream stream);
template <class Direction> int64_t grid_workspace_bytes(const Direction& problem);

}  // namespace fastrnn::cuda
