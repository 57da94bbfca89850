"""Runs the PTX that Triton's compiler makes for sm_90, on the CPU, and watches it.

`parser` reads PTX; `arithmetic`, `access` and `matrix` say what its instructions do; `machine` runs
one program (CTA), all its threads in lockstep; `launch` runs all of a launch's in random turns;
`memory` keeps what must be ordered.

It reports: two accesses to the same place of shared or global memory, one of them a write, that
neither a barrier nor a release and an acquire put in order; what wgmma reads and no
fence.proxy.async made known to it; a write to what wgmma or cp.async is using, in shared memory or
registers; what lies outside of the tensors; misaligned accesses; programs that wait for each other
for ever. What nobody wrote is NaN.

It does not know: time, bank conflicts, the rounding inside the matrix unit and of tanh.approx (it
rounds the float64 truth once), what ptxas makes of the PTX, threads that part ways, and every
instruction that the kernels do without, which raises Unknown.
"""

from .errors import Deadlock, EmulationError, Invalid, Race, Unknown
from .launch import Emulated

__all__ = ["Deadlock", "Emulated", "EmulationError", "Invalid", "Race", "Unknown"]
