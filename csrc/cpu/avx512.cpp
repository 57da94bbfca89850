// The kernels for AVX-512, as in servers since 2017. Compiled everywhere on x86-64, run where the processor has it.
#if defined(__x86_64__)
#include "kernels.h"  // and with it the standard headers, which must not see the target below

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif

namespace fastrnn::cpu::avx512 {
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#define FUSED_FLOAT _mm512_fmadd_ps
#define FUSED_DOUBLE _mm512_fmadd_pd
#include "vector.h"
#include "product.h"
#include "recurrence.h"
#include "linear.h"
extern const Kernels kernels = {&run_any<ForwardPass, Forward>, &run_any<BackwardPass, Backward>,
                                &linear};
}  // namespace fastrnn::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
