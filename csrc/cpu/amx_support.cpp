#include "amx_support.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace fastrnn::cpu {

#if defined(__x86_64__) && defined(__linux__)
namespace {

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero if the CPU has no such leaf.
Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool has_instructions() {
  constexpr uint32_t amx_bf16 = 1 << 22, amx_tile = 1 << 24;
  const uint32_t features = cpuid(7, 0).edx;
  return (features & amx_bf16) && (features & amx_tile);
}

// Some virtual machines report the instructions but no palette, and every use is an invalid opcode.
bool has_palette() {
  constexpr uint32_t leaf = 0x1d, tiles = 8, rows = 16, row_bytes = 64;
  if (cpuid(leaf, 0).eax < 1) return false;
  const Registers palette = cpuid(leaf, 1);
  return palette.ebx >> 16 >= tiles && (palette.ebx & 0xffff) >= row_bytes &&
         (palette.ecx & 0xffff) >= rows;
}

// Whether the system saves the tiles and their configuration when it switches threads.
bool system_saves_tiles() {
  constexpr uint32_t osxsave = 1 << 27, tile_states = 3 << 17;
  if (!(cpuid(1, 0).ecx & osxsave)) return false;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & tile_states) == tile_states;
}

// Linux saves tiles only for a process that has asked for them.
bool request_permission() {
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
}

}  // namespace

bool amx_is_supported() {
  static const bool supported =
      has_instructions() && has_palette() && system_saves_tiles() && request_permission();
  return supported;
}
#else
bool amx_is_supported() { return false; }
#endif

}  // namespace fastrnn::cpu
