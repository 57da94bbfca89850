// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Tf32>(const CellForwardOf<LeakyPre>&, const Plan&, Stream);
template void launch_cluster<Tf32>(const CellBackwardOf<LeakyPre>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
