// The strategies' launchers, which dispatch.cu chooses from. Nothing here waits for the device.
#pragma once

#include <cstdint>

#include "../params.h"
#include "plan.h"
#include "runtime.h"

namespace fastrnn::cuda {

// One strategy, for one dtype. Direction is one of the passes of params.h; what is Unbroken has
// kernels of its own, which know of no resets.
template <class E, class Direction>
void launch_cluster(const Direction& problem, const Plan& plan, Stream stream);
template <class E, class Direction>
void launch_grid(const Direction& problem, const Plan& plan, void* workspace, Stream stream);
template <class E, class Direction>
void launch_step(const Direction& problem, Stream stream);
template <class Direction> int64_t grid_workspace_bytes(const Direction& problem);

using UnbrokenForward = ForwardOf<Unbroken>;
using UnbrokenBackward = BackwardOf<Unbroken>;

inline UnbrokenForward without_resets(const Forward& p) {
  return {p, p.pre, p.weight_hh, p.h0, p.out, p.h_n};
}
inline UnbrokenBackward without_resets(const Backward& p) {
  return {p, p.grad_out, p.grad_h_n, p.out, p.weight_hh, p.grad_pre, p.grad_h0};
}

}  // namespace fastrnn::cuda
