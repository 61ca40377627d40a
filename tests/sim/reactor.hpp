// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "os/reactor.hpp"
#include "sim/world.hpp"

namespace sim {

class stream;
class acceptor;

/// The reactor of a simulated host: the same promises as io_uring's, the order by the dice.
class reactor final : public hawser::reactor {
 public:
  explicit reactor(world& around);
  ~reactor() override;

  std::unique_ptr<hawser::stream> open(native_handle socket,
                                       hawser::stream_events& owner) override;
  std::unique_ptr<hawser::acceptor> listen(native_handle socket,
                                           hawser::accept_events& owner) override;
  void wait(native_handle handle, hawser::readiness::kind what,
            hawser::readiness& entry) override;
  void cancel_wait(hawser::readiness& entry) noexcept override;
  /// A host that waits here lets the clock run, and nobody else.
  void turn(hawser::clock::duration limit) noexcept override;
  void wake() noexcept override { woken_ = true; }
  native_handle make_pollable() override { return 1; }
  [[nodiscard]] bool has_more() const noexcept override { return woken_; }
  [[nodiscard]] time now() const noexcept override { return world_.now(); }

  [[nodiscard]] unsigned host() const noexcept { return host_; }
  [[nodiscard]] world& around() noexcept { return world_; }
  [[nodiscard]] bool is_due();

  /// Something that has events to tell.
  class source {
   public:
    virtual ~source() = default;
    [[nodiscard]] virtual bool is_due() = 0;
    /// One event. May end this object, which remove() has been told then.
    virtual void tell() = 0;
  };
  class owned_socket;
  void add(source& added) { sources_.push_back(&added); }
  void remove(source& gone) noexcept;

 private:
  struct waiter;

  bool tell_some();

  world& world_;
  const unsigned host_;
  bool woken_ = false;
  std::vector<source*> sources_;
  std::vector<std::unique_ptr<waiter>> waiters_;
};

}  // namespace sim
