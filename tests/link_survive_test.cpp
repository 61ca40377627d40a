// SPDX-License-Identifier: Apache-2.0
// Links that outlive their connections, through a relay that cuts, parts and redirects them. What
// all of that may do to the order of things is for the simulation to show.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "hawser/hawser.hpp"
#include "support/links.hpp"
#include "support/raw_socket.hpp"
#include "support/relay.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::task;
using condition = hawser::link::condition;

hawser::link_options surviving() {
  hawser::link_options made;
  made.survive = 30s;
  made.backoff = 5ms;
  made.backoff_most = 20ms;
  made.resend = {false, true, false, true};
  return made;
}

// A listener, a relay in front of it, and a link through that.
struct relayed {
  explicit relayed(const hawser::link_options& of_client = surviving(),
                   const hawser::link_options& of_server = surviving())
      : options(of_client),
        runtime(test::config(2, log)),
        listener(hawser::listen(runtime, "tcp://127.0.0.1:0", {.link = of_server})),
        between(listener.uri()) {
    hawser::run(runtime, [this]() -> task<void> {
      auto both = co_await hawser::when_all(hawser::connect(between.uri(), options),
                                            listener.accept());
      client = std::get<0>(std::move(both));
      server = std::get<1>(std::move(both));
    });
  }

  test::watchdog guard{60s};
  test::log_book log;
  hawser::link_options options;
  hawser::runtime runtime;
  hawser::listener listener;
  test::relay between;
  hawser::link client, server;
};

task<hawser::link::status> reaches(hawser::link link, condition wanted) {
  auto status = co_await link.changed();
  while (status.now != wanted) status = co_await link.changed(status);
  co_return status;
}

// Until it has been open on so many connections.
task<hawser::link::status> is_open_again(hawser::link link, std::uint64_t connections) {
  auto status = co_await link.changed();
  while (status.connections < connections || status.now != condition::open) {
    status = co_await link.changed(status);
  }
  co_return status;
}

task<void> send_numbers(hawser::link to, hawser::priority over, std::uint64_t from,
                        std::uint64_t until, std::size_t bytes) {
  for (auto i = from; i < until; ++i) {
    co_await to.at(over).send(test::make_pattern(i, bytes));
  }
  co_await to.at(over).flush();
}

task<void> expect_numbers(hawser::link from, hawser::priority over, std::uint64_t first,
                          std::uint64_t until, std::size_t bytes) {
  for (auto i = first; i < until; ++i) {
    const auto message = co_await from.at(over).recv();
    REQUIRE(message.has_value());
    REQUIRE(test::is_pattern(*message, i, bytes));
  }
}

}  // namespace

