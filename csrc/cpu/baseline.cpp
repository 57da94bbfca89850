// The kernels for any processor: SSE2 on x86-64, NEON on 64-bit Arm.
#include "kernels.h"

namespace fastrnn::cpu::baseline {
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 16
#include "vector.h"
#include "recurrence.h"
}  // namespace fastrnn::cpu::baseline

