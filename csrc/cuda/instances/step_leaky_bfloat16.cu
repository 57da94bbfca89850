// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Bfloat16>(const CellForwardOf<Leaky>&, Stream);
template void launch_step<Bfloat16>(const CellBackwardOf<Leaky>&, Stream);
template int64_t step_workspace_bytes(const CellForwardOf<Leaky>&);
template int64_t step_workspace_bytes(const CellBackwardOf<Leaky>&);

}  // namespace fastrnn::cuda
