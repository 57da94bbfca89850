// Runs a call of the recurrence on the current stream of its device: makes the plan, allocates its
// workspace and launches.
#pragma once

#include <iterator>
#include <stdexcept>

#include "torch_device.h"

namespace fastrnn::cuda {

inline Mode mode_of(DType dtype, bool tf32) {
  switch (dtype) {
    case DType::float64: return Mode::float64;
    case DType::float32: return tf32 ? Mode::tf32 : Mode::float32;
    default: return Mode::half;
  }
}

// The plan of the strategy with this index in STRATEGIES, or of the fastest for -1.
inline Plan plan_of(const Sizes& sizes, int64_t strategy, int32_t device) {
  const Device& properties = device_of(device);
  if (strategy == -1) return make_plan(properties, sizes);
  STD_TORCH_CHECK(strategy >= 0 && strategy < std::ssize(STRATEGIES),
                  "fastrnn: there is no strategy ", strategy);
  const Strategy wanted = STRATEGIES[strategy];
  const Option option = best(wanted, properties, sizes);
  STD_TORCH_CHECK(option.unsupported_reason.empty(), "fastrnn: '", name(wanted),
                  "' cannot serve this call: ", option.unsupported_reason);
  return option.plan;
}

// Caches the last plan: making one tries every tiling.
inline const Plan& cached_plan(const Sizes& sizes, int64_t strategy, int32_t device) {
  struct CachedPlan {
    int32_t device = -1;
    int64_t strategy = 0;
    Sizes sizes{};
    Plan plan{};
  };
  thread_local CachedPlan last[2];  // forward, backward
  CachedPlan& cached = last[sizes.pass == Pass::backward];
  if (cached.device != device || cached.strategy != strategy || cached.sizes != sizes) {
    cached = {device, strategy, sizes, plan_of(sizes, strategy, device)};
  }
  return cached.plan;
}

// The message of an error of a call.
template <class Call>
[[noreturn]] void rethrow(const std::runtime_error& error, const Call& call, Cell cell, Pass pass,
                          const Plan& plan) {
  STD_TORCH_CHECK(false, "fastrnn: ", name(plan.strategy),
                  pass == Pass::forward ? " forward" : " backward", ", cell ", int(cell),
                  ", T=", call.T, " B=", call.B, " G=", call.G, " H=", call.H, " (", describe(plan),
                  "): ", error.what());
  throw;  // not reached
}

// Call is one of those of dispatch.h, of this cell.
template <class Call>
void launch(const Call& call, Cell cell, Pass pass, const Tensor& like, bool tf32,
            int64_t strategy) {
  if (call.B == 0 || call.G == 0 || call.H == 0) return;
  const int32_t device = like.get_device_index();
  const DeviceGuard guard(device);
  const Sizes sizes{mode_of(call.dtype, tf32), pass, call.T, call.B, call.G, call.H, cell};
  const Plan& plan = cached_plan(sizes, strategy, device);
  const int64_t bytes = workspace_bytes(call, plan);
  Given workspace;
  if (bytes > 0) {
    workspace = torch::stable::new_empty(like, {bytes}, torch::headeronly::ScalarType::Byte);
  }
  try {
    run(call, plan, mutable_data_or_null(workspace), current_stream(device));
  } catch (const std::runtime_error& error) {
    rethrow(error, call, cell, pass, plan);
  }
}

// The plan of a forward that reads a layer's input itself, or null if no kernel does.
inline const Plan* projecting_plan(const ParamsWithResets& params, Cell cell, int64_t I, bool tf32,
                                   int32_t device) {
  if (params.B == 0 || params.H == 0 || params.dtype == DType::float64) return nullptr;
  const Sizes sizes{
      mode_of(params.dtype, tf32), Pass::forward, params.T, params.B, params.G, params.H, cell};
  const Plan& plan = cached_plan(sizes, /*strategy=*/-1, device);
  return can_project(plan, device_of(device), sizes, I) ? &plan : nullptr;
}

}  // namespace fastrnn::cuda
