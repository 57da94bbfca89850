// AVX-512, in servers since 2017. Compiled for all x86-64 builds, used if the CPU supports it.
#if defined(__x86_64__)
#define ISA avx512
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,fma"
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#define FUSED_FLOAT _mm512_fmadd_ps
#define FUSED_DOUBLE _mm512_fmadd_pd
#include "isa.inc"
#endif
