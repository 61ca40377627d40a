// SPDX-License-Identifier: Apache-2.0
// Every operation ends once when it is asked to, wherever the request comes from.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/raw_socket.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::channel;
using hawser::errc;
using hawser::task;
using test::linked;
using test::transport;

using action = std::function<task<void>()>;

// Ends with errc::timed_out on its own worker.
void expect_timeout(hawser::runtime& where, const action& blocked) {
  const auto end = test::outcome_of(
      [&] { hawser::run(where, [&] { return hawser::timeout(5ms, blocked()); }); });
  REQUIRE_FALSE(end.has_value());
  CHECK(end.error().code() == errc::timed_out);
}

// Ends with errc::cancelled when a thread that is no worker asks for it.
void expect_stop(hawser::runtime& where, const action& blocked) {
  std::promise<hawser::scope*> begun;
  std::atomic<bool> requested{false};
  std::thread stopper([&] {
    begun.get_future().get()->request_stop();
    requested.store(true, std::memory_order_release);  // pairs with the acquire below
  });
  std::error_code code;
  int ends = 0;
  hawser::run(where, [&](hawser::scope& all) -> task<void> {
    all.spawn([](const action& what, std::error_code& end, int& count) -> task<void> {
      auto done = co_await hawser::as_result(what());
      ++count;
      if (!done.has_value()) end = done.error().code();
    }(blocked, code, ends));
    co_await hawser::this_task::yield();
    begun.set_value(&all);
    // The scope must outlive the request; yielding is cancelled too, but gives way first.
    while (!requested.load(std::memory_order_acquire)) {
      const auto cancelled = co_await hawser::as_result(hawser::this_task::yield());
      static_cast<void>(cancelled);
    }
  });
  stopper.join();
  CHECK(ends == 1);
  CHECK(code == errc::cancelled);
}

void expect_cancels(hawser::runtime& where, const action& blocked) {
  for (int round = 0; round < 5; ++round) {
    expect_timeout(where, blocked);
    expect_stop(where, blocked);
  }
}

task<void> fill(channel& to) {
  co_await to.send("first");
  auto copy = test::make_pattern(0, 10'000);
  while (to.try_send(copy.bytes())) {
  }
}

// Drops the value.
template <class Op>
task<void> only(Op operation) {
  auto dropped = co_await std::move(operation);
}

task<void> only_void(channel::send_op operation) { co_await std::move(operation); }

}  // namespace