TEST_SUITE("link_survive") {
  TEST_CASE("a cut connection is replaced, the link goes on, and both sides can see it") {
    relayed ends;
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await ends.client.rpc().send("before");
      const auto before = co_await ends.server.rpc().recv();
      CHECK(before->text() == "before");
      ends.between.cut();
      const auto client = co_await is_open_again(ends.client, 2);
      CHECK(client.resumed);
      const auto server = co_await is_open_again(ends.server, 2);
      CHECK(server.resumed);
      co_await ends.client.rpc().send("after");
      const auto after = co_await ends.server.rpc().recv();
      CHECK(after->text() == "after");
      co_await ends.client.close();
      const auto status = co_await reaches(ends.server, condition::ended);
      CHECK(status.connections == 2);
    });
    CHECK(test::has_event(ends.log, "link", {"has lost its connection"}));
    CHECK(test::has_event(ends.log, "link", {"is connected again, resumed"}));
  }

  TEST_CASE("what a channel resends arrives once and in order, however often it is cut") {
    relayed ends;
    constexpr std::uint64_t count = 400;
    constexpr std::size_t bytes = 50'000;
    hawser::run(ends.runtime, [&](hawser::scope& inside) -> task<void> {
      inside.spawn(send_numbers(ends.client, hawser::priority::bulk, 0, count, bytes));
      inside.spawn(send_numbers(ends.server, hawser::priority::rpc, 0, count, bytes));
      inside.spawn(expect_numbers(ends.client, hawser::priority::rpc, 0, count, bytes));
      for (std::uint64_t i = 0; i < count; ++i) {
        const auto message = co_await ends.server.bulk().recv();
        REQUIRE(message.has_value());
        REQUIRE(test::is_pattern(*message, i, bytes));
        if (i % 100 == 50) ends.between.cut();
      }
    });
    hawser::run(ends.runtime, [&]() -> task<void> {
      const auto status = co_await is_open_again(ends.client, 2);
      CHECK(status.connections >= 3);  // some cuts may have met while it was offline
      co_await ends.client.close();
      co_await ends.server.ended();
    });
    for (const auto& each : {ends.client, ends.server}) {
      CHECK(each.bulk().counts().lost == 0);
      CHECK(each.rpc().counts().lost == 0);
      CHECK(each.rpc().counts().missed == 0);
    }
  }

  TEST_CASE("what a channel does not resend is lost, and both sides count the same") {
    relayed ends;
    hawser::run(ends.runtime, [&](hawser::scope& inside) -> task<void> {
      inside.spawn([](hawser::link from) -> task<void> {
        while (auto message = co_await from.stream().recv()) {
        }
      }(ends.server));
      for (std::uint64_t round = 0; round < 5; ++round) {
        co_await send_numbers(ends.client, hawser::priority::stream, 0, 100, 20'000);
        ends.between.cut();
        co_await is_open_again(ends.client, 2 + round);
      }
      co_await ends.client.close();
      co_await ends.server.ended();
    });
    const auto sent = ends.client.stream().counts();
    const auto seen = ends.server.stream().counts();
    CHECK(sent.accepted == 500);
    CHECK(sent.accepted == seen.received + sent.lost);
    CHECK(seen.missed == sent.lost);
  }

  TEST_CASE("a server that has been replaced gets a new session, and what was not consumed again") {
    relayed ends;
    hawser::runtime other(test::config());
    auto replacement =
        hawser::listen(other, "tcp://127.0.0.1:0", {.link = surviving()});
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await send_numbers(ends.client, hawser::priority::rpc, 0, 10, 100);
      co_await send_numbers(ends.client, hawser::priority::stream, 0, 10, 100);
    });
    ends.between.redirect(replacement.uri());
    ends.between.cut();
    auto server = hawser::sync_wait(other, replacement.accept());
    hawser::run(other, [&]() -> task<void> {
      co_await expect_numbers(server, hawser::priority::rpc, 0, 10, 100);
    });
    hawser::run(ends.runtime, [&]() -> task<void> {
      const auto status = co_await is_open_again(ends.client, 2);
      CHECK_FALSE(status.resumed);
      co_await send_numbers(ends.client, hawser::priority::stream, 10, 11, 100);
      const auto counts = ends.client.stream().counts();
      CHECK(counts.lost == 10);
      CHECK(counts.accepted == 11);
    });
    hawser::run(other, [&]() -> task<void> {
      co_await expect_numbers(server, hawser::priority::stream, 10, 11, 100);
    });
    CHECK(test::has_event(ends.log, "link", {"in a new session"}));
  }

  TEST_CASE("a link that stays offline is lost in time, on both sides") {
    auto brief = surviving();
    brief.survive = 200ms;
    relayed ends(brief, brief);
    ends.between.redirect("tcp://127.0.0.1:1");
    ends.between.cut();
    hawser::run(ends.runtime, [&]() -> task<void> {
      const auto offline = co_await reaches(ends.client, condition::offline);
      CHECK(offline.connections == 1);
      const auto sent = co_await hawser::as_result(ends.client.rpc().send("waits"));
      CHECK(sent.error().code() == errc::link_lost);
      const auto client = co_await ends.client.ended();
      CHECK(client.code() == errc::link_lost);
      const auto server = co_await ends.server.ended();
      CHECK(server.code() == errc::link_lost);
      const auto got = co_await hawser::as_result(ends.server.rpc().recv());
      CHECK(got.error().code() == errc::link_lost);
    });
    CHECK(test::has_event(ends.log, "link", {"is lost", "no connection for too long"}));
  }

  TEST_CASE("a partition is found by keep-alive, and another connection takes its place") {
    auto watchful = surviving();
    watchful.keepalive = 30ms;
    watchful.keepalive_timeout = 60ms;
    watchful.handshake_timeout = 100ms;
    auto patient = surviving();  // does not notice by itself
    relayed ends(watchful, patient);
    ends.between.part();
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await reaches(ends.client, condition::offline);
      ends.between.heal();
      co_await is_open_again(ends.client, 2);
      const auto server = co_await is_open_again(ends.server, 2);
      CHECK(server.resumed);
      co_await ends.client.rpc().send("after");
      const auto after = co_await ends.server.rpc().recv();
      CHECK(after->text() == "after");
    });
  }

  TEST_CASE("nobody else can resume a link, and trying harms nobody") {
    relayed ends;
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await ends.client.rpc().send("here");
      const auto message = co_await ends.server.rpc().recv();
      CHECK(message->text() == "here");
    });
    test::raw_link knows_itself(ends.listener.uri());
    for (const bool wrong_secret : {true, false}) {
      auto hello = test::make_hello();
      hello.link_id = knows_itself.hello.link_id;
      hello.incarnation = 2;
      hello.resume_secret = knows_itself.welcome.resume_secret;
      if (wrong_secret) (*hello.resume_secret)[15] ^= std::byte{1};
      test::raw_socket socket(ends.listener.uri());
      socket.send(hawser::wire::encode(hello));
      const auto answer = socket.next();
      REQUIRE(answer.has_value());
      REQUIRE(answer->kind == hawser::wire::kind::refuse);  // it has not asked to be held
      CHECK(hawser::wire::decode_refusal(answer->header)->code == errc::refused);
    }
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await ends.client.rpc().send("still here");
      const auto message = co_await ends.server.rpc().recv();
      CHECK(message->text() == "still here");
    });
  }

  TEST_CASE("a runtime can end while a link is offline, and so can its handles") {
    for (const bool drops_handle : {false, true}) {
      relayed ends;
      ends.between.redirect("tcp://127.0.0.1:1");
      ends.between.cut();
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await reaches(ends.client, condition::offline);
        if (drops_handle) ends.client = {};
      });
      if (drops_handle) {
        test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 1; });
      }
    }
  }

  TEST_CASE("waiting for a change can be cancelled") {
    relayed ends;
    hawser::run(ends.runtime, [&]() -> task<void> {
      const auto open = co_await ends.client.changed();
      const auto waited = co_await hawser::as_result(
          hawser::timeout(5ms, ends.client.changed(open)));
      CHECK(waited.error().code() == errc::timed_out);
    });
  }
}
