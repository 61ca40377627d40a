// SPDX-License-Identifier: Apache-2.0
// How channels and links end, in order and late.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/links.hpp"
#include "support/raw_socket.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::channel;
using hawser::errc;
using hawser::task;
using test::kinds;
using test::linked;
using test::transport;

task<std::size_t> count_to_end(channel& from) {
  std::size_t count = 0;
  while (auto message = co_await from.recv()) {
    CHECK(test::is_pattern(*message, count, message->size()));
    ++count;
  }
  co_return count;
}

task<void> expect_count(channel& from, std::size_t expected) {
  const std::size_t count = co_await count_to_end(from);
  CHECK(count == expected);
}

task<void> send_patterns(channel& to, std::size_t count, std::size_t bytes) {
  for (std::size_t i = 0; i < count; ++i) co_await to.send(test::make_pattern(i, bytes));
}

task<void> expect_end(hawser::link link, errc code) {
  const auto why = co_await link.ended();
  CHECK(why.code() == code);
}

// Sends until it fails, and says how many were accepted and why no more.
struct outcome {
  std::size_t accepted = 0;
  std::error_code code;
};

task<void> send_until_failure(channel& to, std::size_t bytes, outcome& end) {
  while (true) {
    auto sent = co_await hawser::as_result(to.send(test::make_pattern(end.accepted, bytes)));
    if (!sent.has_value()) {
      end.code = sent.error().code();
      co_return;
    }
    ++end.accepted;
  }
}

hawser::link accept_one(linked& ends) {
  return hawser::sync_wait(ends.runtime, ends.listener.accept());
}

}  // namespace

