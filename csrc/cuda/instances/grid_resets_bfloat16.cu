// Written by ../generate_instances.py.
#include "../grid.h"

namespace fastrnn::cuda {

template void launch_grid<Bfloat16>(const Forward&, const Plan&, void*, Stream);
template void launch_grid<Bfloat16>(const Backward&, const Plan&, void*, Stream);
template int64_t grid_workspace_bytes(const Forward&);
template int64_t grid_workspace_bytes(const Backward&);

}  // namespace fastrnn::cuda
