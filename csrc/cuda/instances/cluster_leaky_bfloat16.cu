// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Bfloat16>(const CellForwardOf<Leaky>&, const Plan&, Stream);
template void launch_cluster<Bfloat16>(const CellBackwardOf<Leaky>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
