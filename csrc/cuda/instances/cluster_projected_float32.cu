// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float32>(const ProjectedForwardOf<AnyElman>&, const Plan&, Stream);
template void launch_cluster<Float32>(const ProjectedForwardOf<Lstm>&, const Plan&, Stream);
template void launch_cluster<Float32>(const ProjectedForwardOf<Gru>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
