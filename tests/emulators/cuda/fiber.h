// Fibers, which have their own stacks: a fiber runs until it pauses, and continues when resumed.
#pragma once

#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fastrnn::emulator {

class Fiber {
 public:
  using Function = void (*)(void*);

  // Returns an unused fiber. Stacks are reused by later launches: allocating them takes longer than
  // most launches.
  static Fiber* acquire();
  static void release(Fiber* fiber);

  // The next resume() calls function(argument), which must not throw. The stack of an unfinished
  // fiber is discarded.
  void start(Function function, void* argument);
  void resume();
  // Returns to the caller of resume().
  void pause();

 private:
  Fiber();
  static void enter(Fiber* fiber);
  static void enter_halves(unsigned low, unsigned high);
  void leave(bool for_good);
  void arrived();

  static constexpr size_t stack_bytes = 96 << 10;

  char* stack_;
  bool finished_ = true;
  Function function_ = nullptr;
  void* argument_ = nullptr;
#if defined(__x86_64__)
  void* inside_ = nullptr;  // stack pointers, of the side that is not running
  void* outside_ = nullptr;
#else
  ucontext_t inside_, outside_;
#endif
  // AddressSanitizer's data about both stacks.
  void* fake_inside_ = nullptr;
  void* fake_outside_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
};

}  // namespace fastrnn::emulator
