// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Bfloat16>(const UnbrokenForward&, const Plan&, void*, Stream);
template void launch_grid<Bfloat16>(const UnbrokenBackward&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const UnbrokenForward&);
template int64_t grid_workspace_bytes(const UnbrokenBackward&);

}  // namespace fastrnn::cuda
