// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float32>(const CellForwardOf<Leaky>&, const Plan&, Stream);
template void launch_cluster<Float32>(const CellBackwardOf<Leaky>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
