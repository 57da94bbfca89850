// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float16>(const Forward&, const Plan&, Stream);
template void launch_cluster<Float16>(const Backward&, const Plan&, Stream);

}  // namespace fastrnn::cuda
