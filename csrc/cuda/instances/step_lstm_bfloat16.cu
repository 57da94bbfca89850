// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Bfloat16>(const CellForwardOf<Lstm>&, Stream);
template void launch_step<Bfloat16>(const CellBackwardOf<Lstm>&, Stream);
template int64_t step_workspace_bytes(const CellForwardOf<Lstm>&);
template int64_t step_workspace_bytes(const CellBackwardOf<Lstm>&);

}  // namespace fastrnn::cuda
