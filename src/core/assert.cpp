// SPDX-License-Identifier: Apache-2.0
#include "core/assert.hpp"

#include <cstdio>
#include <exception>

namespace hawser::detail {

void assertion_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "hawser: %s:%d: assertion failed: %s\n", file, line, expression);
  std::fflush(stderr);
  std::terminate();
}

}  // namespace hawser::detail
