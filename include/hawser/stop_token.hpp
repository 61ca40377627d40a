// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <thread>
#include <type_traits>
#include <utility>

namespace hawser {

class stop_token;

namespace detail {

class stop_state;

/// One registration; lives where the waiting operation lives, nothing is allocated.
class stop_registration {
 public:
  stop_registration(const stop_registration&) = delete;
  stop_registration& operator=(const stop_registration&) = delete;

 protected:
  using function = void (*)(stop_registration&) noexcept;

  explicit stop_registration(function on_stop) noexcept : on_stop_(on_stop) {}
  ~stop_registration() = default;
  void attach(stop_token token) noexcept;
  void detach() noexcept;

 private:
  friend class stop_state;

  function on_stop_;
  stop_state* state_ = nullptr;
  stop_registration* previous_ = nullptr;
  stop_registration* next_ = nullptr;
};

class stop_state {
 public:
  [[nodiscard]] bool requested() const noexcept {
    return requested_.load(std::memory_order_acquire);  // pairs with the release in request()
  }
  bool request() noexcept;
  /// False: stop was already requested, nothing was registered.
  bool add(stop_registration& registration) noexcept;
  void remove(stop_registration& registration) noexcept;

 private:
  void lock() noexcept;
  void unlock() noexcept;

  std::atomic<bool> requested_{false};
  std::atomic<bool> locked_{false};
  stop_registration* first_ = nullptr;
  std::atomic<stop_registration*> running_{nullptr};
  std::thread::id runner_;
};

}  // namespace detail

/// Asks whether, and be told when, an operation should end early.
///
/// A token refers to its source and must not outlive it: in a task the source belongs to the
/// scope, timeout or runtime around it, which ends later by construction.
///
/// Threads: any.
class stop_token {
 public:
  stop_token() noexcept = default;

  [[nodiscard]] bool stop_requested() const noexcept {
    return state_ != nullptr && state_->requested();
  }
  [[nodiscard]] bool stop_possible() const noexcept { return state_ != nullptr; }

 private:
  friend class stop_source;
  friend class detail::stop_registration;

  explicit stop_token(detail::stop_state* state) noexcept : state_(state) {}

  detail::stop_state* state_ = nullptr;
};

/// Where a stop is requested. Its tokens and callbacks must end before it.
///
/// Threads: any; of several requests the first runs the callbacks.
class stop_source {
 public:
  stop_source() = default;
  stop_source(const stop_source&) = delete;
  stop_source& operator=(const stop_source&) = delete;

  [[nodiscard]] stop_token token() noexcept { return stop_token(&state_); }
  [[nodiscard]] bool stop_requested() const noexcept { return state_.requested(); }
  /// Runs every registered callback on this thread; false if stop was requested before.
  bool request_stop() noexcept { return state_.request(); }

 private:
  detail::stop_state state_;
};

/// Runs `F` once when stop is requested: at once in the constructor if it already was, otherwise
/// on the thread that requests it.
///
/// Threads: the destructor waits while another thread is inside `F`; inside `F` itself it does not.
template <class F>
class stop_callback : private detail::stop_registration {
 public:
  stop_callback(stop_token token, F action) noexcept(std::is_nothrow_move_constructible_v<F>)
      : stop_registration(&stop_callback::invoke), action_(std::move(action)) {
    attach(token);
  }
  ~stop_callback() { detach(); }

 private:
  static void invoke(stop_registration& self) noexcept {
    static_cast<stop_callback&>(self).action_();
  }

  F action_;
};

namespace detail {

/// A stop source that also stops when the token around it does.
class linked_stop_source {
 public:
  explicit linked_stop_source(stop_token outer) noexcept : forward_(outer, request(source_)) {}

  [[nodiscard]] stop_token token() noexcept { return source_.token(); }
  [[nodiscard]] bool stop_requested() const noexcept { return source_.stop_requested(); }
  bool request_stop() noexcept { return source_.request_stop(); }

 private:
  class request {
   public:
    explicit request(stop_source& target) noexcept : target_(&target) {}
    void operator()() const noexcept { target_->request_stop(); }

   private:
    stop_source* target_;
  };

  stop_source source_;
  stop_callback<request> forward_;  // ends first, and waits for a request that it is passing on
};

inline void stop_registration::attach(stop_token token) noexcept {
  if (token.state_ == nullptr) return;
  state_ = token.state_;
  if (!state_->add(*this)) {
    state_ = nullptr;
    on_stop_(*this);
  }
}

inline void stop_registration::detach() noexcept {
  if (state_ != nullptr) state_->remove(*this);
  state_ = nullptr;
}

}  // namespace detail

}  // namespace hawser
