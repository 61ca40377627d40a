// SPDX-License-Identifier: Apache-2.0
#include "hawser/runtime.hpp"

#include "exec/runtime_core.hpp"

namespace hawser {

runtime::runtime(executor_config config)
    : core_(std::make_unique<detail::runtime_core>(std::move(config))) {}

runtime::~runtime() = default;

void runtime::request_stop() noexcept {
  core_->request_stop();
}

backend_report runtime::report() const {
  return core_->report();
}

runtime_stats runtime::stats() const {
  return core_->stats();
}

void runtime::post(detail::posted_work& item, priority urgency) {
  try {
    core_->post(item, urgency);
  } catch (...) {
    item.drop(item);
    throw;
  }
}

void runtime::adjust(const adjustment& change) {
  core_->adjust(change);
}

unsigned runtime::threads() const noexcept {
  return core_->size();
}

std::string to_string(const backend_report& report) {
  std::string text = report.mechanism + " (" + report.reason + ")";
  for (std::size_t i = 0; i < report.features.size(); ++i) {
    text += (i == 0 ? ": " : ", ") + report.features[i];
  }
  return text;
}

namespace detail {

void report_posted_failure() noexcept {
  executor::current()->report_failure(std::current_exception());
}

executor& entry_executor(runtime& where) noexcept {
  return where.core().next_entry();
}

stop_token entry_stop(runtime& where) noexcept {
  return where.core().stop();
}

}  // namespace detail

}  // namespace hawser
