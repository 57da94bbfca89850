// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Float32>(const UnbrokenForward&, Stream);
template void launch_step<Float32>(const UnbrokenBackward&, Stream);

}  // namespace fastrnn::cuda
