// SPDX-License-Identifier: Apache-2.0
#include "support/environment.hpp"

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <string>

namespace test {
namespace {

std::atomic<std::uint64_t> current_seed{0};
std::atomic<int> skips{0};

}  // namespace

std::uint64_t seed() noexcept {
  return current_seed.load(std::memory_order_relaxed);
}

void set_seed(std::uint64_t value) noexcept {
  current_seed.store(value, std::memory_order_relaxed);
}

std::string_view backend() noexcept {
  const char* const name = std::getenv("HAWSER_TEST_BACKEND");
  return name == nullptr ? std::string_view() : std::string_view(name);
}

std::uint64_t asked(const char* variable, std::uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::stoull(text);
}

void skip(std::string_view reason) {
  skips.fetch_add(1, std::memory_order_relaxed);
  std::cout << "[hawser_tests] SKIPPED: " << reason << std::endl;
}

int skip_count() noexcept {
  return skips.load(std::memory_order_relaxed);
}

}  // namespace test
