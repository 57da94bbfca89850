// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Float64>(const Forward&, Stream);
template void launch_step<Float64>(const Backward&, Stream);

}  // namespace fastrnn::cuda
