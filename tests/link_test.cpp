// SPDX-License-Identifier: Apache-2.0
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/links.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::channel;
using hawser::errc;
using hawser::priority;
using hawser::task;
using test::kinds;
using test::linked;
using test::transport;

task<void> echo(channel& from) {
  while (auto message = co_await from.recv()) co_await from.send(std::move(*message));
  co_await from.finish();
}

task<void> ask_and_finish(channel& over, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::string question = "question " + std::to_string(i);
    const hawser::message_header header{i, static_cast<hawser::codec>(200)};
    co_await over.send(std::as_bytes(std::span(question)), header);
    const auto answer = co_await over.recv();
    CHECK(answer.has_value());
    if (!answer.has_value()) co_return;
    CHECK(answer->text() == question);
    CHECK(answer->id() == i);
    CHECK(answer->encoding() == static_cast<hawser::codec>(200));
    CHECK(answer->via() == hawser::lane::normal);
  }
  co_await over.finish();
  const auto end = co_await over.recv();
  CHECK_FALSE(end.has_value());
}


task<void> ask_once(channel& client, channel& server) {
  co_await client.send("question");
  static_cast<void>(co_await server.recv());
}

// What a tcp socket was told: TCP_NODELAY and TCP_NOTSENT_LOWAT.
using tuning = std::pair<int, int>;

std::vector<tuning> tunings_of_connections() {
  std::vector<tuning> found;
  for (const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int descriptor = std::stoi(each.path().filename());
    const auto option = [descriptor](int level, int name) {
      int value = 0;
      socklen_t size = sizeof value;
      return ::getsockopt(descriptor, level, name, &value, &size) == 0 ? value : -1;
    };
    if (option(SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP) continue;
    if (option(SOL_SOCKET, SO_ACCEPTCONN) != 0) continue;
    found.emplace_back(option(IPPROTO_TCP, TCP_NODELAY), option(IPPROTO_TCP, TCP_NOTSENT_LOWAT));
  }
  return found;
}

task<void> send_patterns(channel& to, std::vector<std::size_t> sizes) {
  for (std::size_t i = 0; i < sizes.size(); ++i) co_await to.send(test::make_pattern(i, sizes[i]));
}

task<void> expect_patterns(channel& from, std::vector<std::size_t> sizes) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    auto message = co_await from.recv();
    CHECK(message.has_value());
    if (!message.has_value()) co_return;
    CAPTURE(sizes[i]);
    CHECK(test::is_pattern(*message, i, sizes[i]));
  }
}

task<void> carry_patterns(channel& to, channel& from, std::vector<std::size_t> sizes) {
  co_await hawser::when_all(send_patterns(to, sizes), expect_patterns(from, sizes));
}

hawser::message numbered(std::uint64_t number, std::size_t bytes) {
  return hawser::message(hawser::shared_buffer(test::make_pattern(number, bytes)), {number});
}

// Sends `count` messages of one sender, numbered in their headers.
task<void> send_numbered(channel& to, std::uint64_t sender, std::uint64_t count,
                         std::size_t bytes) {
  for (std::uint64_t i = 0; i < count; ++i) {
    co_await to.send(numbered(sender << 32 | i, bytes));
  }
}

task<std::vector<hawser::message>> take(channel& from, std::size_t count) {
  std::vector<hawser::message> taken;
  while (taken.size() < count) {
    auto message = co_await from.recv();
    CHECK(message.has_value());
    if (!message.has_value()) break;
    taken.push_back(std::move(*message));
  }
  co_return taken;
}

// Until nothing more goes without waiting.
task<std::size_t> fill(channel& to, std::size_t bytes) {
  co_await to.send(test::make_pattern(0, bytes));
  hawser::buffer copy = test::make_pattern(1, bytes);
  std::size_t count = 1;
  while (to.try_send(copy.bytes())) ++count;
  co_return count;
}

