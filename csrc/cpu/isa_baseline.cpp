// Any CPU: SSE2 on x86-64, NEON on 64-bit Arm.
#define ISA baseline
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 16
#if defined(__aarch64__)
#define FUSED_FLOAT(a, b, c) vfmaq_f32(c, a, b)
#define FUSED_DOUBLE(a, b, c) vfmaq_f64(c, a, b)
#endif
#include "isa.inc"
