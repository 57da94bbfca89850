// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Float16>(const ForwardWithoutResets&, const Plan&, void*, Stream);
template void launch_grid<Float16>(const BackwardWithoutResets&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const ForwardWithoutResets&);
template int64_t grid_workspace_bytes(const BackwardWithoutResets&);

}  // namespace fastrnn::cuda
