// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Float32>(const CellForwardOf<Lstm>&, const Plan&, void*, Stream);
template void launch_grid<Float32>(const CellBackwardOf<Lstm>&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const CellForwardOf<Lstm>&);
template int64_t grid_workspace_bytes(const CellBackwardOf<Lstm>&);

}  // namespace fastrnn::cuda
