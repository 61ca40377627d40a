// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

#include "hawser/runtime.hpp"
#include "os/platform.hpp"
#include "os/reactor.hpp"

namespace hawser::detail {

/// How N workers agree on a backend: each creates its reactor on its own thread, because a reactor
/// belongs to the thread that made it, but either all run the platform's own or none does.
///
///   workers: offer native ------> wait -> (all native | all portable | none) ------> wait -> go
///   starter: collect all, decide ----^     collect all again: did each get one? ---------^
///
/// Threads: obtain() and ready() by each worker once; run() by the starter.
class startup {
 public:
  startup(backend asked, unsigned workers) : asked_(asked), workers_(workers) {}

  /// A worker's part, on its thread. Null: there is none to be had, ready() will say false.
  [[nodiscard]] std::unique_ptr<reactor> obtain() noexcept;
  /// The worker can be posted to. False: the runtime is not coming up.
  [[nodiscard]] bool ready() noexcept;

  /// The starter's part, after `started` threads were started: all of them, or fewer if the system
  /// has no more, which lets those that did start go home.
  ///
  /// Errors: throws errc::unsupported, errc::resource_exhausted or std::bad_alloc; ready() says
  /// false to every worker.
  [[nodiscard]] backend_report run(unsigned started);
  /// All of it for one worker, on the calling thread.
  ///
  /// Errors: as run(); std::bad_alloc.
  [[nodiscard]] std::unique_ptr<reactor> run_here(backend_report& report);
  /// run() took the portable reactor because the system refuses its own.
  [[nodiscard]] bool fell_back() const noexcept { return refused_; }

 private:
  enum class verdict : std::uint8_t { open, native, portable, none };

  void arrive(unsigned& counter) noexcept;
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] std::unique_ptr<reactor> offer_native();
  void fail() noexcept;
  [[nodiscard]] backend_report decide();

  const backend asked_;
  const unsigned workers_;
  std::mutex mutex_;  // what follows
  std::condition_variable changed_;
  platform::native_reactor offer_;  // what the last one to be heard of was told
  bool refused_ = false;            // offer_ is a refusal
  unsigned offered_ = 0;
  unsigned equipped_ = 0;
  verdict choice_ = verdict::open;
  verdict go_ = verdict::open;
  std::exception_ptr failure_;
};

}  // namespace hawser::detail
