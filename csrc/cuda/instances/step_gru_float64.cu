// Written by ../generate_instances.py.
#include "../step.h"

namespace fastrnn::cuda {

template void launch_step<Float64>(const CellForwardOf<Gru>&, Stream);
template void launch_step<Float64>(const CellBackwardOf<Gru>&, Stream);
template int64_t step_workspace_bytes(const CellForwardOf<Gru>&);
template int64_t step_workspace_bytes(const CellBackwardOf<Gru>&);

}  // namespace fastrnn::cuda
