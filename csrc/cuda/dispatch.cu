// Sends a call to its strategy's launcher, and asks the driver what a device is.
#include "dispatch.h"

#include <map>
#include <mutex>

#include "launchers.h"
#include "mma_traits.h"

namespace fastrnn::cuda {
namespace {

// A block that fills a multiprocessor, as the cluster kernel's do.
__global__ void __launch_bounds__(256, 1) whole_processor() {}

int attribute(cudaDeviceAttr attribute, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attribute, index));
  return value;
}

int clusters_at_once(int blocks, int shared_bytes) {
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
  // Some sizes and some shared devices are refused: such a cluster is not there to be chosen.
  if (cudaOccupancyMaxActiveClusters(&count, whole_processor, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

Device ask(int index) {
  Device device{};
  device.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  device.minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  device.processors = attribute(cudaDevAttrMultiProcessorCount, index);
  device.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  device.cooperative = attribute(cudaDevAttrCooperativeLaunch, index);
  if (device.major < 9) return device;
  check(cudaFuncSetAttribute(whole_processor, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             device.shared_bytes));
  check(cudaFuncSetAttribute(whole_processor, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  for (int i = 0; i < 5; ++i) {
    device.clusters[i] = clusters_at_once(1 << i, device.shared_bytes);
  }
  return device;
}

// Calls `function` with an instance of the element type that the plan computes with.
template <class Function> auto with_element(const Unbroken& problem, Mode mode, Function function) {
  if (problem.dtype == DType::bfloat16) return function(Bfloat16());
  if (problem.dtype == DType::float16) return function(Float16());
  if (mode == Mode::tf32) return function(Tf32());
  return function(Float32());
}

template <class Direction>
void run(const Direction& problem, const Plan& plan, void* workspace, void* stream_) {
  const auto stream = static_cast<Stream>(stream_);
  if (problem.dtype == DType::float64) return launch_step<Float64>(problem, stream);
  with_element(problem, plan.mode, [&](auto element) {
    using E = decltype(element);
    switch (plan.strategy) {
      case Strategy::cluster: return launch_cluster<E>(problem, plan, stream);
      case Strategy::grid: return launch_grid<E>(problem, plan, workspace, stream);
      default: return launch_step<E>(problem, stream);
    }
  });
}

// Resets have kernels of their own.
template <class Direction>
void run_one(const Direction& problem, const Plan& plan, void* workspace, void* stream) {
  if (problem.resets) return run(problem, plan, workspace, stream);
  run(without_resets(problem), plan, workspace, stream);
}

}  // namespace

int runtime_version() { return CUDART_VERSION; }

const Device& device(int index) {
  static std::mutex mutex;
  static std::map<int, Device> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(index);
  return found != known.end() ? found->second : known.emplace(index, ask(index)).first->second;
}

int64_t workspace_bytes(const Forward& problem, const Plan& plan) {
  return plan.strategy == Strategy::grid ? grid_workspace_bytes(problem) : 0;
}
int64_t workspace_bytes(const Backward& problem, const Plan& plan) {
  return plan.strategy == Strategy::grid ? grid_workspace_bytes(problem) : 0;
}

void forward(const Forward& problem, const Plan& plan, void* workspace, void* stream) {
  run_one(problem, plan, workspace, stream);
}
void backward(const Backward& problem, const Plan& plan, void* workspace, void* stream) {
  run_one(problem, plan, workspace, stream);
}

}  // namespace fastrnn::cuda
