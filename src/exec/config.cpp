// SPDX-License-Identifier: Apache-2.0
// What a configuration may be, and the presets.
#include "exec/config.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hawser/errc.hpp"
#include "os/platform.hpp"

namespace hawser::detail {
namespace {

std::string list_of(const std::vector<unsigned>& numbers) {
  std::string text;
  for (const unsigned each : numbers) text += (text.empty() ? "" : ",") + std::to_string(each);
  return text;
}

// The two below are about more than one field, or about this machine.
void check_caps(const executor_config& config) {
  for (const unsigned cap : config.max_workers) {
    if (cap <= config.threads) continue;
    bad_value("max_workers", std::to_string(cap),
              "0.." + std::to_string(config.threads) + ", the number of threads; 0 means all");
  }
}

void check_cores(const executor_config& config) {
  if (config.pin != pinning::list) {
    if (config.cpus.empty()) return;
    bad_value("cpus", list_of(config.cpus), "empty unless pin is pinning::list");
  }
  const auto usable = platform::usable_core_list();
  if (config.cpus.empty()) bad_value("cpus", "", "cores of " + list_of(usable));
  for (const unsigned core : config.cpus) {
    if (std::binary_search(usable.begin(), usable.end(), core)) continue;
    bad_value("cpus", std::to_string(core),
              "of the cores this process may use: " + list_of(usable));
  }
}

// Zeros become defaults; then every field has to be in range.
void complete(executor_config& config) {
  for (const config_field& field : config_fields()) {
    field.put_default(config);
    if (!field.valid(config)) bad_value(field.name, field.write(config), field.accepted());
  }
  check_caps(config);
}

}  // namespace

void bad_value(std::string_view field, std::string_view value, std::string_view accepted) {
  std::string text = "executor_config::" + std::string(field) + " is ";
  text += value.empty() ? "empty" : value;
  text += ", must be ";
  text += accepted;
  failure(errc::bad_config, text).raise();
}

executor_config checked(executor_config config) {
  complete(config);
  check_cores(config);
  return config;
}

// The cores are not looked at again: a worker that is pinned sees only its own.
executor_config adjusted(executor_config config, const runtime::adjustment& change) {
  if (change.spin) config.spin = *change.spin;
  if (change.weights) config.weights = *change.weights;
  if (change.max_workers) config.max_workers = *change.max_workers;
  complete(config);
  return config;
}

unsigned threads_for(unsigned cores, std::optional<double> quota) noexcept {
  double threads = cores;
  if (quota) threads = std::min(threads, std::ceil(*quota));
  return static_cast<unsigned>(std::clamp(threads, 1.0, double{most_threads}));
}

unsigned default_threads() {
  return threads_for(platform::usable_cores(), platform::cpu_quota());
}

}  // namespace hawser::detail

namespace hawser {

// On a virtual machine a wake-up across cores takes up to 60 us: whoever looks for about twice that
// before it sleeps wastes at most a small multiple of what sleeping would have cost.
executor_config executor_config::low_latency() {
  executor_config config;
  config.pin = pinning::cores;
  config.spin = {spin_policy::mode::fixed, std::chrono::microseconds(100)};
  config.poll_interval = std::chrono::microseconds(50);
  return config;
}

executor_config executor_config::throughput() {
  executor_config config;
  config.poll_interval = std::chrono::milliseconds(1);
  return config;
}

executor_config executor_config::shared_host() {
  executor_config config;
  config.threads = std::max(detail::default_threads() / 2, 1U);
  config.spin.how = spin_policy::mode::off;
  config.max_workers[static_cast<std::size_t>(priority::bulk)] = 1;
  return config;
}

}  // namespace hawser
