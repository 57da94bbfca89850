// The kernels for AVX2 with FMA. Compiled everywhere on x86-64, run where the processor has it.
#if defined(__x86_64__)
#include "kernels.h"  // and with it the standard headers, which must not see the target below

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace fastrnn::cpu::avx2 {
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#define FUSED_FLOAT _mm256_fmadd_ps
#define FUSED_DOUBLE _mm256_fmadd_pd
#include "vector.h"
#include "product.h"
#include "recurrence.h"
#include "linear.h"
extern const Kernels kernels = {&run_any<ForwardPass, Forward>, &run_any<BackwardPass, Backward>,
                                &linear};
}  // namespace fastrnn::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
