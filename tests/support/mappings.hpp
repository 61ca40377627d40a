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

/// Of them, if they have so many bytes: how much of that takes memory here. What two of them share
/// counts twice.
[[nodiscard]] inline std::size_t resident_of_segments(std::size_t bytes_each) {
  std::ifstream maps("/proc/self/smaps");
  std::size_t sum = 0;
  std::size_t bytes = 0;
  bool is_segment = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("-") < line.find(" ")) {
      is_segment = line.find("memfd:hawser") != std::string::npos;
    } else if (line.starts_with("Size:")) {
      bytes = std::stoul(line.substr(5)) << 10;
    } else if (line.starts_with("Rss:") && is_segment && bytes == bytes_each) {
      sum += std::stoul(line.substr(4)) << 10;
    }
  }
  return sum;
}

}  // namespace test
