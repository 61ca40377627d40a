// SPDX-License-Identifier: Apache-2.0
// Links and streams that would share memory where the system does not give what that takes: they
// say what was missing, links that can go on over their socket do, others notice nothing, and once
// there is enough again it is taken.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "core/sanitizer.hpp"
#include "hawser/hawser.hpp"
#include "hawser/shm_stream.hpp"
#include "os/platform.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"
#include "support/folder.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::task;
using test::linked;
using test::transport;

/// Less of something for this process, for a while.
class lowered_limit {
 public:
  lowered_limit(int which, std::size_t most) : which_(which) {
    REQUIRE(::getrlimit(resource(), &before_) == 0);
    rlimit low = before_;
    low.rlim_cur = most;
    REQUIRE(::setrlimit(resource(), &low) == 0);
  }
  ~lowered_limit() { ::setrlimit(resource(), &before_); }
  lowered_limit(const lowered_limit&) = delete;
  lowered_limit& operator=(const lowered_limit&) = delete;

 private:
  [[nodiscard]] __rlimit_resource resource() const noexcept {
    return static_cast<__rlimit_resource>(which_);
  }

  int which_;
  rlimit before_{};
};

/// All descriptors that this process may have, but for some.
class hoard {
 public:
  explicit hoard(std::size_t left) : limit_(RLIMIT_NOFILE, test::open_descriptors() + 50) {
    for (int each = ::dup(0); each >= 0; each = ::dup(0)) all_.push_back(each);
    REQUIRE(all_.size() >= left);
    for (; left != 0; --left) give_one();
  }
  ~hoard() {
    while (!all_.empty()) give_one();
  }
  hoard(const hoard&) = delete;
  hoard& operator=(const hoard&) = delete;

 private:
  void give_one() {
    ::close(all_.back());
    all_.pop_back();
  }

  lowered_limit limit_;
  std::vector<int> all_;
};

std::size_t mapped_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * hawser::platform::page_bytes();
}

/// Talks until the link shares memory, or has said why not.
task<hawser::link_road> until_decided(hawser::link from, hawser::link to) {
  for (;;) {
    for (int i = 0; i < 100; ++i) co_await test::ask(from, to);
    hawser::link_road road = from.road();
    if (road.shared_memory || !road.why_not.empty()) co_return road;
  }
}

// What is not answered is not waited for longer.
constexpr hawser::link_options brisk{.handshake_timeout = 300ms, .close_timeout = 300ms};

/// A link over a socket that would share memory, and another beside it.
struct two_links {
  explicit two_links(const hawser::link_options& options)
      : guard(60s),
        runtime(test::config(1, log)),
        listener(hawser::listen(runtime, "unix:" + (place / "s"), {.link = options})) {
    for (auto& both : {std::tie(client, server), std::tie(other_client, other_server)}) {
      auto& [connected, accepted] = both;
      hawser::sync_wait(
          runtime, test::join(listener, listener.uri(), options, connected, accepted));
      hawser::run(runtime, test::ask, connected, accepted);
    }
  }

  hawser::link_road decide() { return hawser::run(runtime, until_decided, client, server); }
  /// Once there is enough again.
  void expect_unharmed() {
    hawser::run(runtime, test::ask, client, server);
    const auto road = hawser::run(runtime, until_decided, other_client, other_server);
    CHECK(road.shared_memory);
    CHECK(log.count(hawser::log_level::error) == 0);
  }

  test::watchdog guard;
  test::log_book log;
  test::folder place;
  hawser::runtime runtime;
  hawser::listener listener;
  hawser::link client;
  hawser::link server;
  hawser::link other_client;
  hawser::link other_server;
};

std::string unique_stream() {
  static unsigned count = 0;
  return "limits." + std::to_string(::getpid()) + '.' + std::to_string(++count);
}

/// Both ends of a stream come to be, or it is said why not.
hawser::result<void> make_stream() {
  const std::string name = unique_stream();
  return test::outcome_of([&] {
    const hawser::shm_stream_options options{.ring_bytes = 16 << 20};
    const auto one = hawser::shm_stream::create(name, options);
    const auto two = hawser::shm_stream::open(name, options);
  });
}

bool says(const std::string& text, std::string_view what) {
  return text.find(what) != std::string::npos;
}

}  // namespace

