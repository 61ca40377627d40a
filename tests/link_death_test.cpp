// SPDX-License-Identifier: Apache-2.0
// What is left when the process at the other end dies or stops.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "hawser/hawser.hpp"
#include "support/links.hpp"
#include "support/process.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::task;
using test::linked;
using test::transport;

constexpr std::size_t piece = 300'000;
constexpr std::array over_sockets{transport::tcp, transport::unix_socket};

task<void> send_forever(hawser::link to) {
  for (std::uint64_t i = 0;; ++i) co_await to.bulk().send(test::make_pattern(i, piece));
}

task<void> receive_forever(hawser::link from) {
  while (auto message = co_await from.bulk().recv()) {
  }
}

task<void> ping(hawser::link from, hawser::link to) {
  co_await from.rpc().send("ping");
  const auto got = co_await to.rpc().recv();
  CHECK(got.has_value());
}

// The link of a child that connects to the listener of `ends`.
hawser::link accept(linked& ends) {
  return hawser::sync_wait(ends.runtime, ends.listener.accept());
}

// The child is the peer: it connects where it is told to.
void live(task<void> (*life)(hawser::link)) {
  hawser::runtime runtime(test::config());
  try {
    hawser::run(runtime, [life]() -> task<void> {
      auto link = co_await hawser::connect(test::process_argument());
      co_await life(std::move(link));
    });
  } catch (const std::system_error&) {
    // its parent has gone
  }
}

}  // namespace

TEST_SUITE("link_death") {
  TEST_CASE("the death of a sender is noticed at once, and what had arrived is there") {
    for (const auto over : over_sockets) {
      linked ends(over);
      const auto before = test::open_descriptors();
      {
        test::process child("sends forever", ends.listener.uri());
        auto link = accept(ends);
        hawser::run(ends.runtime, [&]() -> task<void> {
          std::uint64_t count = 0;
          std::error_code code;
          std::string text;
          while (true) {
            auto message = co_await hawser::as_result(link.bulk().recv());
            if (!message.has_value()) {
              code = message.error().code();
              text = message.error().text();
              break;
            }
            CHECK(message->has_value());
            if (!message->has_value()) break;
            if (count % 16 == 0) CHECK(test::is_pattern(**message, count, piece));
            if (++count == 20) child.signal(SIGKILL);
          }
          CHECK(count >= 20);
          CHECK(code == errc::link_lost);
          const bool told = text.find("gone") != std::string::npos ||
                            text.find("broke") != std::string::npos;
          CHECK(told);
          CHECK(link.bulk().counts().received == count);
          const auto why = co_await link.ended();
          CHECK(why.code() == errc::link_lost);
        });
      }
      hawser::run(ends.runtime, ping, ends.client, ends.server);
      ends.connect(ends.client, ends.server);  // the old ones close
      hawser::run(ends.runtime, ping, ends.client, ends.server);
      ends.client = {};
      ends.server = {};
      test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 0; });
      CHECK(test::open_descriptors() < before);
    }
  }

  TEST_CASE("the death of a receiver ends its sender, who knows what may be lost") {
    for (const auto over : over_sockets) {
      linked ends(over, {.threads = 2});
      {
        test::process child("receives forever", ends.listener.uri());
        auto link = accept(ends);
        hawser::run(ends.runtime, [&]() -> task<void> {
          std::uint64_t count = 0;
          std::error_code code;
          while (true) {
            auto sent = co_await hawser::as_result(
                link.bulk().send(test::make_pattern(count, piece)));
            if (!sent.has_value()) {
              code = sent.error().code();
              break;
            }
            if (++count == 60) child.signal(SIGKILL);
          }
          CHECK(code == errc::link_lost);
          const auto counts = link.bulk().counts();
          CHECK(counts.accepted == count);
          CHECK(counts.sent <= counts.accepted);
          CHECK(counts.consumed <= counts.sent);
          CHECK(counts.consumed > 0);
        });
      }
      hawser::run(ends.runtime, ping, ends.client, ends.server);
      test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 2; });
    }
  }

  TEST_CASE("a peer that has stopped is found by keep-alive") {
    for (const auto over : over_sockets) {
      linked ends(over, {.server = {.link = {.keepalive = 50ms, .keepalive_timeout = 150ms}}});
      test::process child("receives forever", ends.listener.uri());
      auto link = accept(ends);
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await link.rpc().send("before");
        co_await link.rpc().flush();
      });
      // It lives, and says so.
      hawser::run(ends.runtime, [&]() -> task<void> {
        auto silence = co_await hawser::as_result(hawser::timeout(400ms, link.rpc().recv()));
        CHECK(silence.error().code() == errc::timed_out);
      });
      const auto start = hawser::clock::now();
      child.signal(SIGSTOP);
      const auto why = hawser::run(ends.runtime, [&] { return link.ended(); });
      CHECK(hawser::clock::now() - start >= 100ms);
      CHECK(why.code() == errc::link_lost);
      CHECK(why.text().find("fell silent") != std::string::npos);
      hawser::run(ends.runtime, ping, ends.client, ends.server);
    }
  }

  TEST_CASE("nothing of many dead peers is left behind") {
    linked ends(transport::unix_socket, {.threads = 2});
    const auto before = test::open_descriptors();
    for (int round = 0; round < 10; ++round) {
      test::process child("sends forever", ends.listener.uri());
      auto link = accept(ends);
      hawser::run(ends.runtime, [&]() -> task<void> {
        for (int i = 0; i < round; ++i) {
          const auto message = co_await link.bulk().recv();
          CHECK(message.has_value());
        }
      });
      child.signal(SIGKILL);
      const auto why = hawser::run(ends.runtime, [&] { return link.ended(); });
      CHECK(why.code() == errc::link_lost);
    }
    test::wait_until(ends.runtime, [&] { return test::open_descriptors() == before; });
  }

  // What follows runs in a process of its own, see above.
  TEST_CASE("child: sends forever" * doctest::skip()) { live(send_forever); }
  TEST_CASE("child: receives forever" * doctest::skip()) { live(receive_forever); }
}
