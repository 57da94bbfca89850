// The calls of the CUDA runtime that the launchers use. FASTRNN_EMULATE replaces them with an
// emulation on the CPU: emulated_runtime.h, which the include path must provide.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef FASTRNN_EMULATE
#include "emulated_runtime.h"
#else
#include <cuda_runtime.h>

namespace fastrnn::cuda {

using Stream = cudaStream_t;

struct Launch {
  dim3 grid;
  int threads;
  int cluster = 1;           // blocks of a cluster, along x
  size_t shared = 0;         // bytes of dynamic shared memory
  bool cooperative = false;  // all blocks at once, or an error
};

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clear it, so that later checks do not report it
  throw std::runtime_error(cudaGetErrorString(error));
}

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const Launch& shape, Stream stream,
            Parameters... arguments) {
  const auto function = reinterpret_cast<const void*>(kernel);
  if (shape.shared > 48 << 10) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared)));
  }
  if (shape.cluster > 8) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  }
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared;
  config.stream = stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  if (shape.cooperative) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// Blocks of this kernel that one multiprocessor holds at once.
template <class... Parameters>
int blocks_per_processor(void (*kernel)(Parameters...), int threads, size_t shared) {
  const auto function = reinterpret_cast<const void*>(kernel);
  if (shared > 48 << 10) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
  }
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared));
  return blocks;
}

// Multiprocessors of the current device.
inline int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

inline void fill(void* memory, int byte, size_t bytes, Stream stream) {
  check(cudaMemsetAsync(memory, byte, bytes, stream));
}

}  // namespace fastrnn::cuda
#endif
