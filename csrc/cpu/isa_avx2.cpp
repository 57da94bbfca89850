// AVX2 with FMA. Compiled for all x86-64 builds, used if the CPU supports it.
#if defined(__x86_64__)
#define ISA avx2
#define TARGET "avx2,fma"
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#define FUSED_FLOAT _mm256_fmadd_ps
#define FUSED_DOUBLE _mm256_fmadd_pd
#include "isa.inc"
#endif
