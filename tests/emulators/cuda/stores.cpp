// Stores in flight. They arrive late and in any order.
#include "emulator.h"

#include <algorithm>
#include <cstring>

namespace fastrnn::emulator {

void Machine::send(const Store& store) {
  in_flight_.push_back(store);
  progressed();
  sometimes_yield(16);
}

void Machine::deliver(size_t count) {
  if (count == 0) return;
  while (count-- && !in_flight_.empty()) deliver_one(random_.below(in_flight_.size()));
  ++deliveries_;
  progressed();
  wake_pollers();
}

void Machine::deliver_one(size_t at) {
  // Stores of one thread to one address stay in order.
  if (!in_flight_[at].block) {
    const auto same = [&](const Store& other) {
      return other.to == in_flight_[at].to && other.from == in_flight_[at].from;
    };
    at = std::find_if(in_flight_.begin(), in_flight_.end(), same) - in_flight_.begin();
  }
  const Store store = in_flight_[at];
  in_flight_.erase(in_flight_.begin() + at);
  memcpy(store.to, store.words, store.bytes);
  if (store.block) {
    mbarrier_complete_tx(store);
  }
}

// A thread sees its own stores.
void Machine::deliver_own(const void* address, size_t bytes) {
  const auto* begin = static_cast<const unsigned char*>(address);
  for (size_t i = 0; i < in_flight_.size();) {
    const Store& store = in_flight_[i];
    const bool own = store.from == current && !store.block;
    if (own && store.to < begin + bytes && store.to + store.bytes > begin) {
      deliver_one(i);
    } else {
      ++i;
    }
  }
}

}  // namespace fastrnn::emulator
