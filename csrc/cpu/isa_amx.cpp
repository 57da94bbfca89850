// Intel AMX, in Xeons since 2023: matrix products of bfloat16. Compiled for all x86-64 builds, used
// if the CPU and the system support it. Such a CPU has AVX-512, whose kernels run the other dtypes.
//
// Its conversion of float to bfloat16 is not used: it takes denormal numbers as 0, and
// BFloat16::narrow does not.
#ifdef FASTRNN_EMULATE_TILES
#include "emulated_tiles.h"
#endif
#include "isa.h"

#ifdef FASTRNN_TILES
#define ISA amx
#define TILES
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#ifndef FASTRNN_EMULATE_TILES
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,fma,amx-tile,amx-bf16"
#define FUSED_FLOAT _mm512_fmadd_ps
#define FUSED_DOUBLE _mm512_fmadd_pd
#define KERNELS_WITHOUT_TILES avx512::kernels
#endif
#include "isa.inc"
#endif
