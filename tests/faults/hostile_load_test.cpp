// SPDX-License-Identifier: Apache-2.0
// Peers that do little wrong, but very often: each is cut or bounded as src/wire/README.md says, an
// honest link beside them loses nothing, and memory and descriptors are as before.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/sanitizer.hpp"
#include "hawser/hawser.hpp"
#include "support/allocations.hpp"
#include "support/links.hpp"
#include "support/raw_socket.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::task;
using test::bytes;
using test::linked;
using test::raw_link;
using test::raw_socket;
using test::transport;
using test::operator+;

namespace wire = hawser::wire;

constexpr std::size_t scale = hawser::detail::sanitized ? 10 : 1;

task<void> answer(hawser::link to) {
  while (auto got = co_await to.rpc().recv()) co_await to.rpc().send(std::move(*got));
}

task<void> ask(hawser::link from, std::atomic<bool>& over, std::uint64_t& answered) {
  do {
    co_await from.rpc().send("question");
    const auto got = co_await from.rpc().recv();
    if (!got.has_value() || got->text() != "question") co_return;
    ++answered;
  } while (!over.load());
  co_await from.rpc().finish();
}

task<void> talk(hawser::scope& all, hawser::link from, hawser::link to, std::atomic<bool>& over,
                std::uint64_t& answered) {
  all.spawn(answer(to));
  all.spawn(ask(from, over, answered));
  co_return;
}

// A listener with a link whose ends ask and answer all the time.
class besieged {
 public:
  explicit besieged(transport over, const test::habits& how = {}) : ends(over, how, 100s) {
    descriptors_ = test::open_descriptors();
    memory_ = test::allocations().outstanding_bytes;
    honest_ = std::thread([this] {
      hawser::run(ends.runtime, talk, ends.client, ends.server, std::ref(over_),
                  std::ref(answered_));
    });
  }

  /// After all attackers are gone.
  void expect_unharmed(std::int64_t growth_most) {
    over_ = true;
    honest_.join();
    CHECK(answered_ > 0);
    const auto counts = test::counts_of(ends.runtime, ends.client, hawser::priority::rpc);
    CHECK(counts.accepted == answered_);
    test::wait_until(ends.runtime, [this] { return ends.runtime.stats().open_links == 2; });
    // A socket of its own for rpc, both ends.
    test::wait_until(ends.runtime, [this] { return test::open_descriptors() <= descriptors_ + 2; });
    const auto growth = test::allocations().outstanding_bytes - memory_;
    CHECK_MESSAGE(growth < growth_most, growth);
    CHECK(ends.log.count(hawser::log_level::error) == 0);
  }
  void expect_event(std::initializer_list<std::string_view> texts) {
    test::wait_until(ends.runtime, [&] { return test::has_event(ends.log, "listener", texts); });
  }

  linked ends;

 private:
  std::size_t descriptors_ = 0;
  std::int64_t memory_ = 0;
  std::atomic<bool> over_{false};
  std::uint64_t answered_ = 0;
  std::thread honest_;
};

std::size_t sockets_allowed(std::size_t wanted) {
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlim_t needed = wanted * 2 + 200;
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = std::min(needed, limit.rlim_max);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  }
  return std::min<std::size_t>(wanted, (limit.rlim_cur - 200) / 2);
}

// What the logs and pools keep of so many events.
constexpr std::int64_t some_memory = 12 << 20;

bytes repeated(const bytes& frame, std::size_t times) {
  bytes all;
  all.reserve(frame.size() * times);
  for (std::size_t i = 0; i < times; ++i) all.insert(all.end(), frame.begin(), frame.end());
  return all;
}

}  // namespace

