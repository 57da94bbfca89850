// Dispatches a call to the launcher of its strategy, and queries device properties.
#include "dispatch.h"

#include <map>
#include <mutex>

#include "launchers.h"
#include "mma_traits.h"

namespace fastrnn::cuda {
namespace {

// A block that occupies a whole multiprocessor, as those of the cluster kernel do.
__global__ void __launch_bounds__(256, 1) full_sm_kernel() {}

int attribute(cudaDeviceAttr attribute, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attribute, index));
  return value;
}

int max_active_clusters(int blocks, int shared_bytes) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = shared_bytes;
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = 0;
  // The driver rejects some sizes on some devices: such clusters are unavailable.
  if (cudaOccupancyMaxActiveClusters(&count, full_sm_kernel, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

Device query_device(int index) {
  Device device{};
  device.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  device.minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  device.processors = attribute(cudaDevAttrMultiProcessorCount, index);
  device.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  device.cooperative = attribute(cudaDevAttrCooperativeLaunch, index);
  if (device.major < 9) return device;
  check(cudaFuncSetAttribute(full_sm_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             device.shared_bytes));
  check(cudaFuncSetAttribute(full_sm_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  for (int i = 0; i < 5; ++i) {
    device.clusters[i] = max_active_clusters(1 << i, device.shared_bytes);
  }
  return device;
}

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

}  // namespace

int runtime_version() { return CUDART_VERSION; }

const Device& device(int index) {
  static std::mutex mutex;
  static std::map<int, Device> cache;
  const std::lock_guard lock(mutex);
  const auto found = cache.find(index);
  return found != cache.end() ? found->second
                              : cache.emplace(index, query_device(index)).first->second;
}

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

}  // namespace fastrnn::cuda
