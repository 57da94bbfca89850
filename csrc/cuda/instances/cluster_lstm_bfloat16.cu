// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Bfloat16>(const CellForwardOf<Lstm>&, const Plan&, Stream);
template void launch_cluster<Bfloat16>(const CellBackwardOf<Lstm>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
