// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float16>(const ForwardWithoutResets&, const Plan&, Stream);
template void launch_cluster<Float16>(const BackwardWithoutResets&, const Plan&, Stream);

}  // namespace fastrnn::cuda
