// How many processors this process may use at once.
#pragma once

#include <cstdint>
#include <string>

namespace fastrnn::cpu {

// Those that the caller's thread may run on now, which can change, and no more than the control
// groups allow, which is read once. At least 1. Costs a system call, a third of a microsecond.
int64_t processors();

// What the control groups named in a file like /proc/self/cgroup allow, mounted in `mount`: their
// quota of processor time in whole processors, rounded up; 0 where there is none.
int64_t control_group_processors(const std::string& groups, const std::string& mount);

}  // namespace fastrnn::cpu
