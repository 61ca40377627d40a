// SPDX-License-Identifier: Apache-2.0
// Cores, threads, randomness.
#include <pthread.h>
#include <sched.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <thread>

#include "os/platform.hpp"

namespace hawser::platform {

// The affinity mask is what a container or taskset leaves us; it may name more than 1024 cores,
// which does not fit into a cpu_set_t and fails.
unsigned usable_cores() noexcept {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    return std::max(static_cast<unsigned>(CPU_COUNT(&allowed)), 1U);
  }
  return std::clamp(std::thread::hardware_concurrency(), 1U, 1024U);
}

void fill_random(std::byte* bytes, std::size_t count) noexcept {
  while (count != 0) {
    const auto got = ::getrandom(bytes, count, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      std::terminate();
    }
    bytes += got;
    count -= static_cast<std::size_t>(got);
  }
}

// Linux takes 15 characters and refuses more.
void name_thread(const char* name) noexcept {
  std::array<char, 16> shortened{};
  std::strncpy(shortened.data(), name, shortened.size() - 1);
  ::pthread_setname_np(::pthread_self(), shortened.data());
}

const char* portable_mechanism() noexcept {
  return "epoll";
}

}  // namespace hawser::platform
