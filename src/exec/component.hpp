// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace hawser::detail {

class worker;

/// Something of the runtime that has to end in order before its worker may: a link, a listener.
///
/// Threads: registered, removed and called on its home worker only.
class component {
 public:
  component(const component&) = delete;
  component& operator=(const component&) = delete;

  /// The runtime ends: close in order, then remove_component(). Called once, from the worker's
  /// loop, also for a component that is added later.
  virtual void on_shutdown() noexcept = 0;
  /// `shutdown_deadline` has passed: close hard. The worker turns a little longer, so that
  /// on_closed of sockets still arrives; what is not removed then is left behind.
  virtual void on_abandon() noexcept = 0;

 protected:
  component() = default;
  ~component() = default;

 private:
  friend class worker;

  component* previous_ = nullptr;
  component* next_ = nullptr;
  unsigned told_ = 0;  // 1: on_shutdown, 2: on_abandon
};

}  // namespace hawser::detail