task<void> forward(channel& from, channel& to) {
  while (auto message = co_await from.recv()) co_await to.send(std::move(*message));
  co_await to.finish();
}

// Both ends agree on how many messages went each way and arrived.
task<void> expect_counts(channel& sender, channel& receiver, std::uint64_t count) {
  co_await sender.flush();
  CHECK(sender.counts().accepted == count);
  CHECK(sender.counts().sent == count);
  const auto none = co_await hawser::as_result(hawser::timeout(0ms, receiver.recv()));
  CHECK_FALSE(none.has_value());
  CHECK(receiver.counts().received == count);
  CHECK(receiver.counts().taken == count);
}

}  // namespace

TEST_SUITE("link") {
  TEST_CASE("every channel of every transport carries questions and answers") {
    for (const auto over : test::transports) {
      for (const unsigned threads : {1U, 2U}) {
        CAPTURE(test::name_of(over));
        CAPTURE(threads);
        linked ends(over, {.threads = threads});
        for (const auto kind : kinds) {
          hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
            all.spawn(echo(ends.server.at(kind)));
            co_await ask_and_finish(ends.client.at(kind), 50);
          });
        }
      }
    }
  }

  TEST_CASE("messages of all sizes arrive as they were sent") {
    const std::vector<std::size_t> sizes{0,      1,      7,       8,          9,       4095,
                                         4096,   4097,   16'383,  16'384,     49'000,  65'535,
                                         65'536, 65'537, 262'144, 1'000'001,  1 << 20, 5'000'003,
                                         0,      13,     70'000,  16 << 20};
    for (const auto over : test::transports) {
      for (const unsigned channels : {1U, 4U}) {
        CAPTURE(test::name_of(over));
        CAPTURE(channels);
        linked ends(over, {.client = {.channels = channels}});
        for (const auto kind : {priority::rpc, priority::bulk}) {
          auto& there = ends.client.at(kind);
          auto& here = ends.server.at(kind);
          hawser::run(ends.runtime, [&] { return carry_patterns(there, here, sizes); });
          hawser::run(ends.runtime, [&] { return carry_patterns(here, there, sizes); });
        }
      }
    }
  }

  TEST_CASE("control refuses what is larger than its limit, and goes on") {
    linked ends(transport::unix_socket);
    hawser::run(ends.runtime, [&]() -> task<void> {
      auto& control = ends.client.control();
      auto large = co_await hawser::as_result(control.send(test::make_pattern(0, (64 << 10) + 1)));
      CHECK(large.error().code() == errc::too_large);
      CHECK_THROWS_AS(static_cast<void>(control.try_send(test::make_pattern(0, 1 << 20).bytes())),
                      std::system_error);
      auto urgent = co_await hawser::as_result(
          ends.client.bulk().send(test::make_pattern(0, 20 << 10), hawser::urgent));
      CHECK(urgent.error().code() == errc::too_large);
      const std::vector<std::size_t> sizes{64 << 10, 1, 64 << 10};
      co_await carry_patterns(control, ends.server.control(), sizes);
      CHECK(control.counts().accepted == 3);
    });
  }

  TEST_CASE("a batch is sent with one await and received with few") {
    linked ends(transport::tcp);
    constexpr std::size_t count = 3000;
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      all.spawn([](channel& to) -> task<void> {
        std::vector<hawser::message> batch;
        for (std::size_t i = 0; i < count; ++i) batch.push_back(numbered(i, i % 700));
        co_await to.send_batch(batch);
        co_await to.send_batch(std::span<hawser::message>());
        co_await to.finish();
      }(ends.client.stream()));
      std::size_t next = 0;
      std::size_t awaits = 0;
      while (true) {
        const auto some = co_await ends.server.stream().recv_batch(64);
        if (some.empty()) break;
        ++awaits;
        CHECK(some.size() <= 64);
        for (const auto& message : some) {
          CHECK(message.id() == next);
          CHECK(test::is_pattern(message, next, next % 700));
          ++next;
        }
      }
      CHECK(next == count);
      CHECK(awaits < count);
      const auto nothing = co_await ends.server.stream().recv_batch(64);
      CHECK(nothing.empty());
    });
  }

  TEST_CASE("a batch with large messages keeps its order on a narrow window") {
    linked ends(transport::unix_socket, {.server = {.link = {.window_bytes = {64 << 10, 64 << 10,
                                                                            64 << 10, 64 << 10}}}});
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      all.spawn([](channel& to) -> task<void> {
        std::vector<hawser::message> batch;
        for (std::size_t i = 0; i < 40; ++i) batch.push_back(numbered(i, i * 10'000));
        co_await to.send_batch(batch);
      }(ends.client.stream()));
      for (std::size_t i = 0; i < 40; ++i) {
        auto message = co_await ends.server.stream().recv();
        CHECK(message.has_value());
        CHECK(test::is_pattern(*message, i, i * 10'000));
      }
    });
  }

  TEST_CASE("a batch of bytes is copied before its sender waits, on every road") {
    for (const auto over : test::transports) {
      const std::string road = test::name_of(over);
      CAPTURE(road);
      constexpr std::size_t window = 64 << 10;
      linked ends(over, {.server = {.link = {.window_bytes = {window, window, window, window}}}});
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        constexpr std::size_t count = 300;
        // The last two are larger than the window, and start to leave before they are accepted.
        const auto size_of = [](std::size_t i) { return i < count - 2 ? i * 7 : 2 * window; };
        std::vector<hawser::buffer> owned;
        std::vector<std::span<const std::byte>> batch;
        for (std::size_t i = 0; i < count; ++i) {
          owned.push_back(test::make_pattern(i, size_of(i)));
          batch.emplace_back(owned.back().bytes());
        }
        all.spawn(
            [](channel& to, std::span<const std::span<const std::byte>> pieces) -> task<void> {
              co_await to.send_batch(pieces);
              co_await to.send_batch(std::span<const std::span<const std::byte>>());
              co_await to.finish();
            }(ends.client.stream(), batch));
        std::size_t next = 0;
        while (auto message = co_await ends.server.stream().recv()) {
          if (next == 0) {  // by now it waits for the window
            for (auto& bytes : owned) std::fill_n(bytes.data(), bytes.size(), std::byte{0xee});
            batch.clear();
          }
          CHECK(message->id() == 0);
          CHECK(test::is_pattern(*message, next, size_of(next)));
          ++next;
        }
        CHECK(next == count);
        CHECK(ends.client.stream().counts().accepted == count);
      });
    }
  }

  TEST_CASE("a batch of bytes may be sent from any worker") {
    linked ends(transport::unix_socket, {.threads = 2});
    const std::array<std::byte, 3> bytes{};
    const std::array<std::span<const std::byte>, 2> batch{bytes, std::span(bytes).first(1)};
    for (int i = 0; i < 50; ++i) {
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await ends.client.rpc().send_batch(batch);
        const auto got = co_await take(ends.server.rpc(), 2);
        CHECK(got.size() == 2);
      });
    }
  }

  TEST_CASE("a batch of bytes that fails says how many were accepted") {
    linked ends(transport::unix_socket);
    hawser::run(ends.runtime, [&]() -> task<void> {
      const std::vector<std::byte> large(100 << 10);
      const std::array<std::span<const std::byte>, 3> batch{std::span(large).first(10),
                                                            std::span(large).first(0), large};
      auto sent = co_await hawser::as_result(ends.client.control().send_batch(batch));
      CHECK(sent.error().code() == errc::too_large);
      CHECK(sent.error().detail().find("2 of 3") != std::string::npos);
      auto got = co_await take(ends.server.control(), 2);
      CHECK(got.size() == 2);
    });
  }

  TEST_CASE("a batch that fails says how many were accepted") {
    linked ends(transport::unix_socket);
    hawser::run(ends.runtime, [&]() -> task<void> {
      std::vector<hawser::message> batch;
      for (std::size_t i = 0; i < 3; ++i) batch.push_back(numbered(i, 10));
      batch.push_back(numbered(3, 100 << 10));
      auto sent = co_await hawser::as_result(ends.client.control().send_batch(batch));
      CHECK(sent.error().code() == errc::too_large);
      CHECK(sent.error().detail().find("3 of 4") != std::string::npos);
      CHECK(batch.back().size() == 100 << 10);
      auto got = co_await take(ends.server.control(), 3);
      CHECK(got.size() == 3);
    });
  }

  TEST_CASE("the try_ forms never wait") {
    linked ends(transport::unix_socket);
    hawser::run(ends.runtime, [&]() -> task<void> {
      auto& to = ends.client.control();
      auto& from = ends.server.control();
      const std::size_t filled = co_await fill(to, 1000);
      CHECK(filled > 50);
      CHECK(filled < 70);
      co_await to.flush();
      auto all = co_await take(from, filled);
      CHECK_FALSE(from.try_recv().has_value());
      CHECK_FALSE(to.try_send(all.front().bytes()));
      all.clear();
      co_await to.send("more");
      const auto more = co_await from.recv();
      CHECK(more->text() == "more");
      CHECK(to.try_send(std::as_bytes(std::span(std::string_view("again")))));
      co_await to.flush();
      std::optional<hawser::message> again;
      while (!again.has_value()) {
        co_await hawser::this_task::yield();
        again = from.try_recv();
      }
      CHECK(again->text() == "again");
    });
  }

  // A large message that began without credit for all of it could be given up halfway, so
  // try_send() must not begin it.
  TEST_CASE("try_send accepts a message whole or not at all") {
    linked ends(transport::unix_socket);
    hawser::run(ends.runtime, [&]() -> task<void> {
      auto& to = ends.client.rpc();
      co_await to.send("first");
      for (const std::size_t bytes : {60'000UL, 300'000UL, 1'000'000UL}) {
        auto large = test::make_pattern(7, bytes);
        const auto before = to.counts().accepted;
        std::size_t said = 0;
        while (to.try_send(large.bytes())) ++said;
        CHECK(to.counts().accepted == before + said);
      }
    });
  }

  TEST_CASE("an urgent message passes a large one that is on its way") {
    for (const unsigned channels : {1U, 4U}) {
      linked ends(transport::tcp, {.client = {.channels = channels}});
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        all.spawn(send_patterns(ends.client.bulk(), {16 << 20}));
        co_await ends.client.bulk().send("now", hawser::urgent);
        const auto first = co_await ends.server.bulk().recv();
        CHECK(first->text() == "now");
        CHECK(first->via() == hawser::lane::urgent);
        const auto second = co_await ends.server.bulk().recv();
        CHECK(test::is_pattern(*second, 0, 16 << 20));
        CHECK(second->via() == hawser::lane::normal);
      });
    }
  }

  TEST_CASE("each lane keeps its own order") {
    linked ends(transport::tcp, {.threads = 2});
    constexpr std::uint64_t count = 2000;
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      for (const auto via : {hawser::lane::normal, hawser::lane::urgent}) {
        all.spawn([](channel& to, hawser::lane lane) -> task<void> {
          for (std::uint64_t i = 0; i < count; ++i) {
            const std::string text(i % 200, 'x');
            const hawser::message_header header{i};
            co_await to.send(std::as_bytes(std::span(text)), header, lane);
          }
        }(ends.client.rpc(), via));
      }
      std::array<std::uint64_t, 2> next{};
      for (std::uint64_t i = 0; i < 2 * count; ++i) {
        const auto message = co_await ends.server.rpc().recv();
        CHECK(message->id() == next[static_cast<std::size_t>(message->via())]++);
      }
    });
  }

  TEST_CASE("a blocked bulk channel does not stop calls") {
    for (const unsigned channels : {1U, 4U}) {
      linked ends(transport::tcp, {.client = {.channels = channels}});
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        auto& bulk = ends.client.bulk();
        const std::size_t filled = co_await fill(bulk, 100'000);
        all.spawn(echo(ends.server.rpc()));
        co_await ask_and_finish(ends.client.rpc(), 100);
        CHECK_FALSE(bulk.try_send(test::make_pattern(1, 100'000).bytes()));
        const auto all_of_it = co_await take(ends.server.bulk(), filled);
        CHECK(all_of_it.size() == filled);
      });
    }
  }

  TEST_CASE("several tasks send on one channel, each in its own order") {
    for (const unsigned threads : {1U, 2U}) {
      linked ends(transport::unix_socket, {.threads = threads});
      constexpr std::uint64_t senders = 8;
      constexpr std::uint64_t count = 300;
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        for (std::uint64_t i = 0; i < senders; ++i) {
          all.spawn(send_numbered(ends.client.stream(), i, count, 3000));
        }
        std::array<std::uint64_t, senders> next{};
        for (std::uint64_t i = 0; i < senders * count; ++i) {
          const auto message = co_await ends.server.stream().recv();
          CHECK((message->id() & 0xffffffff) == next[message->id() >> 32]++);
          CHECK(test::is_pattern(*message, message->id(), 3000));
        }
      });
    }
  }

  TEST_CASE("senders may come from any worker") {
    linked ends(transport::tcp, {.threads = 2});
    constexpr std::uint64_t count = 500;
    std::vector<std::thread> others;
    for (std::uint64_t sender = 0; sender < 4; ++sender) {
      others.emplace_back([&, sender] {
        hawser::run(ends.runtime,
                    [&] { return send_numbered(ends.client.bulk(), sender, count, 5000); });
      });
    }
    hawser::run(ends.runtime, [&]() -> task<void> {
      std::array<std::uint64_t, 4> next{};
      for (std::uint64_t i = 0; i < 4 * count; ++i) {
        const auto message = co_await ends.server.bulk().recv();
        CHECK((message->id() & 0xffffffff) == next[message->id() >> 32]++);
      }
    });
    for (auto& other : others) other.join();
  }

  TEST_CASE("a payload of numbers is read where it lies") {
    linked ends(transport::tcp);
    hawser::run(ends.runtime, [&]() -> task<void> {
      for (std::size_t i = 0; i < 200; ++i) {
        std::vector<double> numbers(i * 17);
        std::iota(numbers.begin(), numbers.end(), static_cast<double>(i));
        co_await ends.client.stream().send("odd");
        co_await ends.client.stream().send(std::as_bytes(std::span(numbers)));
        const auto odd = co_await ends.server.stream().recv();
        CHECK_THROWS_AS(static_cast<void>(odd->as<double>()), std::system_error);
        const auto message = co_await ends.server.stream().recv();
        const auto seen = message->as<double>();
        CHECK(reinterpret_cast<std::uintptr_t>(seen.data()) % alignof(double) == 0);
        CHECK(std::equal(seen.begin(), seen.end(), numbers.begin(), numbers.end()));
      }
    });
  }

  TEST_CASE("messages are forwarded from channel to channel, and back over the same link") {
    linked ends(transport::unix_socket, {.threads = 2});
    std::vector<std::size_t> sizes;
    for (std::size_t i = 0; i < 300; ++i) sizes.push_back(i * 997 % 200'000);
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      all.spawn(forward(ends.server.stream(), ends.server.bulk()));
      all.spawn(send_patterns(ends.client.stream(), sizes));
      co_await expect_patterns(ends.client.bulk(), sizes);
      co_await ends.client.stream().finish();
      const auto end = co_await ends.client.bulk().recv();
      CHECK_FALSE(end.has_value());
    });
  }

  TEST_CASE("who holds messages slows only their sender") {
    for (const bool elsewhere : {false, true}) {
      linked ends(transport::unix_socket, {.threads = 2});
      constexpr std::uint64_t count = 600;
      std::vector<hawser::message> held;
      std::atomic<bool> all_sent{false};
      std::thread sender([&] {
        hawser::run(ends.runtime,
                    [&] { return send_numbered(ends.client.stream(), 0, count, 8000); });
        all_sent = true;
      });
      // 1 MiB of window and 8 KiB each: about 130 fit.
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        held = co_await take(ends.server.stream(), 100);
        all.spawn(echo(ends.server.rpc()));
        co_await ask_and_finish(ends.client.rpc(), 20);
      });
      CHECK_FALSE(all_sent.load());
      if (elsewhere) {
        std::thread([&] { held.clear(); }).join();
      } else {
        hawser::run(ends.runtime, [&]() -> task<void> {
          held.clear();
          co_return;
        });
      }
      hawser::run(ends.runtime, [&]() -> task<void> {
        for (std::uint64_t i = 100; i < count; ++i) {
          const auto message = co_await ends.server.stream().recv();
          CHECK(message->id() == i);
        }
      });
      sender.join();
    }
  }

  TEST_CASE("a message outlives its link and its runtime") {
    std::vector<hawser::message> held;
    {
      linked ends(transport::tcp);
      hawser::run(ends.runtime, [&]() -> task<void> {
        for (std::size_t i = 0; i < 20; ++i) {
          co_await ends.client.stream().send(test::make_pattern(i, i * i * 200));
        }
        held = co_await take(ends.server.stream(), 20);
      });
    }
    for (std::size_t i = 0; i < held.size(); ++i) {
      CHECK(test::is_pattern(held[i], i, i * i * 200));
    }
  }

  TEST_CASE("a tiny budget of pinned blocks only costs copies") {
    for (const std::size_t budget : {std::size_t{0}, std::size_t{100'000}}) {
      linked ends(transport::tcp, {.client = {.pinned_bytes = budget},
                                   .server = {.link = {.pinned_bytes = budget}}});
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        all.spawn(send_numbered(ends.client.stream(), 0, 2000, 200));
        const auto held = co_await take(ends.server.stream(), 2000);
        for (std::size_t i = 0; i < held.size(); ++i) CHECK(test::is_pattern(held[i], i, 200));
      });
    }
  }

  TEST_CASE("a tiny budget of reassembly lets large messages through, one after the other") {
    linked ends(transport::tcp, {.server = {.link = {.reassembly_bytes = 1 << 20}}});
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      for (const auto kind : {priority::rpc, priority::stream, priority::bulk}) {
        all.spawn(send_patterns(ends.client.at(kind), {3'000'000, 900'000, 5'000'000}));
        all.spawn(expect_patterns(ends.server.at(kind), {3'000'000, 900'000, 5'000'000}));
      }
      co_return;
    });
  }

  TEST_CASE("channels get sockets of their own when they are used") {
    for (const auto over : test::socket_transports) {
      CAPTURE(test::name_of(over));
      linked ends(over, {.threads = 2});
      CHECK(ends.client.sockets() == 1);
      hawser::run(ends.runtime, [&] {
        return carry_patterns(ends.client.control(), ends.server.control(), {1});
      });
      unsigned expected = 1;
      for (const auto kind : {priority::bulk, priority::rpc, priority::stream}) {
        ++expected;
        hawser::run(ends.runtime, [&] {
          return carry_patterns(ends.client.at(kind), ends.server.at(kind), {100'000, 1, 5});
        });
        test::wait_until(ends.runtime, [&] {
          return ends.client.sockets() == expected && ends.server.sockets() == expected;
        });
        hawser::run(ends.runtime, [&] {
          return carry_patterns(ends.server.at(kind), ends.client.at(kind), {100'000, 1, 5});
        });
      }
      CHECK(ends.client.sockets() == 4);
    }
  }

  TEST_CASE("a socket that all channels share is tuned once its first words have left") {
    linked ends(transport::tcp, {.client = {.channels = 1}});
    hawser::run(ends.runtime, [&] { return ask_once(ends.client.rpc(), ends.server.rpc()); });
    std::vector<tuning> found = tunings_of_connections();
    std::ranges::sort(found);
    CHECK(found == std::vector<tuning>{{1, 0}, {1, 128 << 10}});  // the client wants one socket
  }

  TEST_CASE("either side may keep all channels on one socket") {
    for (const bool by_client : {false, true}) {
      test::habits how;
      (by_client ? how.client : how.server.link).channels = 1;
      linked ends(transport::tcp, how);
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        for (const auto kind : kinds) {
          all.spawn(send_patterns(ends.client.at(kind), {1, 60'000, 3}));
          all.spawn(expect_patterns(ends.server.at(kind), {1, 60'000, 3}));
        }
        co_return;
      });
      CHECK(ends.client.sockets() == 1);
      CHECK(ends.server.sockets() == 1);
    }
  }

  TEST_CASE("channels stay on one socket when nobody listens any more") {
    for (const auto over : test::socket_transports) {
      CAPTURE(test::name_of(over));
      linked ends(over);
      {
        const auto gone = std::move(ends.listener);
      }
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        // Let the listener go first.
        co_await hawser::this_task::sleep_for(20ms);
        for (const auto kind : {priority::rpc, priority::stream, priority::bulk}) {
          all.spawn(send_patterns(ends.client.at(kind), {1, 60'000, 3, 500'000}));
          all.spawn(expect_patterns(ends.server.at(kind), {1, 60'000, 3, 500'000}));
        }
        co_return;
      });
      CHECK(ends.client.sockets() == 1);
      CHECK(ends.server.sockets() == 1);
      test::wait_until(ends.runtime, [&] {
        return test::has_event(ends.log, "link", {"channel 3"});
      });
    }
  }

  TEST_CASE("both ends count the same messages") {
    linked ends(transport::tcp, {.threads = 2});
    for (const auto kind : kinds) {
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        all.spawn(send_numbered(ends.client.at(kind), 0, 100, 500));
        const auto taken = co_await take(ends.server.at(kind), 100);
        CHECK(taken.size() == 100);
      });
      hawser::run(ends.runtime,
                  [&] { return expect_counts(ends.client.at(kind), ends.server.at(kind), 100); });
      CHECK(ends.client.at(kind).kind() == kind);
    }
  }

  TEST_CASE("shared bytes are sent to several without a copy") {
    linked ends(transport::tcp);
    hawser::run(ends.runtime, [&]() -> task<void> {
      const hawser::shared_buffer shared(test::make_pattern(3, 100'000));
      for (const auto kind : {priority::stream, priority::bulk}) {
        co_await ends.client.at(kind).send(shared);
        co_await ends.client.at(kind).send(shared.slice(10, 5));
        const auto whole = co_await ends.server.at(kind).recv();
        CHECK(test::is_pattern(*whole, 3, 100'000));
        const auto part = co_await ends.server.at(kind).recv();
        CHECK(std::equal(part->bytes().begin(), part->bytes().end(), shared.data() + 10));
        CHECK(part->size() == 5);
      }
    });
  }

  TEST_CASE("an empty handle says so, and a copy is the same link") {
    const hawser::link none;
    CHECK_FALSE(static_cast<bool>(none));
    linked ends(transport::unix_socket);
    const hawser::link copy = ends.client;
    CHECK(&copy.rpc() == &ends.client.rpc());
    CHECK(copy.peer().find("unix:") == 0);
    CHECK(ends.server.peer().find("uid") != std::string::npos);
  }
}
