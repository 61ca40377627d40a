// SPDX-License-Identifier: Apache-2.0
#include "support/process.hpp"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

namespace test {
namespace {

constexpr const char* variable = "HAWSER_TEST_ARGUMENT";

}  // namespace

process::process(std::string_view name, const std::string& argument) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::array<std::string, 3> words{self, "--no-skip=true",
                                   "--test-case=child: " + std::string(name)};
  std::vector<char*> arguments;
  for (auto& each : words) arguments.push_back(each.data());
  arguments.push_back(nullptr);
  std::string addition = std::string(variable) + '=' + argument;
  std::vector<char*> environment{addition.data()};
  for (char** each = ::environ; *each != nullptr; ++each) environment.push_back(*each);
  environment.push_back(nullptr);
  const int failed = ::posix_spawn(&id_, self.c_str(), nullptr, nullptr, arguments.data(),
                                   environment.data());
  if (failed != 0) throw std::system_error(failed, std::system_category(), "posix_spawn");
}

process::~process() {
  signal(SIGKILL);
  join();
}

void process::signal(int number) noexcept {
  if (id_ > 0) ::kill(id_, number);
}

bool process::join() noexcept {
  if (id_ <= 0) return false;
  int status = 0;
  ::waitpid(std::exchange(id_, -1), &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string process_argument() {
  const char* const text = std::getenv(variable);
  return text == nullptr ? std::string() : std::string(text);
}

}  // namespace test
