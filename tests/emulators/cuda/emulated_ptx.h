// The emulated instructions of csrc/cuda/ptx.h.
#pragma once

#include <cstdint>

#include "cuda_shim.h"
#include "emulator.h"

#define DYNAMIC_SHARED(name) unsigned char* const name = ::fastrnn::emulator::dynamic_shared()

namespace fastrnn::cuda::ptx {

using emulator::barrier_cluster;
using emulator::cp_async_commit;
using emulator::cvta_shared;
using emulator::fence_mbarrier_init;
using emulator::mapa;
using emulator::mbarrier_init;
using emulator::mbarrier_wait;

inline uint32_t cluster_ctarank() { return emulator::current->block->rank; }
inline void bar_sync(int id, int threads) {
  if (id == 0) emulator::machine->fail("bar_sync: barrier 0 is that of __syncthreads");
  emulator::block_barrier(id, threads);
}
inline void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
  emulator::mbarrier_arrive(barrier, bytes);
}
inline void st_async(uint32_t to, uint32_t barrier, uint2 value) {
  emulator::st_async(to, barrier, value.x, value.y);
}

template <int bytes> void cp_async(uint32_t to, const void* from, bool valid) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  emulator::cp_async(to, from, bytes, valid);
}
template <int pending> void cp_async_wait() { emulator::cp_async_wait(pending); }

inline uint4 ld_relaxed(const void* from) {
  uint4 value;
  emulator::ld_relaxed(from, &value, sizeof value);
  return value;
}
inline void st_relaxed(void* to, uint2 value) {
  const uint32_t words[] = {value.x, value.y};
  emulator::st_relaxed(to, words, 2);
}
inline void prefetch_l2(const void*) {}

// In mma.cpp.
void ldmatrix(uint32_t (&words)[4], uint32_t address);
uint32_t movmatrix(uint32_t word);
void mma_bf16(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]);
void mma_f16(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]);
void mma_tf32(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]);

// In conversions.cpp.
uint32_t cvt_bf16x2(float low, float high);
uint32_t cvt_f16x2(float low, float high);
float cvt_f32_f16(uint16_t value);
float cvt_tf32(float value);
float tanh_approx(float value);

inline uint32_t bits(float value) { return __float_as_uint(value); }
inline float from_bits(uint32_t word) { return __uint_as_float(word); }
template <class Word> Word opaque(Word value) { return value; }

}  // namespace fastrnn::cuda::ptx
