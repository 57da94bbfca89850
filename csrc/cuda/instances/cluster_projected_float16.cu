// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float16>(const LayersOf<ProjectedForwardOf<AnyElman>>&, const Plan&, Stream);
template void launch_cluster<Float16>(const LayersOf<ProjectedForwardOf<Lstm>>&, const Plan&, Stream);
template void launch_cluster<Float16>(const LayersOf<ProjectedForwardOf<Gru>>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
