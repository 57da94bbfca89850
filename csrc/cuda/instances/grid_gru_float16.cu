// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Float16>(const CellForwardOf<Gru>&, const Plan&, void*, Stream);
template void launch_grid<Float16>(const CellBackwardOf<Gru>&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const CellForwardOf<Gru>&);
template int64_t grid_workspace_bytes(const CellBackwardOf<Gru>&);

}  // namespace fastrnn::cuda
