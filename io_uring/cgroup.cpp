// SPDX-License-Identifier: Apache-2.0
// CPU quotas: version 2 of control groups, version 1, and both at once as systemd mounts them.
#include "cgroup.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>
#include <vector>

namespace hawser::platform {
namespace {

using quota = std::optional<double>;

quota lesser(quota one, quota other) {
  if (!one || !other) return one ? one : other;
  return std::min(*one, *other);
}

// "max", which is no number, and -1 mean that there is no limit.
quota ratio(std::istream& allowed, std::istream& period) {
  double microseconds = 0;
  double each = 0;
  if (!(allowed >> microseconds) || !(period >> each)) return {};
  if (microseconds <= 0 || each <= 0) return {};
  return microseconds / each;
}

quota quota_of_v2(const std::string& folder) {
  std::ifstream both(folder + "cpu.max");
  return ratio(both, both);
}

quota quota_of_v1(const std::string& folder) {
  std::ifstream allowed(folder + "cpu.cfs_quota_us");
  std::ifstream period(folder + "cpu.cfs_period_us");
  return ratio(allowed, period);
}

// Inside a container the path may be the host's, of which only the end of the way up exists here.
quota least_on_the_way_up(const std::string& mount, std::string path,
                          quota (*read)(const std::string&)) {
  quota least;
  for (;;) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    least = lesser(least, read(mount + path + "/"));
    if (path.empty()) return least;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

bool names_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const auto one = controllers.substr(0, controllers.find(','));
    if (one == "cpu") return true;
    controllers.remove_prefix(std::min(controllers.size(), one.size() + 1));
  }
  return false;
}

// A line is "hierarchy:controllers:path"; version 2 has no controllers.
quota quota_of_line(const std::string& mounts, const std::string& line) {
  const auto first = line.find(':');
  const auto second = first == std::string::npos ? first : line.find(':', first + 1);
  if (second == std::string::npos) return {};
  const std::string controllers = line.substr(first + 1, second - first - 1);
  std::string path = line.substr(second + 1);
  if (path.find("..") != std::string::npos) path.clear();  // a group outside of what we see
  quota least;
  if (controllers.empty()) {
    for (const char* mount : {"", "/unified"}) {
      least = lesser(least, least_on_the_way_up(mounts + mount, path, quota_of_v2));
    }
  } else if (names_cpu(controllers)) {
    for (const std::string& mount : {std::string("cpu"), controllers}) {
      least = lesser(least, least_on_the_way_up(mounts + "/" + mount, path, quota_of_v1));
    }
  }
  return least;
}

}  // namespace

std::optional<double> cgroup_quota(const std::string& root) {
  std::ifstream groups(root + "proc/self/cgroup");
  quota least;
  for (std::string line; std::getline(groups, line);) {
    least = lesser(least, quota_of_line(root + "sys/fs/cgroup", line));
  }
  return least;
}

}  // namespace hawser::platform
