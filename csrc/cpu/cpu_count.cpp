#include "cpu_count.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <strings.h>
#endif

namespace fastrnn::cpu {
namespace {

// If OpenMP binds its threads, each may run on a different CPU, and the caller's affinity mask does
// not describe the others.
bool threads_are_bound() {
#if defined(__linux__)
  for (const char* name : {"GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES"})
    if (std::getenv(name) != nullptr) return true;
  const char* bind = std::getenv("OMP_PROC_BIND");
  return bind != nullptr && strcasecmp(bind, "false") != 0;
#else
  return false;
#endif
}

int64_t affinity_cpus() {
#if defined(__linux__)
  static const bool bound = threads_are_bound();
  cpu_set_t set;
  if (!bound && sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return std::thread::
      hardware_concurrency();  // also on machines with more CPUs than a cpu_set_t holds
}

// Quota over period, rounded up; 0 for no quota, which is -1, "max" or a missing file.
int64_t quota_cpus(std::istream& quota, std::istream& period) {
  double most = 0, of = 0;
  if (!(quota >> most) || !(period >> of) || most <= 0 || of <= 0) return 0;
  return static_cast<int64_t>((most + of - 1) / of);
}

int64_t cgroup_v2_limit(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  return quota_cpus(file, file);
}

int64_t cgroup_v1_limit(const std::string& folder) {
  std::ifstream quota(folder + "/cpu.cfs_quota_us"), period(folder + "/cpu.cfs_period_us");
  return quota_cpus(quota, period);
}

}  // namespace

int64_t cgroup_cpu_limit(const std::string& groups, const std::string& mount) {
  int64_t least = 0;
  const auto allow = [&](int64_t count) {
    if (count > 0 && (least == 0 || count < least)) least = count;
  };
  std::ifstream file(groups);
  for (std::string line; std::getline(file, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    // Enclosing groups limit a group too. In a container they may be invisible, and the container's
    // own group may be mounted as the root.
    std::string path = line.substr(second + 1);
    for (bool more = true; more; path.resize(std::min(path.size(), path.rfind('/')))) {
      more = !path.empty();
      if (controllers.empty()) {
        allow(cgroup_v2_limit(mount + path));
      } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
        allow(cgroup_v1_limit(mount + "/cpu" + path));
        allow(cgroup_v1_limit(mount + "/" + controllers + path));
      }
    }
  }
  return least;
}

int64_t available_cpus() {
  static const int64_t quota = cgroup_cpu_limit("/proc/self/cgroup", "/sys/fs/cgroup");
  const int64_t count = affinity_cpus();
  return std::max<int64_t>(1, quota > 0 ? std::min(count, quota) : count);
}

}  // namespace fastrnn::cpu
