#include "weight_grad.h"

#include "dispatch.h"

namespace fastrnn::cuda {

void run(const LayersOf<WeightGradients>& layers, int count, const Device& device, void* stream_) {
  const int most_blocks = device.major >= 9 ? 8 : 1;  // of a cluster
  const auto stream = static_cast<Stream>(stream_);
  switch (layers.of[0].dtype) {
    case DType::float64: return launch_weight_grad<Float64>(layers, count, most_blocks, stream);
    case DType::float32: return launch_weight_grad<Float32>(layers, count, most_blocks, stream);
    case DType::bfloat16: return launch_weight_grad<Bfloat16>(layers, count, most_blocks, stream);
    case DType::float16: return launch_weight_grad<Float16>(layers, count, most_blocks, stream);
  }
}

}  // namespace fastrnn::cuda
