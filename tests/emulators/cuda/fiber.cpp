#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves the callee-saved registers on the current stack and switches to another. swapcontext does
// the same with two additional system calls.
extern "C" void fastrnn_switch_stack(void** running, void* other);
asm(R"(
.text
.globl fastrnn_switch_stack
.type fastrnn_switch_stack, @function
fastrnn_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastrnn_switch_stack, .-fastrnn_switch_stack
)");
// The first frame of a new fiber, whose argument is in a register that the switch restores.
extern "C" void fastrnn_first_frame();
asm(R"(
.text
.globl fastrnn_first_frame
.type fastrnn_first_frame, @function
fastrnn_first_frame:
  movq %rbx, %rdi
  jmp *%r12
.size fastrnn_first_frame, .-fastrnn_first_frame
)");
#endif

namespace fastrnn::emulator {
namespace {

std::vector<Fiber*>& unused() {
  static auto* fibers = new std::vector<Fiber*>;  // never destroyed
  return *fibers;
}

}  // namespace

Fiber* Fiber::acquire() {
  if (unused().empty()) return new Fiber;
  Fiber* fiber = unused().back();
  unused().pop_back();
  return fiber;
}

void Fiber::release(Fiber* fiber) { unused().push_back(fiber); }

Fiber::Fiber() {
  // A guard page below detects stack overflows.
  const size_t page = sysconf(_SC_PAGESIZE);
  void* memory = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, page, PROT_NONE);
  stack_ = static_cast<char*>(memory) + page;
}

void Fiber::start(Function function, void* argument) {
#if defined(__SANITIZE_ADDRESS__)
  // Frames that did not return are still poisoned.
  if (!finished_) __asan_unpoison_memory_region(stack_, stack_bytes);
#endif
  function_ = function;
  argument_ = argument;
  finished_ = false;
  fake_inside_ = nullptr;
#if defined(__x86_64__)
  // The layout that fastrnn_switch_stack expects: six registers, then the return address; above it
  // a return address that ends backtraces.
  auto* top = reinterpret_cast<void**>(stack_ + stack_bytes) - 2;
  top[1] = nullptr;
  top[0] = reinterpret_cast<void*>(&fastrnn_first_frame);
  void* const registers[6] = {nullptr, nullptr, nullptr, reinterpret_cast<void*>(&Fiber::enter),
                              this,    nullptr};  // r15 r14 r13 r12 rbx rbp
  for (int i = 0; i < 6; ++i) top[i - 6] = registers[i];
  inside_ = top - 6;
#else
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = stack_;
  inside_.uc_stack.ss_size = stack_bytes;
  inside_.uc_link = nullptr;
  const auto address = reinterpret_cast<uintptr_t>(this);  // makecontext passes ints only
  makecontext(&inside_, reinterpret_cast<void (*)()>(&Fiber::enter_halves), 2,
              static_cast<unsigned>(address), static_cast<unsigned>(address >> 16 >> 16));
#endif
}

void Fiber::resume() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_outside_, stack_, stack_bytes);
#endif
#if defined(__x86_64__)
  fastrnn_switch_stack(&outside_, inside_);
#else
  swapcontext(&outside_, &inside_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_outside_, nullptr, nullptr);
#endif
}

void Fiber::pause() {
  leave(false);
  arrived();
}

void Fiber::leave(bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_inside_, outside_stack_,
                                 outside_bytes_);
#else
  static_cast<void>(for_good);
#endif
#if defined(__x86_64__)
  fastrnn_switch_stack(&inside_, outside_);
#else
  swapcontext(&inside_, &outside_);
#endif
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_inside_, &outside_stack_, &outside_bytes_);
#endif
}

void Fiber::enter(Fiber* fiber) {
  fiber->arrived();
  fiber->function_(fiber->argument_);
  fiber->finished_ = true;
  fiber->leave(true);
}

void Fiber::enter_halves(unsigned low, unsigned high) {
  enter(reinterpret_cast<Fiber*>(uintptr_t{low} | uintptr_t{high} << 16 << 16));
}

}  // namespace fastrnn::emulator
