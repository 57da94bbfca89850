#include "emulated_runtime.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fastrnn::emulator {
namespace {

void check(bool right, const char* what) {
  if (!right) throw std::runtime_error(std::string("launch failed: ") + what);
}

}  // namespace

void launch(const Shape& shape, bool cooperative, Device& device, Machine::Kernel kernel,
            const void* arguments) {
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  check(blocks > 0 && shape.grid.x < 1u << 31 && shape.grid.y < 1 << 16 && shape.grid.z < 1 << 16,
        "the grid has no blocks, or too many along one dimension");
  check(shape.threads > 0 && shape.threads <= 1024 && shape.threads % warp_lanes == 0,
        "a block is 1 to 32 whole warps");
  check(shape.cluster > 0 && shape.cluster <= 16 && shape.grid.x % shape.cluster == 0,
        "a cluster is 1 to 16 blocks, and the grid whole clusters");
  check(shape.shared <= device.shared_bytes, "too much shared memory");
  check(!machine, "a kernel cannot launch kernels");
  uint64_t at_once = device.running;
  if (cooperative) {
    at_once = uint64_t(device.processors) * device.blocks_per_processor;
    check(blocks <= at_once, "a cooperative grid has more blocks than can run at once");
  }
  ++device.launches;
  const uint64_t clusters = std::max<uint64_t>(1, at_once / shape.cluster);
  Machine(shape, device.seed++, clusters, cooperative).run(kernel, arguments);
}

}  // namespace fastrnn::emulator
