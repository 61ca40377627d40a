// SPDX-License-Identifier: Apache-2.0
#include "support/config.hpp"

#include <algorithm>

#include "support/environment.hpp"

namespace test {

hawser::log_sink log_book::sink() {
  return [this](const hawser::log_event& event) {
    const std::lock_guard guard(mutex_);
    entries_.push_back({event.level, std::string(event.area), std::string(event.text)});
  };
}

std::vector<log_book::entry> log_book::entries() const {
  const std::lock_guard guard(mutex_);
  return entries_;
}

std::size_t log_book::count(hawser::log_level level) const {
  const auto all = entries();
  return static_cast<std::size_t>(std::count_if(
      all.begin(), all.end(), [level](const entry& each) { return each.level == level; }));
}

hawser::executor_config config(unsigned threads) {
  hawser::executor_config chosen;
  chosen.threads = threads;
  if (backend() == "io_uring") chosen.backend = hawser::backend::io_uring;
  if (backend() == "asio") chosen.backend = hawser::backend::asio;
  return chosen;
}

std::unique_ptr<hawser::reactor> make_reactor() {
  if (backend() == "asio") return hawser::make_portable_reactor();
  auto native = hawser::platform::make_native_reactor();
  if (native.created == nullptr) skip(native.reason);
  return std::move(native.created);
}

}  // namespace test
