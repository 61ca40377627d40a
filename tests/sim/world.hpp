// SPDX-License-Identifier: Apache-2.0
#pragma once

// A world in memory: hosts that run real runtimes, one network, one clock, and one seed that
// decides everything. It is the platform that the library is linked with here: see platform.cpp.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "hawser/driven_runtime.hpp"
#include "os/platform.hpp"
#include "support/simulated_wire.hpp"

namespace sim {

using hawser::platform::io_slice;
using hawser::platform::native_handle;
using time = hawser::clock::time_point;
using std::chrono::microseconds;

class reactor;

/// What the network does to bytes.
struct habits {
  microseconds latency_min{20};
  microseconds latency_max{200};
  std::size_t flow_bytes = 64 << 10;  ///< under way in one direction; then writes come up short
  std::size_t read_max = 64 << 10;    ///< most bytes that one read delivers
  unsigned short_write_one_in = 8;    ///< a write takes only a part of what would fit
  unsigned late_event_one_in = 4;     ///< a socket that is ready is passed over in a turn
};

/// A handle of the system on its way from one socket to its peer.
class carried_handle {
 public:
  /// A copy of `original`.
  explicit carried_handle(native_handle original);
  carried_handle(const carried_handle&) = delete;
  carried_handle& operator=(const carried_handle&) = delete;
  ~carried_handle();
  [[nodiscard]] native_handle give() noexcept {
    return std::exchange(handle_, hawser::platform::no_handle);
  }

 private:
  native_handle handle_;
};

/// Bytes on their way from one socket to its peer.
struct flow {
  struct segment {
    time due;
    std::vector<std::byte> bytes;
    std::size_t taken = 0;
    std::vector<std::shared_ptr<carried_handle>> handles{};  // with the first byte
  };
  std::deque<segment> under_way;
  std::size_t bytes = 0;
  bool finished = false;  // nothing follows what is under way
  bool broken = false;    // what was under way is lost, and the reader is told
};

struct socket {
  unsigned host = 0;
  native_handle peer = hawser::platform::no_handle;  // of the same connection, open or not
  bool connected = false;
  std::optional<time> connects;  // when connecting ends
  std::error_code connect_error;
  flow in;
  std::string remote;  // address, for people
  bool over_unix = false;
};

struct listening {
  unsigned host = 0;
  std::string address;
  struct newcomer {
    time due;
    native_handle socket;
  };
  std::deque<newcomer> waiting;
  std::size_t backlog = 0;
};

/// The world of one seed.
///
/// Shape: one at a time in a process; the platform's functions act on it.
class world {
 public:
  world(std::uint64_t seed, const habits& network);
  ~world();
  world(const world&) = delete;
  world& operator=(const world&) = delete;

  [[nodiscard]] static world& current() noexcept;
  [[nodiscard]] time now() const noexcept { return now_; }
  [[nodiscard]] test::dice& dice() noexcept { return dice_; }
  [[nodiscard]] const habits& network() const noexcept { return habits_; }

  // ---- hosts ------------------------------------------------------------------------------
  /// Starts a runtime on a host of its own; hosts are numbered from 0.
  unsigned boot(hawser::executor_config config);
  [[nodiscard]] hawser::driven_runtime& runtime(unsigned host) noexcept;
  [[nodiscard]] bool is_up(unsigned host) const noexcept;
  /// The runtime ends in order, as that of a program that leaves main().
  void shut_down(unsigned host);
  /// Its sockets die first: with a reset that its peers see, or without a word.
  void crash(unsigned host, bool silently);

  // ---- faults -----------------------------------------------------------------------------
  /// Nothing passes between the two hosts until heal().
  void part(unsigned one, unsigned other);
  void heal_all();
  /// Breaks a connection that is open, if there is any.
  void reset_some_connection();
  /// The host has no descriptor left for a new socket, until relieve_all().
  void exhaust(unsigned host);
  void relieve_all();
  [[nodiscard]] bool is_exhausted(unsigned host) const noexcept;

