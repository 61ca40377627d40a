// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "exec/worker.hpp"
#include "hawser/link.hpp"
#include "link/exchange.hpp"
#include "link/registry.hpp"
#include "link/uri.hpp"
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
  void start(platform::native_handle socket);
  void close() noexcept;
  /// A connection from inside the process.
  void offer(platform::native_handle socket);
  /// A link is ready; owns a handle.
  void deliver(link ready);
  [[nodiscard]] worker& home() const noexcept { return home_; }
  [[nodiscard]] const listen_options& options() const noexcept { return options_; }
  [[nodiscard]] const std::shared_ptr<link_registry>& registry() const noexcept {
    return registry_;
  }
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
  struct retry_timer : timer {
    explicit retry_timer(listener_core& by) noexcept
        : timer(&listener_core::on_retry), owner(by) {}
    listener_core& owner;
  };

  void begin(platform::native_handle socket) noexcept;
  void leave_address() noexcept;
  void close_here() noexcept;
  void greeted(greeting_place who, const exchange::outcome& why, platform::native_handle socket,
               exchange::first_words came);
  void admit(const greeting& who, platform::native_handle socket, const wire::hello& hello,
             std::vector<std::byte> rest);
  void admit_attach(platform::native_handle socket, const wire::attach& wanted,
                    std::vector<std::byte> rest);
  void refuse(platform::native_handle socket, errc code, const std::string& text,
              const std::string& from);
  void note(log_level level, const std::string& text) noexcept;
  void wake_accepters() noexcept;
  static void on_retry(timer& entry) noexcept;

  worker& home_;
  endpoint at_;
  listen_options options_;
  std::shared_ptr<link_registry> registry_;
  std::unique_ptr<acceptor> acceptor_;
  std::shared_ptr<listener_core> self_;  // until closed: the worker needs us
  std::list<greeting> greetings_;
  retry_timer retry_;
  bool exhausted_ = false;  // said so already
  bool shut_ = false;
  accept_op* first_waiting_ = nullptr;

  std::mutex mutex_;  // what follows
  std::deque<link> ready_;
  bool closed_ = false;
  bool has_left_ = false;  // the address
};

}  // namespace hawser::detail