TEST_SUITE("hostile_load") {
  TEST_CASE("five thousand that say a byte now and then are cut off, and nobody waits for them") {
    const std::size_t count = sockets_allowed(5'000 / scale);
    const auto timeout = std::chrono::milliseconds(hawser::detail::sanitized ? 3'000 : 1'500);
    test::habits how;
    how.server.backlog = 20'000;
    how.server.link.handshake_timeout = timeout;
    besieged door(transport::tcp, how);
    const bytes hello = wire::encode(test::make_hello());

    const auto start = hawser::clock::now();
    std::vector<raw_socket> slow;
    slow.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      slow.emplace_back(door.ends.listener.uri());
      slow.back().send(std::span(hello).first(1));
    }
    for (std::size_t round = 1; round < 4; ++round) {
      for (auto& each : slow) static_cast<void>(each.send(std::span(hello).subspan(round, 1)));
    }
    for (auto& each : slow) each.read_to_end();
    const auto took = hawser::clock::now() - start;
    slow.clear();

    CHECK(took >= timeout);
    std::cout << "  " << count << " were cut off "
              << std::chrono::duration_cast<std::chrono::milliseconds>(took).count()
              << " ms after the first had come, with a handshake_timeout of " << timeout.count()
              << " ms\n";
    door.expect_event({"handshake with ", "no first frame in time"});
    door.expect_unharmed(some_memory);
  }

  TEST_CASE("many that connect and hang up, or hang up inside their hello, leave nothing behind") {
    for (const auto over : {transport::tcp, transport::unix_socket}) {
      besieged door(over);
      const bytes hello = wire::encode(test::make_hello());
      for (std::size_t i = 0; i < 2'000 / scale; ++i) {
        raw_socket one(door.ends.listener.uri());
        static_cast<void>(one.send(std::span(hello).first(i % hello.size())));
      }
      door.expect_unharmed(some_memory);
    }
  }

  TEST_CASE("beyond max_links newcomers are refused, each of them") {
    test::habits how;
    how.server.max_links = 11;
    besieged door(transport::unix_socket, how);
    {
      std::vector<raw_link> inside;
      for (int i = 0; i < 10; ++i) inside.emplace_back(door.ends.listener.uri());
      for (std::size_t i = 0; i < 1'000 / scale; ++i) {
        raw_socket one(door.ends.listener.uri());
        one.send(wire::encode(test::make_hello()));
        const auto said = one.next(wire::kind::refuse);
        REQUIRE(said.has_value());
        const auto why = wire::decode_refusal(said->header);
        REQUIRE(why.has_value());
        CHECK(why->code == errc::limit_reached);
        one.read_to_end();
      }
      for (int i = 0; i < 10; ++i) {
        static_cast<void>(hawser::sync_wait(door.ends.runtime, door.ends.listener.accept()));
      }
    }
    door.expect_unharmed(some_memory);
  }

  TEST_CASE("attaches with wrong secrets are refused, however many") {
    besieged door(transport::tcp);
    {
      raw_link victim(door.ends.listener.uri());
      const auto held = hawser::sync_wait(door.ends.runtime, door.ends.listener.accept());
      wire::secret wrong = victim.welcome.attach_secret;
      for (std::size_t i = 0; i < 1'000 / scale; ++i) {
        wrong[i % wrong.size()] ^= std::byte{0x01};
        if (wrong == victim.welcome.attach_secret) continue;
        raw_socket one(door.ends.listener.uri());
        one.send(wire::encode(wire::attach{victim.hello.link_id, wrong, 1 + i % 3}));
        const auto said = one.next(wire::kind::refuse);
        REQUIRE(said.has_value());
        const auto why = wire::decode_refusal(said->header);
        REQUIRE(why.has_value());
        CHECK(why->code == errc::unauthorized);
      }
      CHECK(held.sockets() == 1);
    }
    door.expect_unharmed(some_memory);
  }

  TEST_CASE("a link id that is taken is refused, however often it is said") {
    besieged door(transport::unix_socket);
    {
      raw_link first(door.ends.listener.uri());
      const auto held = hawser::sync_wait(door.ends.runtime, door.ends.listener.accept());
      for (std::size_t i = 0; i < 1'000 / scale; ++i) {
        raw_socket again(door.ends.listener.uri());
        again.send(wire::encode(first.hello));
        // Its welcome was made already: the link ends with a reason.
        const auto said = again.next(wire::kind::close);
        CHECK(said.has_value());
        again.read_to_end();
      }
    }
    door.expect_unharmed(some_memory);
  }

  TEST_CASE("pings that come too fast end their link, and what nobody knows is skipped for ever") {
    besieged door(transport::unix_socket);
    for (std::size_t i = 0; i < 100 / scale; ++i) {
      raw_link noisy(door.ends.listener.uri());
      const auto held = hawser::sync_wait(door.ends.runtime, door.ends.listener.accept());
      bytes pings;
      for (std::uint64_t token = 1; token <= 500; ++token) {
        pings = std::move(pings) + wire::encode_token(wire::kind::ping, token);
      }
      static_cast<void>(noisy.socket.send(pings));
      const auto why = hawser::run(door.ends.runtime, [&] { return held.ended(); });
      CHECK(why.code() == errc::limit_reached);
    }
    {
      raw_link odd(door.ends.listener.uri());
      const auto held = hawser::sync_wait(door.ends.runtime, door.ends.listener.accept());
      const bytes frame = wire::encode_token(static_cast<wire::kind>(40), 0);
      const bytes many = repeated(frame, 1'000);
      for (std::size_t i = 0; i < 300 / scale; ++i) REQUIRE(odd.socket.send(many));
      odd.socket.send(test::data_frame({1}, test::bytes_of("still here")));
      const auto got = hawser::run(door.ends.runtime, [&] { return held.rpc().recv(); });
      REQUIRE(got.has_value());
      CHECK(got->text() == "still here");
    }
    door.expect_unharmed(some_memory);
  }

  // Empty messages cost 72 of their window: nobody takes them, so the flood ends with the credit.
  TEST_CASE("a flood of empty messages holds no more than its window, and cheating ends the link") {
    for (std::size_t i = 0; i < 20 / scale + 1; ++i) {
      besieged door(transport::unix_socket);
      {
        raw_link flood(door.ends.listener.uri());
        const auto held = hawser::sync_wait(door.ends.runtime, door.ends.listener.accept());
        const auto granted = flood.welcome.limits.window[wire::lane_of(1, false)];
        const bytes frame = test::data_frame({1}, {});
        static_cast<void>(flood.socket.send(repeated(frame, granted / 72 + 1)));
        const auto why = hawser::run(door.ends.runtime, [&] { return held.ended(); });
        CHECK(why.code() == errc::protocol_violation);
      }
      door.expect_unharmed(some_memory);
    }
  }
}