TEST_SUITE("link_cancel") {
  TEST_CASE("an operation that waits ends when it is asked to") {
    for (const unsigned threads : {1U, 2U}) {
      linked ends(transport::unix_socket, {.threads = threads});
      auto& stream = ends.client.stream();
      expect_cancels(ends.runtime, [&] { return only(stream.recv()); });
      expect_cancels(ends.runtime, [&] { return only(stream.recv_batch(10)); });
      expect_cancels(ends.runtime, [&] { return only(ends.listener.accept()); });
      expect_cancels(ends.runtime, [&] { return only(ends.client.ended()); });
      hawser::run(ends.runtime, [&] { return fill(stream); });
      expect_cancels(ends.runtime,
                     [&] { return only_void(stream.send(test::make_pattern(0, 10'000))); });
      expect_cancels(ends.runtime, [&]() -> task<void> {
        std::vector<hawser::message> batch(3);
        for (auto& each : batch) {
          each = hawser::message(hawser::shared_buffer(test::make_pattern(0, 10'000)));
        }
        co_await stream.send_batch(batch);
      });
      // Nothing of that was accepted, and nothing is broken.
      hawser::run(ends.runtime, [&]() -> task<void> {
        const auto accepted = stream.counts().accepted;
        const auto first = co_await ends.server.stream().recv();
        CHECK(first->text() == "first");
        for (std::uint64_t i = 1; i < accepted; ++i) {
          const auto message = co_await ends.server.stream().recv();
          CHECK(message->size() == 10'000);
        }
        co_await ends.server.stream().send("answer");
        const auto answer = co_await stream.recv();
        CHECK(answer->text() == "answer");
        CHECK(stream.counts().accepted == accepted);
      });
    }
  }

  TEST_CASE("flush, finish and close end when they are asked to, with a peer that does not read") {
    for (const unsigned threads : {1U, 2U}) {
      linked ends(transport::tcp, {.threads = threads,
                                   .server = {.link = {.close_timeout = 200ms}}});
      test::raw_link mute(ends.listener.uri(), test::make_hello(256 << 20));
      auto link = hawser::sync_wait(ends.runtime, ends.listener.accept());
      auto& bulk = link.bulk();
      hawser::run(ends.runtime, [&]() -> task<void> {
        auto stuck = co_await hawser::as_result(
            hawser::timeout(50ms, [](channel& to) -> task<void> {
              while (true) co_await to.send(test::make_pattern(0, 1 << 20));
            }(bulk)));
        CHECK(stuck.error().code() == errc::timed_out);
      });
      expect_cancels(ends.runtime, [&]() -> task<void> { co_await bulk.flush(); });
      expect_cancels(ends.runtime, [&]() -> task<void> { co_await bulk.finish(); });
      expect_timeout(ends.runtime, [&]() -> task<void> { co_await link.close(); });
      expect_stop(ends.runtime, [&]() -> task<void> { co_await link.close(); });
      hawser::run(ends.runtime, [&]() -> task<void> {
        const auto why = co_await link.ended();
        CHECK(why.code() == errc::link_lost);
        auto flushed = co_await hawser::as_result(bulk.flush());
        CHECK(flushed.error().code() == errc::link_lost);
      });
      CHECK(bulk.counts().accepted > bulk.counts().sent);
    }
  }

  TEST_CASE("connect ends when it is asked to, and leaves nothing behind") {
    linked ends(transport::unix_socket, {.threads = 2});
    for (const bool unix_socket : {false, true}) {
      test::raw_listener mute(unix_socket ? ends.place / "mute" : "");
      const auto before = test::open_descriptors();
      expect_cancels(ends.runtime, [&] { return only(hawser::connect(mute.uri())); });
      test::wait_until(ends.runtime, [&] {
        return test::open_descriptors() == before && ends.runtime.stats().open_links == 2;
      });
    }
  }

  // The first of several waits for more credit than there is; the next needs less.
  TEST_CASE("connect waits for a listener whose queue is full, until it is asked to end") {
    const test::watchdog guard(30s);
    const test::folder place;
    hawser::runtime runtime(test::config(1));
    const auto attempt = [&](const std::string& path) {
      const test::raw_listener busy(path, 0);
      const test::raw_socket only(busy.uri());
      const auto connected = test::outcome_of(
          [&] { hawser::sync_wait(runtime, hawser::timeout(30ms, hawser::connect(busy.uri()))); });
      REQUIRE_FALSE(connected.has_value());
      CHECK(connected.error().code() == errc::timed_out);
    };
    attempt({});  // what is opened at its first use stays
    const auto descriptors = test::open_descriptors();
    for (const std::string& path : {std::string(), place / "one", place / "other"}) attempt(path);
    CHECK(test::open_descriptors() == descriptors);
  }

  TEST_CASE("a sender that gives up lets those behind it go on") {
    linked ends(transport::unix_socket);
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      auto& control = ends.client.control();
      auto almost = test::make_pattern(0, 10'000);
      co_await control.send("first");
      while (control.try_send(almost.bytes())) {
      }
      all.spawn([](channel& to) -> task<void> {
        auto large = co_await hawser::as_result(
            hawser::timeout(5ms, to.send(test::make_pattern(0, 40'000))));
        CHECK(large.error().code() == errc::timed_out);
      }(control));
      co_await hawser::this_task::yield();
      co_await control.send("small");
    });
  }

  // Goal: a large message that has begun completes although it is cancelled, or fails with the
  // link; the rest of its batch does not begin. Method: the peer decides when there is credit.
  TEST_CASE("a batch that is stopped in a large message completes that message only") {
    for (const bool lost : {false, true}) {
      linked ends(transport::unix_socket);
      test::raw_link peer(ends.listener.uri(), test::make_hello(256 << 10));
      auto link = hawser::sync_wait(ends.runtime, ends.listener.accept());
      std::vector<hawser::message> batch(3);
      for (auto& each : batch) {
        each = hawser::message(hawser::shared_buffer(test::make_pattern(0, 1 << 20)));
      }
      std::error_code code;
      std::string text;
      std::promise<hawser::scope*> begun;
      std::thread sender([&] {
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          all.spawn([](channel& to, std::vector<hawser::message>& messages, std::error_code& end,
                       std::string& why) -> task<void> {
            auto sent = co_await hawser::as_result(to.send_batch(messages));
            CHECK_FALSE(sent.has_value());
            if (sent.has_value()) co_return;
            end = sent.error().code();
            why = sent.error().text();
          }(link.bulk(), batch, code, text));
          co_await hawser::this_task::yield();
          begun.set_value(&all);
        });
      });
      begun.get_future().get()->request_stop();
      // Queued behind the cancellation, which has the priority of its channel.
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        all.spawn([](channel& to) -> task<void> {
          CHECK(to.counts().accepted == 0);
          co_return;
        }(link.bulk()), hawser::priority::bulk);
        co_return;
      });
      if (lost) {
        peer.socket.close();
      } else {
        const std::array<hawser::wire::grant, 1> plenty{{{6, 10 << 20, 0, 0}}};
        peer.socket.send(hawser::wire::encode(plenty));
      }
      sender.join();
      CHECK(code == (lost ? errc::link_lost : errc::cancelled));
      CHECK(text.find(lost ? "0 of 3" : "1 of 3") != std::string::npos);
      CHECK(batch[1].size() == 1 << 20);
      peer.socket.close();
    }
  }

  // Goal: cancelling at any moment loses and doubles nothing. Method: both sides race their
  // operations against times around zero and against each other; the numbers that arrive must be
  // those whose send completed, in order.
  TEST_CASE("ten thousand cancelled sends and receives lose no message") {
    for (const unsigned threads : {1U, 2U}) {
      linked ends(transport::unix_socket, {.threads = threads}, 120s);
      constexpr std::uint64_t rounds = 5000;
      std::vector<std::uint64_t> sent, received;
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        all.spawn([](channel& to, std::vector<std::uint64_t>& done) -> task<void> {
          std::mt19937_64 dice(test::seed());
          for (std::uint64_t i = 0; i < rounds; ++i) {
            const hawser::message_header header{i};
            hawser::message message(hawser::shared_buffer(test::make_pattern(i, dice() % 20'000)),
                                    header);
            const auto limit = std::chrono::microseconds(dice() % 50);
            auto outcome = co_await hawser::as_result(
                hawser::timeout(limit, to.send(std::move(message))));
            if (outcome.has_value()) {
              done.push_back(i);
            } else {
              CHECK(outcome.error().code() == errc::timed_out);
            }
          }
          co_await to.finish();
        }(ends.client.control(), sent));
        std::mt19937_64 dice(test::seed() + 1);
        std::vector<hawser::message> held;
        while (true) {
          const auto limit = std::chrono::microseconds(dice() % 50);
          auto message = co_await hawser::as_result(
              hawser::timeout(limit, ends.server.control().recv()));
          if (!message.has_value()) {
            CHECK(message.error().code() == errc::timed_out);
            if (held.size() > 3 || dice() % 4 == 0) held.clear();
            continue;
          }
          if (!message->has_value()) break;
          received.push_back((**message).id());
          if (dice() % 2 == 0) held.push_back(std::move(**message));
        }
      });
      CHECK(sent == received);
      MESSAGE(sent.size() << " of " << rounds << " were sent");
    }
  }

  TEST_CASE("a receiver that loses a race drops nothing") {
    for (const unsigned threads : {1U, 2U}) {
      linked ends(transport::unix_socket, {.threads = threads}, 120s);
      constexpr std::uint64_t count = 5000;
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        for (auto* const each : {&ends.client.rpc(), &ends.client.stream()}) {
          all.spawn([](channel& to) -> task<void> {
            std::mt19937_64 dice(test::seed() + static_cast<std::uint64_t>(to.kind()));
            for (std::uint64_t i = 0; i < count; ++i) {
              const hawser::message_header header{i};
              co_await to.send(std::span<const std::byte>(), header);
              if (dice() % 8 == 0) co_await hawser::this_task::yield();
            }
          }(*each));
        }
        std::array<std::uint64_t, 2> next{};
        const auto note = [&next](std::size_t which, const auto& message) {
          if (!message.has_value()) return;
          CHECK(message->has_value());
          if (message->has_value()) CHECK((**message).id() == next[which]++);
        };
        while (next[0] < count || next[1] < count) {
          if (next[0] == count || next[1] == count) {
            const std::size_t left = next[0] == count ? 1 : 0;
            auto& from = left == 0 ? ends.server.rpc() : ends.server.stream();
            const auto message = co_await from.recv();
            CHECK(message->id() == next[left]++);
            continue;
          }
          const auto got =
              co_await hawser::when_any(ends.server.rpc().recv(), ends.server.stream().recv());
          note(0, std::get<0>(got.values));
          note(1, std::get<1>(got.values));
        }
      });
    }
  }
}
