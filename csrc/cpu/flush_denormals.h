// Arithmetic of one thread in which denormal numbers are zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastrnn::cpu {

// Many processors compute with denormal numbers in microcode, up to 50 times as slowly. During the
// lifetime of an object, its thread takes denormal operands as zero, and returns zero instead of a
// denormal result. The destructor restores the thread's mode.
//
// A thread that is created inherits the mode of its creator. So an object guards a task, and not a
// parallel loop: the threads of a pool that the loop creates would keep the mode.
class FlushDenormals {
 public:
  FlushDenormals() : before_(control()) { set_control(before_ | mode); }
  ~FlushDenormals() { set_control((control() & ~mode) | (before_ & mode)); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  using Control = unsigned;
  static constexpr Control mode = 0x8000 | 0x0040;  // flush to zero, denormals are zero
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static constexpr Control mode = 1 << 24;  // FZ, both for operands and for results
  static Control control() {
    Control value;
    asm volatile("mrs %0, fpcr" : "=r"(value) : : "memory");
    return value;
  }
  static void set_control(Control value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#else
  using Control = unsigned;
  static constexpr Control mode = 0;
  static Control control() { return 0; }
  static void set_control(Control) {}
#endif

  const Control before_;
};

}  // namespace fastrnn::cpu
