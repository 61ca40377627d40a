// SPDX-License-Identifier: Apache-2.0
#include "support/child.hpp"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "support/environment.hpp"

namespace test {
namespace {

child_result run_shell(const std::string& command) {
  child_result result;
  std::FILE* const pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> part;
  while (const auto bytes = std::fread(part.data(), 1, part.size(), pipe)) {
    result.output.append(part.data(), bytes);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

}  // namespace

// The leak checker stops a process that is traced, so it is off in children.
child_result run_child(std::string_view prefix, std::string_view name) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const char* const options = std::getenv("ASAN_OPTIONS");
  return run_shell("ASAN_OPTIONS='" + std::string(options == nullptr ? "" : options) +
                   ":detect_leaks=0' " + std::string(prefix) + " '" + self +
                   "' --no-skip=true --test-case='child: " + std::string(name) + "' 2>&1");
}

bool can_trace() {
  if (run_shell("strace -f -qq -o /dev/null -e trace=none true 2>&1").status == 0) return true;
  skip("strace is missing or may not trace here");
  return false;
}

}  // namespace test
