// The number of CPUs that this process may use.
#pragma once

#include <cstdint>
#include <string>

namespace fastrnn::cpu {

// The CPUs in the calling thread's current affinity mask, limited by the control groups' quota,
// which is read once. At least 1. Takes a system call, a third of a microsecond.
int64_t available_cpus();

// The CPU quota of the control groups that a file like /proc/self/cgroup names, mounted in `mount`.
// In whole CPUs, rounded up; 0 if there is no quota.
int64_t cgroup_cpu_limit(const std::string& groups, const std::string& mount);

}  // namespace fastrnn::cpu
