// The CUDA C++ keywords, types and functions that the kernels use, for g++.
#pragma once

#include <math.h>

#include <cstdint>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif

#define threadIdx (::fastrnn::emulator::current->index)
#define blockIdx (::fastrnn::emulator::current->block->index)
#define blockDim (::fastrnn::emulator::machine->block_shape())
#define gridDim (::fastrnn::emulator::machine->grid_shape())

// Aligned as on the device, so that UndefinedBehaviorSanitizer reports misaligned accesses.
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

inline uint32_t __float_as_uint(float value) { return __builtin_bit_cast(uint32_t, value); }
inline float __uint_as_float(uint32_t word) { return __builtin_bit_cast(float, word); }

inline void __syncthreads() { ::fastrnn::emulator::block_barrier(0, 0); }
inline void __syncwarp(uint32_t mask = ~0u) { ::fastrnn::emulator::warp_barrier(mask); }

template <class T> T __shfl_sync(uint32_t mask, T value, int lane, int width = 32) {
  return ::fastrnn::emulator::shuffle(
      "__shfl_sync", mask, value, [=](int own) { return (own & -width) | (lane & (width - 1)); });
}
template <class T> T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  return ::fastrnn::emulator::shuffle("__shfl_xor_sync", mask, value, [=](int own) {
    const int lane = own ^ bits;
    return (lane & -width) <= (own & -width) ? lane : own;
  });
}
template <class T> T __shfl_down_sync(uint32_t mask, T value, int by, int width = 32) {
  return ::fastrnn::emulator::shuffle("__shfl_down_sync", mask, value, [=](int own) {
    return (own & (width - 1)) + by < width ? own + by : own;
  });
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
  return ::fastrnn::emulator::ballot(mask, vote);
}
inline bool __any_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
inline bool __all_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) == ~0u; }
