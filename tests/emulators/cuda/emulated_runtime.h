// The CUDA runtime of an emulated device, for the launchers. See csrc/cuda/runtime.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator.h"

namespace fastrnn::emulator {

struct Device {
  int processors = 8;
  int blocks_per_processor = 1;
  size_t shared_bytes = 227 << 10;  // maximum of one block
  // The maximum number of blocks of an ordinary launch that run at once. The actual number is
  // random.
  int running = 8;
  uint64_t seed = 0;     // of the next launch
  int64_t launches = 0;  // so far
};
inline Device device;  // the only one

void launch(const Shape& shape, bool cooperative, Device& device, Machine::Kernel kernel,
            const void* arguments);

}  // namespace fastrnn::emulator

namespace fastrnn::cuda {

using Stream = emulator::Device*;

struct Launch {
  dim3 grid;
  int threads;
  int cluster = 1;           // blocks of a cluster, along x
  size_t shared = 0;         // bytes of dynamic shared memory
  bool cooperative = false;  // all blocks at once, or an error
};

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const Launch& shape, Stream stream,
            Parameters... arguments) {
  const auto call = [&] { kernel(arguments...); };
  emulator::launch(
      {shape.grid, shape.threads, shape.cluster, shape.shared}, shape.cooperative, *stream,
      [](const void* it) { (*static_cast<decltype(&call)>(it))(); }, &call);
}

template <class... Parameters>
int blocks_per_processor(void (*)(Parameters...), int, size_t shared) {
  return shared <= emulator::device.shared_bytes ? emulator::device.blocks_per_processor : 0;
}

inline int processors() { return emulator::device.processors; }

inline void fill(void* memory, int byte, size_t bytes, Stream stream) {
  ++stream->launches;
  memset(memory, byte, bytes);
}

}  // namespace fastrnn::cuda
