// SPDX-License-Identifier: Apache-2.0
#include <asio.hpp>

#include "os/asio/poll_handle.hpp"

namespace hawser::platform {
namespace {

using asio::detail::epoll_reactor;

int descriptor_of(epoll_reactor& from);

// Asio does not tell its descriptor. What an explicit instantiation names is not checked for
// access, and a release that calls it otherwise does not compile.
template <int epoll_reactor::*Member>
struct opener {
  friend int descriptor_of(epoll_reactor& from) { return from.*Member; }
};
template struct opener<&epoll_reactor::epoll_fd_>;

}  // namespace

native_handle poll_handle_of(asio::io_context& io) {
  return descriptor_of(asio::use_service<epoll_reactor>(io));
}

}  // namespace hawser::platform