TEST_SUITE("link_close") {
  TEST_CASE("a finished channel ends after its last message, the other direction goes on") {
    for (const auto over : test::transports) {
      for (const auto kind : kinds) {
        linked ends(over, {.threads = 2});
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          auto& here = ends.client.at(kind);
          auto& there = ends.server.at(kind);
          all.spawn(expect_count(there, 50));
          co_await send_patterns(here, 50, 1000);
          co_await here.finish();
          CHECK(here.counts().sent == 50);
          auto late = co_await hawser::as_result(here.send("late"));
          CHECK(late.error().code() == errc::closed);
          CHECK_THROWS_AS(static_cast<void>(here.try_send({})), std::system_error);
          co_await here.finish();
          co_await there.send("still");
          const auto still = co_await here.recv();
          CHECK(still->text() == "still");
          auto& other = kind == hawser::priority::rpc ? ends.client.bulk() : ends.client.rpc();
          co_await other.send("other");
        });
      }
    }
  }

  TEST_CASE("a finished channel sends what its senders began, and refuses those who wait") {
    linked ends(transport::tcp);
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      auto& bulk = ends.client.bulk();
      std::optional<hawser::result<void>> waiting;
      all.spawn(send_patterns(bulk, 1, 16 << 20));
      all.spawn([](channel& to, std::optional<hawser::result<void>>& end) -> task<void> {
        end = co_await hawser::as_result(to.send("behind"));
      }(bulk, waiting));
      co_await hawser::this_task::yield();
      all.spawn(expect_count(ends.server.bulk(), 1));
      co_await bulk.finish();
      CHECK(waiting.has_value());
      CHECK(waiting->error().code() == errc::closed);
      CHECK(bulk.counts().accepted == 1);
    });
  }

  TEST_CASE("close says on both sides that all arrived") {
    for (const auto over : test::transports) {
      for (const unsigned threads : {1U, 2U}) {
        CAPTURE(test::name_of(over));
        linked ends(over, {.threads = threads});
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          for (const auto kind : kinds) {
            co_await send_patterns(ends.client.at(kind), 20, 1000);
            co_await send_patterns(ends.server.at(kind), 10, 2000);
          }
          all.spawn(expect_end(ends.server, errc::closed));
          co_await ends.client.close();
          co_await expect_end(ends.client, errc::closed);
        });
        for (const auto kind : kinds) {
          CHECK(ends.client.at(kind).counts().accepted == 20);
          CHECK(ends.client.at(kind).counts().sent == 20);
          CHECK(ends.client.at(kind).counts().received == 10);
          CHECK(ends.server.at(kind).counts().received == 20);
          CHECK(ends.server.at(kind).counts().taken == 0);
        }
        // What arrived can still be taken.
        hawser::run(ends.runtime, [&]() -> task<void> {
          for (const auto kind : kinds) {
            co_await expect_count(ends.server.at(kind), 20);
            co_await expect_count(ends.client.at(kind), 10);
            auto late = co_await hawser::as_result(ends.server.at(kind).send("late"));
            CHECK(late.error().code() == errc::closed);
          }
          co_await ends.client.close();
          co_await ends.server.close();
        });
        test::wait_until(ends.runtime, [&] { return ends.server.sockets() == 0; });
      }
    }
  }

  // The server may have moved a channel to a socket that the client has not taken over yet: what it
  // has accepted comes there.
  TEST_CASE("closing while channels get sockets of their own loses nothing") {
    for (const auto over : test::transports) {
      CAPTURE(test::name_of(over));
      linked ends(over, {.threads = 2});
      for (int round = 0; round < 60; ++round) {
        hawser::link client, server;
        ends.connect(client, server);
        hawser::run(ends.runtime, [&]() -> task<void> {
          for (const auto kind : kinds) {
            co_await send_patterns(client.at(kind), 2, 500);
            co_await send_patterns(server.at(kind), 3, 500);
          }
          for (int i = 0; i < round; ++i) co_await hawser::this_task::yield();
          const hawser::link& first = round % 2 == 0 ? client : server;
          const hawser::link& second = round % 2 == 0 ? server : client;
          co_await first.close();
          co_await expect_end(second, errc::closed);
          for (const auto kind : kinds) {
            co_await expect_count(server.at(kind), 2);
            co_await expect_count(client.at(kind), 3);
          }
        });
      }
    }
  }

  TEST_CASE("both sides may close at once") {
    for (const unsigned threads : {1U, 2U}) {
      for (int round = 0; round < 20; ++round) {
        linked ends(transport::unix_socket, {.threads = threads});
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          all.spawn(ends.client.close());
          all.spawn(ends.client.close());
          all.spawn(ends.server.close());
          co_return;
        });
      }
    }
  }

  TEST_CASE("the last handle that goes closes the link in order") {
    for (const auto over : test::transports) {
      linked ends(over, {.threads = 2});
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        all.spawn(expect_count(ends.server.stream(), 100));
        all.spawn(expect_end(ends.server, errc::closed));
        {
          hawser::link own = std::exchange(ends.client, {});
          co_await send_patterns(own.stream(), 100, 3000);
        }
      });
      ends.server = {};
      test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 0; });
    }
  }

  TEST_CASE("close ends senders that wait, and what was accepted still arrives") {
    for (const auto over : {transport::tcp, transport::unix_socket}) {
      for (const std::size_t bytes : {10'000UL, 6UL << 20}) {
        CAPTURE(bytes);
        linked ends(over);
        std::array<outcome, 3> senders;
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          for (auto& sender : senders) {
            all.spawn(send_until_failure(ends.client.stream(), bytes, sender));
          }
          co_await hawser::this_task::yield();
          co_await ends.client.close();
          co_await expect_end(ends.server, errc::closed);
        });
        std::size_t accepted = 0;
        for (const auto& sender : senders) {
          CHECK(sender.code == errc::closed);
          accepted += sender.accepted;
        }
        CHECK(ends.client.stream().counts().accepted == accepted);
        CHECK(ends.server.stream().counts().received == accepted);
      }
    }
  }

  TEST_CASE("the last words have left when close completes") {
    for (const auto over : {transport::tcp, transport::unix_socket}) {
      linked ends(over);
      test::raw_link peer(ends.listener.uri());
      const auto link = accept_one(ends);
      std::thread answering([&] {
        namespace wire = hawser::wire;
        CHECK(peer.socket.next(wire::kind::close).has_value());
        peer.socket.send(wire::encode_closed({}, {}));
        peer.socket.send(wire::encode_close(errc{}, {}, {}));
      });

      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await link.close();
        // The only worker is held: nothing leaves meanwhile.
        answering.join();
        CHECK(peer.socket.next(hawser::wire::kind::closed).has_value());
      });
    }
  }

  TEST_CASE("close gives up on a peer that does not answer") {
    linked ends(transport::tcp, {.server = {.link = {.close_timeout = 50ms}}});
    test::raw_link mute(ends.listener.uri());
    const auto link = accept_one(ends);
    const auto start = hawser::clock::now();

    const auto end =
        test::outcome_of([&] { hawser::run(ends.runtime, [&] { return link.close(); }); });

    CHECK(hawser::clock::now() - start >= 50ms);
    CHECK(end.error().code() == errc::link_lost);
    CHECK(end.error().text().find("did not finish closing in time") != std::string::npos);
    CHECK(mute.socket.next(hawser::wire::kind::close).has_value());
  }

  TEST_CASE("the last handle that goes is bounded by close_timeout too") {
    linked ends(transport::unix_socket, {.server = {.link = {.close_timeout = 50ms}}});
    test::raw_link mute(ends.listener.uri());
    accept_one(ends) = {};
    mute.socket.read_to_end();
    test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 2; });
  }

  // Goal: a link does not keep itself alive by its own messages. Method: what the peer sends is
  // forwarded to it and not read; the leak checker of the address sanitizer finds what is left.
  TEST_CASE("a message that a lost link was to forward does not keep it") {
    constexpr std::size_t count = 15;
    linked ends(transport::unix_socket, {.server = {.link = {.socket_buffer_bytes = 0}}});
    test::raw_link peer(ends.listener.uri(), test::make_hello(16 << 20));
    auto link = accept_one(ends);
    const auto frame = test::data_frame({2}, test::bytes(60'000));
    for (std::size_t i = 0; i < count; ++i) peer.socket.send(frame);
    hawser::run(ends.runtime, [&]() -> task<void> {
      for (std::size_t i = 0; i < count; ++i) {
        auto message = co_await link.stream().recv();
        CHECK(message.has_value());
        co_await link.bulk().send(std::move(*message));
      }
      peer.socket.close();
      co_await expect_end(link, errc::link_lost);
      CHECK(link.bulk().counts().sent < count);
    });
    link = {};
    test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 2; });
  }

  TEST_CASE("a runtime whose links do not end closes them hard after shutdown_deadline") {
    const auto before = test::open_descriptors();
    test::watchdog guard(60s);
    test::log_book log;
    {
      auto config = test::config(2, log);
      config.shutdown_deadline = 50ms;
      std::optional<hawser::runtime> runtime(std::in_place, config);
      auto listener = hawser::listen(*runtime, "tcp://:0", {.link = {.close_timeout = 1h}});
      const test::raw_link mute(listener.uri());
      const auto link = hawser::sync_wait(*runtime, listener.accept());
      const auto start = hawser::clock::now();
      runtime.reset();
      CHECK(hawser::clock::now() - start >= 50ms);
      CHECK(link.bulk().counts().accepted == 0);
    }
    CHECK(test::has_event(log, "runtime", {"shutdown_deadline has passed"}));
    CHECK(test::open_descriptors() == before);
  }

  TEST_CASE("a runtime ends with links open, half open and never accepted") {
    for (int round = 0; round < 5; ++round) {
      std::optional<test::raw_listener> mute(std::in_place);
      linked ends(transport::tcp, {.threads = 2});
      test::raw_socket silent(ends.listener.uri());
      test::raw_link strange(ends.listener.uri());
      hawser::link other, accepted;
      ends.connect(other, accepted);
      const auto tried = test::outcome_of([&] {
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          all.spawn([](std::string uri) -> task<void> {
            const auto link = co_await hawser::connect(uri);
            CHECK(!link);
          }(mute->uri()));
          co_await hawser::this_task::yield();
          ends.runtime.request_stop();
          co_await hawser::this_task::sleep_for(1h);
        });
      });
      CHECK(tried.error().code() == errc::cancelled);
    }
  }
}
