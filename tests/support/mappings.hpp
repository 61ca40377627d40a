// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <fstream>
#include <string>

namespace test {

/// How often segments of shared memory are mapped in this process.
[[nodiscard]] inline std::size_t segment_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:hawser") != std::string::npos) ++count;
  }
  return count;
}

}  // namespace test
