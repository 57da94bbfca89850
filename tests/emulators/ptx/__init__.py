"""Emulate the PTX that Triton compiles for sm_90 on the CPU, and check its synchronization.

`parser` parses PTX. `arithmetic`, `access` and `matrix` implement the instructions. `machine` runs
one program (CTA), with all its threads in lockstep. `launch` interleaves the programs of a launch
at random. `memory` tracks the order of accesses.

The emulator reports:

- Data races: two accesses to the same location in shared or global memory, at least one of them a
  write, that neither a barrier nor a release-acquire pair orders.
- wgmma reads of shared memory without a fence.proxy.async after the write.
- Writes to shared memory or registers that a wgmma or cp.async in flight is using.
- Accesses outside the tensors, and misaligned accesses.
- Deadlocks.

Uninitialized memory reads as NaN.

The emulator does not model time, bank conflicts or the work of ptxas. It computes products of the
tensor cores and tanh.approx in float64 and rounds them once. Divergent threads and instructions
that no kernel uses raise an error.
"""

from .errors import Deadlock, EmulationError, Invalid, Race, Unknown
from .launch import Emulated

__all__ = ["Deadlock", "Emulated", "EmulationError", "Invalid", "Race", "Unknown"]
