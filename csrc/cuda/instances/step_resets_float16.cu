// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Float16>(const Forward&, Stream);
template void launch_step<Float16>(const Backward&, Stream);

}  // namespace fastrnn::cuda
