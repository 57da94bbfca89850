// Stacks that can be switched between: a fiber runs until it pauses, and goes on when resumed.
#pragma once

#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fastrnn::emulator {

class Fiber {
 public:
  using Function = void (*)(void*);

  // One that is not in use. Stacks are kept for the next launch: to make them takes longer than
  // most launches do.
  static Fiber* take();
  static void give_back(Fiber* fiber);

  // The next resume() calls function(argument). The function must not throw. What was on the stack
  // of a fiber that has not finished is forgotten.
  void start(Function function, void* argument);
  void resume();
  // Back to where this fiber was resumed.
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
  void* inside_ = nullptr;   // stack pointers of the side that sleeps
  void* outside_ = nullptr;
#else
  ucontext_t inside_, outside_;
#endif
  // What AddressSanitizer wants to know of both stacks.
  void* fake_inside_ = nullptr;
  void* fake_outside_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
};

}  // namespace fastrnn::emulator
