// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Float16>(const CellForwardOf<LeakyPre>&, Stream);
template void launch_step<Float16>(const CellBackwardOf<LeakyPre>&, Stream);
template int64_t step_workspace_bytes(const CellForwardOf<LeakyPre>&);
template int64_t step_workspace_bytes(const CellBackwardOf<LeakyPre>&);

}  // namespace fastrnn::cuda
