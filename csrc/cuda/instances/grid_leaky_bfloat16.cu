// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Bfloat16>(const CellForwardOf<Leaky>&, const Plan&, void*, Stream);
template void launch_grid<Bfloat16>(const CellBackwardOf<Leaky>&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const CellForwardOf<Leaky>&);
template int64_t grid_workspace_bytes(const CellBackwardOf<Leaky>&);

}  // namespace fastrnn::cuda
