// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the tests of a reactor begin with.

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "os/reactor.hpp"
#include "support/config.hpp"
#include "support/watchdog.hpp"

namespace test {

/// A reactor of the backend under test, if this machine offers it, and a watchdog.
class guarded_reactor {
 public:
  explicit guarded_reactor(std::chrono::seconds limit = std::chrono::seconds(30),
                           const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : guard_(limit, file, line), reactor_(make_reactor()) {}

  /// False after test::skip(): return then.
  explicit operator bool() const noexcept { return reactor_ != nullptr; }
  hawser::reactor& operator*() const noexcept { return *reactor_; }
  hawser::reactor* operator->() const noexcept { return reactor_.get(); }

 private:
  watchdog guard_;
  std::unique_ptr<hawser::reactor> reactor_;
};

template <class Condition>
void turn_until(hawser::reactor& reactor, Condition condition) {
  while (!condition()) reactor.turn(std::chrono::seconds(30));
}

inline hawser::platform::io_slice slice_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// A socket that listens at a tcp port of its own.
[[nodiscard]] hawser::platform::native_handle listen_anywhere();
/// Two ends of a tcp connection.
[[nodiscard]] std::pair<hawser::platform::native_handle, hawser::platform::native_handle>
tcp_pair();

/// A wait that says how it has ended.
struct waiting : hawser::readiness {
  waiting()
      : readiness([](readiness& self, std::error_code why) noexcept {
          static_cast<waiting&>(self).outcome = why;
        }) {}
  std::optional<std::error_code> outcome;
};

}  // namespace test
