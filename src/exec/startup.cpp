// SPDX-License-Identifier: Apache-2.0
#include "exec/startup.hpp"

#include <string>
#include <utility>

#include "hawser/errc.hpp"

namespace hawser::detail {

void startup::arrive(unsigned& counter) noexcept {
  ++counter;
  changed_.notify_all();
}

std::unique_ptr<reactor> startup::offer_native() {
  if (asked_ == backend::asio) return nullptr;
  auto offer = platform::make_native_reactor();
  auto own = std::move(offer.created);
  const std::lock_guard guard(mutex_);
  if (!refused_) {
    refused_ = own == nullptr;
    offer_ = std::move(offer);
  }
  return own;
}

void startup::fail() noexcept {
  const std::lock_guard guard(mutex_);
  failure_ = std::current_exception();
}

// A reactor never leaves the thread that made it: also one that is not wanted dies here.
std::unique_ptr<reactor> startup::obtain() noexcept {
  std::unique_ptr<reactor> own;
  try {
    own = offer_native();
  } catch (const std::exception&) {
    fail();  // that there is no memory now says nothing about the system's own
  }
  std::unique_lock guard(mutex_);
  arrive(offered_);
  changed_.wait(guard, [this] { return choice_ != verdict::open; });

  if (choice_ != verdict::native) own.reset();
  if (choice_ == verdict::portable) {
    try {
      own = make_portable_reactor();
    } catch (const std::exception&) {
      failure_ = std::current_exception();
    }
  }
  return own;
}

bool startup::ready() noexcept {
  std::unique_lock guard(mutex_);
  arrive(equipped_);
  changed_.wait(guard, [this] { return go_ != verdict::open; });
  return go_ != verdict::none;
}

backend_report startup::run(unsigned started) {
  std::unique_lock guard(mutex_);
  changed_.wait(guard, [&] { return offered_ == started; });
  backend_report report;
  try {
    if (failure_) std::rethrow_exception(failure_);
    if (started < workers_) {
      failure(errc::resource_exhausted, "the system refuses thread " + std::to_string(started + 1) +
                                            " of " + std::to_string(workers_))
          .raise();
    }
    report = decide();
    choice_ = report.chosen == backend::asio ? verdict::portable : verdict::native;
  } catch (const std::exception&) {
    failure_ = std::current_exception();
    choice_ = verdict::none;
  }
  changed_.notify_all();
  changed_.wait(guard, [&] { return equipped_ == started; });
  go_ = failure_ ? verdict::none : choice_;
  changed_.notify_all();
  if (failure_) std::rethrow_exception(failure_);
  return report;
}

std::unique_ptr<reactor> startup::run_here(backend_report& report) {
  auto own = offer_native();
  report = decide();
  return report.chosen == backend::asio ? make_portable_reactor() : std::move(own);
}

backend_report startup::decide() {
  if (asked_ == backend::asio) {
    return {backend::asio, platform::portable_mechanism(), "asked for in executor_config", {}};
  }
  if (!refused_) {
    auto reason = (asked_ == backend::automatic ? "chosen by itself: " : "asked for: ") +
                  std::move(offer_.reason);
    return {backend::io_uring, std::move(offer_.mechanism), std::move(reason),
            std::move(offer_.features)};
  }
  if (asked_ == backend::io_uring) failure(errc::unsupported, offer_.reason).raise();
  return {backend::asio, platform::portable_mechanism(), offer_.reason, {}};
}

}  // namespace hawser::detail
