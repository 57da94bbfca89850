#include "weight_grad.h"

namespace fastrnn::cuda {

template void launch_weight_grad<Bfloat16>(const WeightGradients&, int, Stream);
template void launch_weight_grad<Float16>(const WeightGradients&, int, Stream);
template void launch_weight_grad<Float32>(const WeightGradients&, int, Stream);
template void launch_weight_grad<Float64>(const WeightGradients&, int, Stream);

}  // namespace fastrnn::cuda
