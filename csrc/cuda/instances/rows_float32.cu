// Written by ../generate_instances.py.
#include "../rows.h"

namespace fastrnn::cuda {

template void launch_rows<Float32>(const ProjectedForwardOf<AnyElman>&, Stream);
template void launch_rows<Float32>(const ProjectedForwardOf<Lstm>&, Stream);
template void launch_rows<Float32>(const ProjectedForwardOf<Gru>&, Stream);
template void launch_rows<Float32>(const ProjectedForwardOf<Leaky>&, Stream);
template void launch_rows<Float32>(const ProjectedForwardOf<LeakyPre>&, Stream);
template void launch_rows<Float32>(const CellBackwardOf<AnyElman>&, Stream);
template void launch_rows<Float32>(const CellBackwardOf<Lstm>&, Stream);
template void launch_rows<Float32>(const CellBackwardOf<Gru>&, Stream);
template void launch_rows<Float32>(const CellBackwardOf<Leaky>&, Stream);
template void launch_rows<Float32>(const CellBackwardOf<LeakyPre>&, Stream);

}  // namespace fastrnn::cuda
