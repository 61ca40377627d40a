// SPDX-License-Identifier: Apache-2.0
#include "hawser/runtime.hpp"

#include <utility>

#include "exec/runtime_core.hpp"
#include "hawser/driven_runtime.hpp"

namespace hawser {

runtime::runtime(executor_config config)
    : core_(std::make_unique<detail::runtime_core>(std::move(config))) {}

runtime::runtime(std::unique_ptr<detail::runtime_core> core) noexcept : core_(std::move(core)) {}

// A forked child leaves its copy as it is: what ends a runtime are its threads.
runtime::~runtime() {
  if (core_->is_inherited()) static_cast<void>(core_.release());
}

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

driven_runtime::driven_runtime(executor_config config)
    : runtime(std::make_unique<detail::runtime_core>(std::move(config),
                                                     detail::runtime_core::driven_by_caller{})) {}

driven_runtime::~driven_runtime() = default;

bool driven_runtime::run_ready(bool readable) noexcept {
  return core().worker(0).drive(clock::duration::zero(), readable);
}

std::optional<clock::time_point> driven_runtime::next_deadline() const noexcept {
  return core().worker(0).next_deadline();
}

std::intptr_t driven_runtime::poll_handle() const noexcept {
  return core().poll_handle();
}

bool driven_runtime::has_work() const noexcept {
  return core().has_components();
}

void driven_runtime::on_wanted(void (*wanted)(void* context) noexcept, void* context) noexcept {
  core().on_wanted(wanted, context);
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

void work_began(runtime& where) noexcept {
  where.core().work_began();
}

void work_ended(runtime& where) noexcept {
  where.core().work_ended();
}

bool runs_here(const runtime& where) noexcept {
  const worker* const here = worker::current();
  return here != nullptr && &here->runtime() == &where.core();
}

}  // namespace detail

}  // namespace hawser