  // ---- time -------------------------------------------------------------------------------
  /// Lets one host run, or moves the clock if all wait. False: nothing will ever happen.
  bool step();
  /// Until `done` holds, or the clock has reached `limit`, or stands still although somebody always
  /// runs. False: it does not hold.
  bool run_until(const std::function<bool()>& done, time limit);
  /// Calls `what` at that instant, outside of all hosts.
  void at(time when, std::function<void()> what);

  /// Descriptors open now.
  [[nodiscard]] std::size_t open_sockets() const noexcept {
    return sockets_.size() + listeners_.size();
  }
  /// What happened, a line each; kept only if asked for.
  void keep_trace() noexcept { tracing_ = true; }
  void note(const std::string& text);
  /// What every host and socket waits for.
  void note_all();
  [[nodiscard]] const std::vector<std::string>& trace() const noexcept { return trace_; }

  // ---- for the platform and the reactors ------------------------------------------------------
  void attach(reactor& added) noexcept;
  void detach(reactor& gone) noexcept;
  [[nodiscard]] unsigned running_host() const noexcept { return running_; }
  /// Moves the clock to the next event, at most to `limit`.
  bool advance(time limit);
  /// A turn of a host that ends takes time, so that one that never rests has to end, too.
  void pass_turn() noexcept {
    if (ending_) now_ += std::chrono::milliseconds(1);
  }

  [[nodiscard]] native_handle listen(const std::string& address, std::size_t backlog);
  [[nodiscard]] native_handle connect(const std::string& address, std::error_code& error);
  [[nodiscard]] std::pair<native_handle, native_handle> pair();
  [[nodiscard]] native_handle accept(native_handle listener);
  [[nodiscard]] bool is_listening(const std::string& address) const noexcept;
  void close(native_handle handle) noexcept;
  void finish_writing(native_handle handle) noexcept;
  [[nodiscard]] socket* find(native_handle handle) noexcept;
  [[nodiscard]] listening* find_listener(native_handle handle) noexcept;
  /// How many bytes can be read now; zero with `at_end` or `error`, or nothing yet.
  [[nodiscard]] std::size_t readable(native_handle handle, bool& at_end, std::error_code& error);
  std::size_t read(native_handle handle, std::span<std::byte> into, std::error_code& error);
  std::size_t write(native_handle handle, std::span<const io_slice> from, std::error_code& error);
  /// As read() and write(), with handles.
  std::size_t read_with_handles(native_handle handle, std::span<std::byte> into,
                                hawser::platform::handle_list& came, std::error_code& error);
  std::size_t write_with_handles(native_handle handle, const io_slice& from,
                                 std::span<const native_handle> handles, std::error_code& error);
  [[nodiscard]] bool is_readable(native_handle handle);
  [[nodiscard]] bool is_writable(native_handle handle) noexcept;

 private:
  struct node {
    std::unique_ptr<hawser::driven_runtime> runtime;
    reactor* wakes = nullptr;
    bool more = true;
  };

  [[nodiscard]] bool parted(unsigned one, unsigned other) const noexcept;
  [[nodiscard]] std::optional<time> next_event() const;
  [[nodiscard]] bool is_ready(const node& which) const;
  void break_connection(native_handle one, bool both);
  native_handle add_socket(socket made);
  [[nodiscard]] microseconds latency();
  void end(unsigned host);

  time now_;
  test::dice dice_;
  habits habits_;
  std::vector<node> hosts_;
  unsigned running_ = 0;
  bool ending_ = false;
  native_handle next_handle_ = 1 << 30;  // no descriptor of the system has such a number
  std::map<native_handle, socket> sockets_;
  std::map<native_handle, listening> listeners_;
  std::vector<std::pair<unsigned, unsigned>> parts_;
  std::vector<unsigned> exhausted_;
  std::multimap<time, std::function<void()>> events_;
  std::vector<std::shared_ptr<carried_handle>> arrived_handles_;  // with what read() took
  bool tracing_ = false;
  std::vector<std::string> trace_;
};

}  // namespace sim
