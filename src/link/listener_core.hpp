// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/ring.hpp"
#include "exec/worker.hpp"
#include "hawser/link.hpp"
#include "link/exchange.hpp"
#include "link/registry.hpp"
#include "link/socket_owner.hpp"
#include "link/uri.hpp"
#include "os/birthmark.hpp"
#include "os/reactor.hpp"

namespace hawser::detail {

/// A listener on its home worker: accepts sockets, reads their first frame, and makes links on
/// other workers or attaches sockets to links that exist.
///
/// Every socket passes a *greeting* first: one frame, bounded in size and time. What has
/// come behind it goes on to the link.
///
/// Threads: home's, except where a member says otherwise.
class listener_core final : public component,
                            public accept_events,
                            public std::enable_shared_from_this<listener_core> {
 public:
  listener_core(worker& home, endpoint at, listen_options options);

  // ---- any thread
  /// Starts to accept. `socket` is no_handle for inproc.
  void start(socket_owner socket) noexcept;
  void close() noexcept;
  /// A connection from inside the process.
  ///
  /// Errors: throws std::bad_alloc.
  void offer(socket_owner socket);
  /// A link is ready; owns a handle. Without memory to keep it the link closes.
  void deliver(link ready) noexcept;
  [[nodiscard]] worker& home() const noexcept { return home_; }
  [[nodiscard]] bool over_unix() const noexcept { return at_.scheme != scheme::tcp; }
  std::string uri;  // constant once listen() has returned

  // ---- home
  class accept_op;
  void on_accept(platform::native_handle socket) noexcept override;
  void on_accept_failed(std::error_code why) noexcept override;
  void on_closed() noexcept override;
  void on_shutdown() noexcept override { close_here(); }
  void on_abandon() noexcept override { close_here(); }

 private:
  struct greeting {
    std::unique_ptr<exchange> words;
    std::optional<platform::peer_identity> peer;
    std::string from;
  };
  using greeting_place = std::list<greeting>::iterator;
  /// A hello that was let in, on its way to the home of its link.
  struct newcomer {
    socket_owner socket;
    wire::hello hello;
    std::string from;
    std::vector<std::byte> rest;
    std::uint32_t user;
    bool has_user;
  };
  struct attaching;
  struct sharing;
  struct resuming;
  struct own_work : work {
    own_work(listener_core& by, function action) noexcept : work(action), owner(by) {}
    listener_core& owner;
  };
  struct retry_timer : timer {
    explicit retry_timer(listener_core& by) noexcept
        : timer(&listener_core::on_retry), owner(by) {}
    listener_core& owner;
  };

  void begin() noexcept;
  static void run_begin(work& item) noexcept;
  static void run_close(work& item) noexcept;
  static void run_deliver(work& item) noexcept;
  void leave_address() noexcept;
  void close_here() noexcept;
  void greeted(greeting_place who, const exchange::outcome& why, socket_owner socket,
               exchange::first_words came) noexcept;
  void admit(const greeting& who, socket_owner socket, const wire::hello& hello,
             std::vector<std::byte> rest);
  void begin_link(worker& home, newcomer& from) noexcept;
  void readmit(newcomer from);
  void resume(link_core& core, newcomer& from) noexcept;
  void admit_attach(socket_owner socket, const wire::attach& wanted, std::vector<std::byte> rest);
  void attach(link_core& core, attaching& wanted) noexcept;
  void admit_share(socket_owner socket, const wire::share& offered, handle_owners handles);
  void share(link_core& core, sharing& offered) noexcept;
  [[nodiscard]] bool shares_memory() const noexcept {
    return at_.scheme == scheme::unix_socket && options_.link.share_memory;
  }
  void refuse(socket_owner socket, errc code, std::string_view text,
              std::string_view from) noexcept;
  template <class F>
  void note(log_level level, F&& make_text) noexcept;
  void wake_accepters() noexcept;
  static void on_retry(timer& entry) noexcept;

  worker& home_;
  endpoint at_;
  listen_options options_;
  std::shared_ptr<link_registry> registry_;
  std::unique_ptr<acceptor> acceptor_;
  std::shared_ptr<listener_core> self_;  // until closed: the worker needs us
  own_work begin_work_;
  own_work close_work_;
  own_work deliver_work_;
  std::shared_ptr<listener_core> closing_self_;  // while close_work_ is queued
  platform::native_handle listening_ = platform::no_handle;  // until the acceptor has it
  std::list<greeting> greetings_;
  retry_timer retry_;
  bool exhausted_ = false;  // said so already
  bool shut_ = false;
  accept_op* first_waiting_ = nullptr;

  birthmark birthmark_;
  std::mutex mutex_;  // what follows
  ring<link> ready_;
  bool closed_ = false;
  bool close_posted_ = false;
  std::shared_ptr<listener_core> delivering_self_;  // while deliver_work_ is queued
  bool has_left_ = false;  // the address
};

}  // namespace hawser::detail
