// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float32>(const ForwardLayers<AnyElman>&, const Plan&, Stream);
template void launch_cluster<Float32>(const ForwardLayers<Lstm>&, const Plan&, Stream);
template void launch_cluster<Float32>(const ForwardLayers<Gru>&, const Plan&, Stream);
template void launch_cluster<Float32>(const BackwardLayers<AnyElman>&, const Plan&, Stream);
template void launch_cluster<Float32>(const BackwardLayers<Lstm>&, const Plan&, Stream);
template void launch_cluster<Float32>(const BackwardLayers<Gru>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
