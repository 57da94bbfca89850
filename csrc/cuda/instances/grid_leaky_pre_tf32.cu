// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Tf32>(const CellForwardOf<LeakyPre>&, const Plan&, void*, Stream);
template void launch_grid<Tf32>(const CellBackwardOf<LeakyPre>&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const CellForwardOf<LeakyPre>&);
template int64_t grid_workspace_bytes(const CellBackwardOf<LeakyPre>&);

}  // namespace fastrnn::cuda
