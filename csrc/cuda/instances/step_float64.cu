// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Float64>(const UnbrokenForward&, Stream);
template void launch_step<Float64>(const UnbrokenBackward&, Stream);

}  // namespace fastrnn::cuda
