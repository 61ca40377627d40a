// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <new>
#include <utility>

#include "calls.hpp"
#include "native.hpp"
#include "reactor.hpp"

namespace hawser {
namespace {

/// A listening socket on io_uring: one submission accepts until it fails.
class uring_acceptor final : public acceptor, private uring_reporter, private completion {
 public:
  uring_acceptor(uring_reactor& home, platform::native_handle socket, accept_events& owner) noexcept
      : uring_reporter(home),
        completion(&uring_acceptor::forward),
        socket_(socket),
        owner_(owner) {}
  ~uring_acceptor() override { platform::close(socket_); }

  void start() noexcept override {
    if (closing_ || active_) return;
    calls::submit_accept(home_.ring().submission(*this), platform::descriptor(socket_));
    active_ = true;
  }

  void close() noexcept override {
    if (std::exchange(closing_, true)) return;
    active_ ? home_.ring().cancel(*this) : report_later();
  }

 private:
  static void forward(completion& self, int result, unsigned flags) noexcept {
    static_cast<uring_acceptor&>(self).on_accepted(result, flags);
  }

  void on_accepted(int result, unsigned flags) noexcept {
    active_ = (flags & IORING_CQE_F_MORE) != 0;
    if (closing_) {
      if (result >= 0) platform::close(result);
      if (!active_) report_later();
      return;
    }
    if (result >= 0) {
      owner_.on_accept(result);
      if (!active_) closing_ ? report_later() : start();
    } else if (platform::is_transient_accept_error(-result) || result == -EINTR ||
               result == -EAGAIN) {
      if (!active_) start();
    } else {
      owner_.on_accept_failed(platform::system_error_code(-result));
    }
  }

  // close() is called once; it has queued this itself if nothing was under way.
  void report() noexcept override {
    platform::close(std::exchange(socket_, platform::no_handle));
    home_.count().system_calls += 2;
    owner_.on_closed();
  }

  platform::native_handle socket_;
  accept_events& owner_;
  bool active_ = false;
  bool closing_ = false;
};

}  // namespace

std::unique_ptr<acceptor> uring_reactor::listen(platform::native_handle socket,
                                                accept_events& owner) {
  try {
    return std::make_unique<uring_acceptor>(*this, socket, owner);
  } catch (const std::bad_alloc&) {
    platform::close(socket);
    throw;
  }
}

}  // namespace hawser
