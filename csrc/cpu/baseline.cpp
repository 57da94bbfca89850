// The kernels for any processor: SSE2 on x86-64, NEON on 64-bit Arm.
#include "kernels.h"

namespace fastrnn::cpu::baseline {
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 16
#if defined(__aarch64__)
#define FUSED_FLOAT(a, b, c) vfmaq_f32(c, a, b)
#define FUSED_DOUBLE(a, b, c) vfmaq_f64(c, a, b)
#endif
#include "vector.h"
#include "product.h"
#include "recurrence.h"
#include "linear.h"
extern const Kernels kernels = {&run_any<ForwardPass, Forward>, &run_any<BackwardPass, Backward>,
                                &linear};
}  // namespace fastrnn::cpu::baseline

