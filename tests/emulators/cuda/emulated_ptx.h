// What the instructions of ../cuda/ptx.h mean.
#pragma once

#include <cstdint>

#include "emulator.h"
#include "cuda_shim.h"

#define DYNAMIC_SHARED(name) unsigned char* const name = ::fastrnn::emulator::dynamic_shared()

namespace fastrnn::cuda::ptx {

using emulator::cluster_barrier;
using emulator::copy_commit;
using emulator::mbarrier_init;
using emulator::mbarrier_init_fence;
using emulator::mbarrier_wait;
using emulator::peer_address;
using emulator::shared_address;

inline uint32_t cluster_rank() { return emulator::now->block->rank; }
inline void named_barrier(int id, int threads) {
  if (id == 0) emulator::machine->fail("named_barrier: 0 is __syncthreads'");
  emulator::block_barrier(id, threads);
}
inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  emulator::mbarrier_arrive(barrier, bytes);
}
inline void store_async(uint32_t to, uint32_t barrier, uint2 value) {
  emulator::store_async(to, barrier, value.x, value.y);
}

template <int bytes> void copy_async(uint32_t to, const void* from, bool real) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  emulator::copy_async(to, from, bytes, real);
}
template <int pending> void copy_wait() { emulator::copy_wait(pending); }

inline uint4 load_relaxed(const void* from) {
  uint4 value;
  emulator::load_relaxed(from, &value, sizeof value);
  return value;
}
inline void store_relaxed(void* to, uint2 value) {
  const uint32_t words[] = {value.x, value.y};
  emulator::store_relaxed(to, words, 2);
}
inline void prefetch(const void*) {}

// In mma.cpp.
void load_matrices(uint32_t (&words)[4], uint32_t address);
uint32_t transpose(uint32_t word);
void multiply_bfloat16(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]);
void multiply_float16(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]);
void multiply_tf32(float (&sum)[4], const uint32_t (&w)[4], const uint32_t (&h)[2]);

// In conversions.cpp.
uint32_t pack_bfloat16(float low, float high);
uint32_t pack_float16(float low, float high);
float from_float16(uint16_t value);
float round_tf32(float value);
float tanh_approximate(float value);

inline uint32_t bits(float value) { return __float_as_uint(value); }
inline float from_bits(uint32_t word) { return __uint_as_float(word); }
template <class Word> Word forget(Word value) { return value; }

}  // namespace fastrnn::cuda::ptx
