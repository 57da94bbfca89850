// Written by ../generate_instances.py.
#include "../cluster.h"

namespace fastrnn::cuda {

template void launch_cluster<Float16>(const CellForwardOf<Gru>&, const Plan&, Stream);
template void launch_cluster<Float16>(const CellBackwardOf<Gru>&, const Plan&, Stream);

}  // namespace fastrnn::cuda
