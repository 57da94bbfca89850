// Queries the properties of devices.
#include <map>
#include <mutex>

#include "dispatch.h"
#include "runtime.h"

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

}  // namespace fastrnn::cuda
