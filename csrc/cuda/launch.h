// Runs a call of the recurrence on the current stream of its device: makes the plan, allocates its
// workspace and launches.
#pragma once

#include <array>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

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

// The last values, and what they were made from. Making a plan tries every tiling, and the layers of a
// model alternate.
template <class Key, class Value> class Cached {
 public:
  template <class Make> const Value& get(const Key& key, Make make) {
    for (const auto& entry : entries_) {
      if (entry && entry->first == key) return entry->second;
    }
    auto& entry = entries_[next_++ % entries_.size()];
    entry.emplace(key, make());
    return entry->second;
  }

 private:
  std::array<std::optional<std::pair<Key, Value>>, 8> entries_;
  size_t next_ = 0;
};

inline const Plan& cached_plan(const Sizes& sizes, int64_t strategy, int32_t device) {
  thread_local Cached<std::tuple<Sizes, int64_t, int32_t>, Plan> last[2];  // forward, backward
  return last[sizes.pass == Pass::backward].get({sizes, strategy, device},
                                                [&] { return plan_of(sizes, strategy, device); });
}

// As stack_plans in plan.h.
inline const std::vector<Plan>& cached_stack_plans(const Sizes& sizes, int64_t layers,
                                                   int64_t input, int64_t hidden, int32_t device) {
  using Key = std::tuple<Sizes, int64_t, int64_t, int64_t, int32_t>;
  thread_local Cached<Key, std::vector<Plan>> last[2];
  return last[sizes.pass == Pass::backward].get({sizes, layers, input, hidden, device}, [&] {
    return stack_plans(device_of(device), sizes, layers, input, hidden);
  });
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

inline bool is_empty(const Params& p) { return p.B == 0 || p.G == 0 || p.H == 0; }

inline Sizes sizes_of(const Params& p, Cell cell, Pass pass, bool tf32) {
  return {mode_of(p.dtype, tf32), pass, p.T, p.B, p.G, p.H, cell};
}

// Calls run(stream), with an error that describes the call.
template <class Call, class Run>
void on_stream(const Call& call, Cell cell, Pass pass, const Tensor& like, const Plan& plan,
               Run run) {
  const int32_t device = like.get_device_index();
  const DeviceGuard guard(device);
  try {
    run(current_stream(device));
  } catch (const std::runtime_error& error) {
    rethrow(error, call, cell, pass, plan);
  }
}

// Call is one of those of dispatch.h, of this cell.
template <class Call>
void launch(const Call& call, Cell cell, Pass pass, const Tensor& like, const Plan& plan) {
  const int64_t bytes = workspace_bytes(call, plan);
  Given workspace;
  if (bytes > 0) {
    workspace = torch::stable::new_empty(like, {bytes}, torch::headeronly::ScalarType::Byte);
  }
  on_stream(call, cell, pass, like, plan,
            [&](void* stream) { run(call, plan, mutable_data_or_null(workspace), stream); });
}

// The same of the layers of a launch, and of a call of `rows`.
template <class Layer>
void launch(const LayersOf<Layer>& layers, Pass pass, const Tensor& like, const Plan& plan) {
  const Layer& first = layers.of[0];
  on_stream(first, first.cell, pass, like, plan, [&](void* stream) { run(layers, plan, stream); });
}
template <class Call>
void launch_rows(const Call& call, Pass pass, const Tensor& like, const Plan& plan) {
  on_stream(call, call.cell, pass, like, plan, [&](void* stream) { run_rows(call, plan, stream); });
}

// The same with the best plan of a strategy.
template <class Call>
void launch(const Call& call, Cell cell, Pass pass, const Tensor& like, bool tf32,
            int64_t strategy) {
  if (is_empty(call)) return;
  const Sizes sizes = sizes_of(call, cell, pass, tf32);
  launch(call, cell, pass, like, cached_plan(sizes, strategy, like.get_device_index()));
}

}  // namespace fastrnn::cuda