TEST_SUITE("limits") {
  TEST_CASE("whichever descriptor is missing, the link says so and stays on its socket") {
    // Clang's undefined-behaviour sanitizer needs descriptors when it first sees a type.
    if (hawser::detail::sanitized) return;
    const std::size_t descriptors = test::open_descriptors();
    // In the order in which they are needed: two memories and a connection by the client; the
    // connection, the memories and what watches the connection by the server, which hangs up then.
    constexpr std::array<std::string_view, 7> missing{
        "memfd_create",  "memfd_create",  "Too many", "in time",
        "no descriptor", "no descriptor", "hung up"};
    for (std::size_t left = 0; left <= missing.size(); ++left) {
      CAPTURE(left);
      two_links links(brisk);
      {
        const hoard all(left);
        const auto road = links.decide();
        CHECK(road.shared_memory == (left == missing.size()));
        if (left < missing.size()) {
          INFO(road.why_not);
          const bool is_taken = left == 3 && says(road.why_not, missing[4]);  // by some rings
          CHECK((says(road.why_not, missing[left]) || is_taken));
        }
      }
      links.expect_unharmed();
    }
    CHECK(test::segment_mappings() == 0);
    CHECK(test::open_descriptors() == descriptors);
  }

  TEST_CASE("an address that requires shared memory is not reached without descriptors") {
    if (hawser::detail::sanitized) return;
    for (std::size_t left = 0; left <= 9; ++left) {
      CAPTURE(left);
      linked ends(transport::shared_memory, {.client = brisk, .server = {.link = brisk}});
      const std::size_t mapped = test::segment_mappings();
      const std::size_t descriptors = test::open_descriptors();
      {
        const hoard all(left);
        const auto made = test::outcome_of(
            [&] { hawser::sync_wait(ends.runtime, hawser::connect(ends.listener.uri(), brisk)); });
        CHECK(made.has_value() == (left == 9));
        if (!made.has_value()) {
          INFO(made.error().text());
          const auto code = made.error().code();
          const bool named = code == errc::unsupported || code == errc::unreachable ||
                             code == errc::timed_out || code == std::errc::too_many_files_open;
          CHECK(named);
          CHECK_FALSE(made.error().text().empty());
        }
        hawser::run(ends.runtime, test::ask, ends.client, ends.server);
      }
      test::wait_until(ends.runtime, [&] { return test::segment_mappings() == mapped; });
      test::wait_until(ends.runtime, [&] { return test::open_descriptors() == descriptors; });
      hawser::link client;
      hawser::link server;
      ends.connect(client, server);
    }
  }

  // Goal: each mapping of a side may fail, and what it had mapped before goes. Method: room for all
  // of them is taken away step by step.
  TEST_CASE("whichever mapping fails, the link says so and stays on its socket") {
    if (hawser::detail::sanitized) return test::skip("sanitizers need all addresses there are");
    constexpr std::size_t step = 16 << 20;
    hawser::link_options large = brisk;
    large.ring_bytes = {4096, 4 * step / 8, 4 * step / 8, step};  // 4 steps, both ways
    large.shared_bytes = 16 * step;
    large.arena_bytes = 2 * step;
    unsigned failed = 0;
    for (std::size_t room = 1; room <= 20; ++room) {
      CAPTURE(room);
      two_links links(large);
      bool shares = false;
      {
        const lowered_limit less(RLIMIT_AS, mapped_bytes() + room * step);
        const auto road = links.decide();
        shares = road.shared_memory;
        INFO(road.why_not);
        if (!shares) CHECK(says(road.why_not, "mmap: Cannot allocate memory"));
      }
      failed += shares ? 0 : 1;
      if (room == 20) CHECK(shares);
      links.expect_unharmed();
    }
    CHECK(failed >= 14);  // of 16 steps that both sides need
    CHECK(test::segment_mappings() == 0);
  }

  // The system would end the process by a signal.
  TEST_CASE("a process that may write small files only has links, and lives") {
    two_links links(brisk);
    {
      const lowered_limit small(RLIMIT_FSIZE, 1 << 20);
      const auto road = links.decide();
      CHECK_FALSE(road.shared_memory);
      CHECK(says(road.why_not, "File too large"));
      const auto made = make_stream();
      REQUIRE_FALSE(made.has_value());
      CHECK(made.error().code() == std::errc::file_too_large);
    }
    links.expect_unharmed();
    CHECK(make_stream().has_value());
  }

  TEST_CASE("a stream that lacks descriptors or addresses says so, and leaves nothing") {
    if (hawser::detail::sanitized) return;
    CHECK(make_stream().has_value());
    const std::size_t descriptors = test::open_descriptors();
    bool made_one = false;
    for (std::size_t left = 0; !made_one; ++left) {
      CAPTURE(left);
      hawser::result<void> made;
      {
        const hoard all(left);
        made = make_stream();
      }
      made_one = made.has_value();
      if (!made_one) {
        INFO(made.error().text());
        CHECK(made.error().code() == std::errc::too_many_files_open);
        CHECK(left < 8);
      }
      REQUIRE(test::open_descriptors() == descriptors);
    }
    for (const std::size_t room : {std::size_t{16} << 20, std::size_t{48} << 20}) {
      hawser::result<void> made;
      {
        const lowered_limit less(RLIMIT_AS, mapped_bytes() + room);
        made = make_stream();
      }
      REQUIRE_FALSE(made.has_value());
      CHECK(made.error().code() == std::errc::not_enough_memory);
      CHECK(says(made.error().text(), "mmap"));
      CHECK(test::open_descriptors() == descriptors);
    }
    CHECK(test::segment_mappings() == 0);
  }
}
