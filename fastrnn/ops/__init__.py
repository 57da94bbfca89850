"""The grouped recurrence as a torch operator, and the kernels that implement it."""
