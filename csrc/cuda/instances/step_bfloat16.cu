// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Bfloat16>(const ForwardWithoutResets&, Stream);
template void launch_step<Bfloat16>(const BackwardWithoutResets&, Stream);

}  // namespace fastrnn::cuda
