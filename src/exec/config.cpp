// SPDX-License-Identifier: Apache-2.0
#include "exec/config.hpp"

#include <cstdint>
#include <string>

#include "hawser/errc.hpp"
#include "os/platform.hpp"

namespace hawser::detail {
namespace {

void require(const char* field, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return;
  failure(errc::bad_config, std::string("executor_config::") + field + " is " +
                                std::to_string(value) + ", must be " + std::to_string(least) +
                                ".." + std::to_string(most))
      .raise();
}

template <class Number>
void put_default(Number& field, Number value) {
  if (field == Number{}) field = value;
}

}  // namespace

executor_config checked(executor_config config) {
  const executor_config defaults;
  put_default(config.threads, platform::usable_cores());
  put_default(config.blocking_threads, defaults.blocking_threads);
  put_default(config.blocking_queue, defaults.blocking_queue);
  put_default(config.shutdown_deadline, defaults.shutdown_deadline);

  require("threads", config.threads, 1, 1024);
  require("backend", static_cast<int>(config.backend), 0, static_cast<int>(backend::asio));
  require("blocking_threads", config.blocking_threads, 1, 1024);
  require("blocking_queue", config.blocking_queue, 1, 1 << 20);
  require("shutdown_deadline", config.shutdown_deadline.count(), 1, 86'400'000);
  return config;
}

}  // namespace hawser::detail
