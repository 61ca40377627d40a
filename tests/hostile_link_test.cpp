// SPDX-License-Identifier: Apache-2.0
// What a peer can do to a real listener and its links: each attack ends in a named error, and
// other links, memory and descriptors are as before.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/environment.hpp"
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

task<void> ping(hawser::link from, hawser::link to) {
  for (auto* const way : {&from, &to}) {
    auto& other = way == &from ? to : from;
    co_await way->rpc().send("ping");
    const auto got = co_await other.rpc().recv();
    CHECK(got.has_value());
    if (got.has_value()) CHECK(got->text() == "ping");
  }
}

// A listener with a link that must not notice what happens around it.
class besieged : public linked {
 public:
  explicit besieged(transport over, const test::habits& chosen = {},
                    const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : linked(over, chosen, 60s, file, line), sockets_(over == transport::shared_memory ? 1 : 2) {
    hawser::run(runtime, ping, client, server);
    test::wait_until(
        runtime, [this] { return client.sockets() == sockets_ && server.sockets() == sockets_; });
    descriptors_ = test::open_descriptors();
  }

  hawser::link accept() { return hawser::sync_wait(runtime, listener.accept()); }

  /// After all attackers are gone.
  void expect_unharmed() {
    hawser::run(runtime, ping, client, server);
    test::wait_until(runtime, [this] { return test::open_descriptors() == descriptors_; });
    CHECK(client.sockets() == sockets_);
  }

  void expect_event(std::initializer_list<std::string_view> texts) {
    test::wait_until(runtime, [&] { return test::has_event(log, "listener", texts); });
  }

 private:
  unsigned sockets_;  // of each end; rpc has one of its own
  std::size_t descriptors_ = 0;
};

constexpr std::array over_sockets{transport::tcp, transport::unix_socket};

hawser::failure end_of(besieged& ends, hawser::link attacked) {
  return hawser::run(ends.runtime, [&] { return attacked.ended(); });
}

std::string text_of_next(besieged& ends, hawser::channel& from) {
  const auto got = hawser::run(ends.runtime, [&] { return from.recv(); });
  return got.has_value() ? std::string(got->text()) : "(the end)";
}

bytes length_of(std::uint32_t length) {
  bytes made(wire::length_bytes);
  std::memcpy(made.data(), &length, sizeof(length));
  return made;
}

bytes random_bytes(std::mt19937_64& dice, std::size_t count) {
  bytes made(count);
  for (auto& each : made) each = static_cast<std::byte>(dice());
  return made;
}

std::optional<wire::refusal> refusal_of(raw_socket& from) {
  const auto frame = from.next();
  if (!frame.has_value() || frame->kind != wire::kind::refuse) return std::nullopt;
  return wire::decode_refusal(frame->header);
}

// Fewer descriptors for this process, for a while.
class lowered_limit {
 public:
  explicit lowered_limit(std::size_t descriptors) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    rlimit low = before_;
    low.rlim_cur = descriptors;
    ::setrlimit(RLIMIT_NOFILE, &low);
  }
  ~lowered_limit() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  lowered_limit(const lowered_limit&) = delete;
  lowered_limit& operator=(const lowered_limit&) = delete;

 private:
  rlimit before_{};
};

// The next thing the link says about its end, and the end of its socket.
std::optional<errc> last_words(raw_socket& from) {
  const auto frame = from.next(wire::kind::close);
  const auto said = frame.has_value() ? wire::decode_close(frame->header) : std::nullopt;
  from.read_to_end();
  if (!said.has_value()) return std::nullopt;
  return static_cast<errc>(said->code);
}

}  // namespace

TEST_SUITE("hostile_link") {
  TEST_CASE("garbage instead of a hello is turned away") {
    std::mt19937_64 dice(test::seed());
    for (const auto over : over_sockets) {
      besieged ends(over);
      for (int round = 0; round < 50; ++round) {
        raw_socket attacker(ends.listener.uri());
        attacker.send(random_bytes(dice, 1 + dice() % 5000));
        attacker.finish_writing();
        attacker.read_to_end();
      }
      raw_socket browser(ends.listener.uri());
      browser.send(test::bytes_of("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"));
      browser.read_to_end();
      browser.close();
      ends.expect_event({"the first frame is no handshake"});
      ends.expect_unharmed();
    }
  }

  TEST_CASE("a first frame that is neither hello nor attach is refused by name") {
    besieged ends(transport::tcp);
    raw_socket attacker(ends.listener.uri());
    attacker.send(wire::encode_token(wire::kind::ping, 1));
    const auto said = refusal_of(attacker);
    CHECK(said.has_value());
    if (said.has_value()) CHECK(said->code == errc::protocol_violation);
    attacker.close();
    ends.expect_event({"refused tcp://127.0.0.1", "no hello and no attach"});
    ends.expect_unharmed();
  }

  TEST_CASE("a hello that is cut short ends with its connection") {
    for (const auto over : over_sockets) {
      besieged ends(over);
      const auto hello = wire::encode(test::make_hello());
      for (std::size_t cut = 0; cut < hello.size(); cut += 7) {
        raw_socket attacker(ends.listener.uri());
        attacker.send(std::span(hello).first(cut));
      }
      ends.expect_event({"hung up before the first frame"});
      ends.expect_unharmed();
    }
  }

  TEST_CASE("a first frame that claims to be huge is not waited for") {
    besieged ends(transport::unix_socket);
    for (const std::uint32_t length : {0U, 1U, 5000U, 0x7fffffffU, 0xffffffffU}) {
      raw_socket attacker(ends.listener.uri());
      attacker.send(length_of(length));
      attacker.send(length_of(0));
      if (length > 1) attacker.read_to_end();
    }
    ends.expect_unharmed();
  }

  TEST_CASE("one that connects and says nothing is cut off after handshake_timeout") {
    for (const auto over : over_sockets) {
      besieged ends(over, {.server = {.link = {.handshake_timeout = 60ms}}});
      const auto start = hawser::clock::now();
      std::vector<raw_socket> attackers;
      for (int i = 0; i < 20; ++i) attackers.emplace_back(ends.listener.uri());
      hawser::run(ends.runtime, ping, ends.client, ends.server);
      for (auto& each : attackers) each.read_to_end();
      CHECK(hawser::clock::now() - start >= 60ms);
      attackers.clear();
      ends.expect_event({"handshake with ", "no first frame in time"});
      ends.expect_unharmed();
    }
  }

  TEST_CASE("a hello a byte at a time is a hello, if it is in time") {
    besieged ends(transport::tcp);
    {
      raw_socket slow(ends.listener.uri());
      for (const auto& each : wire::encode(test::make_hello())) slow.send({&each, 1});
      CHECK(slow.next(wire::kind::welcome).has_value());
      static_cast<void>(ends.accept());
    }
    ends.expect_unharmed();
  }

  TEST_CASE("what comes with a hello or behind an attach belongs to the link, wherever it is cut") {
    for (const auto over : over_sockets) {
      besieged ends(over);
      const auto hello = test::make_hello();
      const auto question = test::data_frame({1}, test::bytes_of("question"));
      const auto all = wire::encode(hello) + question + question;
      for (std::size_t left = 0; left <= 2 * question.size(); left += 8) {
        CAPTURE(left);
        raw_socket eager(ends.listener.uri());
        eager.send(std::span(all).first(all.size() - left));
        const auto answer = eager.next(wire::kind::welcome);
        REQUIRE(answer.has_value());
        const auto welcome = wire::decode_welcome(answer->header);
        REQUIRE(welcome.has_value());
        eager.send(std::span(all).last(left));
        const auto link = ends.accept();
        CHECK(text_of_next(ends, link.rpc()) == "question");
        CHECK(text_of_next(ends, link.rpc()) == "question");

        raw_socket attached(ends.listener.uri());
        attached.send(wire::encode(wire::attach{hello.link_id, welcome->attach_secret, 2}) +
                      test::data_frame({2}, test::bytes_of("more")));
        CHECK(attached.next(wire::kind::attached).has_value());
        eager.send(wire::encode_moved(2, 2, 1, 1));
        CHECK(text_of_next(ends, link.stream()) == "more");
      }
      ends.expect_unharmed();
    }
  }

  TEST_CASE("more connections than the backlog that say nothing are turned away") {
    besieged ends(transport::unix_socket, {.server = {.backlog = 4}});
    {
      std::vector<raw_socket> attackers;
      for (int i = 0; i < 5; ++i) {
        attackers.emplace_back(ends.listener.uri());
        hawser::run(ends.runtime, ping, ends.client, ends.server);
      }
      ends.expect_event({"too many connections that say nothing yet"});
    }
    ends.expect_unharmed();
  }

  TEST_CASE("a version that nobody speaks, and a link to resume, are refused by name") {
    besieged ends(transport::tcp);
    {
      auto future = test::make_hello();
      future.lowest = future.highest = 99;
      raw_socket first(ends.listener.uri());
      first.send(wire::encode(future));
      const auto said = refusal_of(first);
      CHECK(said.has_value());
      if (said.has_value()) CHECK(said->code == errc::unsupported);
      auto resuming = test::make_hello();
      resuming.resume_secret.emplace();
      raw_socket second(ends.listener.uri());
      second.send(wire::encode(resuming));
      const auto answer = refusal_of(second);
      CHECK(answer.has_value());
      if (answer.has_value()) CHECK(answer->code == errc::refused);
    }
    ends.expect_event({"refused", "no common version"});
    ends.expect_unharmed();
  }

  TEST_CASE("a link id that exists is refused, and the link that has it is unharmed") {
    besieged ends(transport::tcp);
    {
      const raw_link first(ends.listener.uri());
      const auto accepted = ends.accept();
      raw_socket second(ends.listener.uri());
      second.send(wire::encode(first.hello));
      second.read_to_end();
      ends.expect_event({"a link with this id exists"});
      CHECK(accepted.sockets() == 1);
    }
    ends.expect_unharmed();
  }

  TEST_CASE("what breaks the rules on an open link ends that link with a reason") {
    struct attack {
      const char* name;
      bytes what;
      errc reason;
    };
    const auto first_of_rpc = [](std::uint64_t flags, std::uint64_t total, std::size_t payload) {
      wire::data_header header;
      header.channel = 1;
      header.flags = flags;
      header.total = total;
      return test::data_frame(header, bytes(payload));
    };
    bytes flood;
    for (int i = 0; i < 6; ++i) flood = std::move(flood) + first_of_rpc(0, 0, 60'000);
    const std::vector<attack> attacks{
        {"a huge length", length_of(0xfffffff0) + bytes(4), errc::too_large},
        {"no header", test::frame_of(test::bytes_of("garbage!")), errc::protocol_violation},
        {"a second hello", wire::encode(test::make_hello()), errc::protocol_violation},
        {"a message above the limit", first_of_rpc(wire::flag::continued, 1ULL << 40, 20'000),
         errc::too_large},
        {"more than its credit", flood, errc::protocol_violation},
        {"a slice too small", first_of_rpc(wire::flag::continued, 1 << 20, 10),
         errc::protocol_violation},
        {"closed without close", wire::encode_closed({}, {}), errc::protocol_violation},
        {"moved without a pipe", wire::encode_moved(3, 3, 1, 1), errc::protocol_violation},
    };
    for (const auto over : over_sockets) {
      besieged ends(over);
      for (const auto& each : attacks) {
        CAPTURE(each.name);
        raw_link attacker(ends.listener.uri());
        const auto attacked = ends.accept();
        attacker.socket.send(each.what);
        const auto why = end_of(ends, attacked);
        CHECK(why.code() == each.reason);
        CHECK_FALSE(why.detail().empty());
        CHECK(last_words(attacker.socket) == each.reason);
        const auto late = test::outcome_of([&] {
          hawser::run(ends.runtime, [&]() -> task<void> { co_await attacked.bulk().send("late"); });
        });
        CHECK(late.error().code() == errc::link_lost);
        CHECK(late.error().text().find(why.detail()) != std::string::npos);
      }
      ends.expect_unharmed();
    }
  }

  TEST_CASE("random bytes on open links never harm others") {
    std::mt19937_64 dice(test::seed());
    besieged ends(transport::unix_socket, {.threads = 2});
    for (int round = 0; round < 100; ++round) {
      raw_link attacker(ends.listener.uri());
      const auto attacked = ends.accept();
      auto frame = dice() % 2 == 0 ? test::data_frame({dice() % 4}, random_bytes(dice, 100))
                                   : wire::encode_token(wire::kind::ping, dice());
      frame[dice() % frame.size()] = static_cast<std::byte>(dice());
      attacker.socket.send(frame);
      attacker.socket.send(random_bytes(dice, dice() % 3000));
      attacker.socket.close();
      CHECK(end_of(ends, attacked).code() != errc::closed);
    }
    ends.expect_unharmed();
  }

  TEST_CASE("a frame that is cut by the end of the connection is no message") {
    besieged ends(transport::tcp);
    {
      raw_link attacker(ends.listener.uri());
      auto attacked = ends.accept();
      const auto whole = test::data_frame({1}, bytes(100));
      attacker.socket.send(whole);
      attacker.socket.send(std::span(whole).first(50));
      attacker.socket.close();
      hawser::run(ends.runtime, [&]() -> task<void> {
        const auto first = co_await attacked.rpc().recv();
        CHECK(first->size() == 100);
        auto second = co_await hawser::as_result(attacked.rpc().recv());
        CHECK(second.error().code() == errc::link_lost);
        CHECK(second.error().text().find("gone without closing") != std::string::npos);
      });
      CHECK(attacked.rpc().counts().received == 1);
    }
    ends.expect_unharmed();
  }

  TEST_CASE("a peer that stops reading costs no more than the queue, and no other link waits") {
    constexpr std::size_t queue = 1 << 20;
    besieged ends(transport::tcp, {.server = {.link = {.queue_bytes = queue,
                                                       .close_timeout = 100ms}}});
    {
      raw_link mute(ends.listener.uri(), test::make_hello(1ULL << 30));
      auto attacked = ends.accept();
      constexpr std::size_t each = 60'000;
      hawser::channel_counts counts;
      const auto send_forever = [](hawser::link to) -> task<void> {
        while (true) co_await to.stream().send(test::make_pattern(0, each));
      };
      const auto stuck = test::outcome_of([&] {
        hawser::run(ends.runtime, [&]() -> task<void> {
          auto sent = co_await hawser::as_result(hawser::timeout(100ms, send_forever(attacked)));
          counts = attacked.stream().counts();  // sending has led to the link's home
          sent.value();
        });
      });
      CHECK(stuck.error().code() == errc::timed_out);
      CHECK((counts.accepted - counts.sent) * each <= queue + (1 << 20));
      hawser::run(ends.runtime, ping, ends.client, ends.server);
      mute.socket.close();
      const auto why = end_of(ends, attacked);
      CHECK(why.code() == errc::link_lost);
      CHECK(attacked.stream().counts().consumed == 0);
    }
    ends.expect_unharmed();
  }

  TEST_CASE("an attach with a wrong secret is refused") {
    for (const auto over : over_sockets) {
      besieged ends(over);
      {
        const raw_link peer(ends.listener.uri());
        const auto accepted = ends.accept();
        for (std::size_t i = 0; i < peer.welcome.attach_secret.size(); ++i) {
          auto guessed = peer.welcome.attach_secret;
          guessed[i] ^= std::byte{1};
          raw_socket attacker(ends.listener.uri());
          attacker.send(wire::encode(wire::attach{peer.hello.link_id, guessed, 1}));
          const auto said = refusal_of(attacker);
          CHECK(said.has_value());
          if (said.has_value()) CHECK(said->code == errc::unauthorized);
        }
        raw_socket stranger(ends.listener.uri());
        stranger.send(wire::encode(wire::attach{{}, peer.welcome.attach_secret, 1}));
        const auto said = refusal_of(stranger);
        CHECK(said.has_value());
        if (said.has_value()) CHECK(said->code == errc::unauthorized);
        CHECK(accepted.sockets() == 1);
      }
      ends.expect_event({"refused an attach", "without its link or secret"});
      ends.expect_unharmed();
    }
  }

  TEST_CASE("a channel is attached once, and the control channel never") {
    besieged ends(transport::tcp);
    {
      const raw_link peer(ends.listener.uri());
      const auto accepted = ends.accept();
      const auto attach = [&](std::uint64_t channel) {
        raw_socket made(ends.listener.uri());
        made.send(wire::encode(
            wire::attach{peer.hello.link_id, peer.welcome.attach_secret, channel}));
        return made;
      };
      auto first = attach(2);
      const auto answer = first.next();
      CHECK(answer.has_value());
      if (answer.has_value()) CHECK(answer->kind == wire::kind::attached);
      for (const std::uint64_t channel : {2, 0}) {
        CAPTURE(channel);
        auto again = attach(channel);
        const auto said = refusal_of(again);
        CHECK(said.has_value());
        if (said.has_value()) CHECK(said->code == errc::refused);
      }
      attach(7).read_to_end();
      CHECK(accepted.sockets() == 2);
    }
    ends.expect_event({"channel 2 cannot have another socket"});
    ends.expect_unharmed();
  }

  // The limit is lowered before anything is listened on: io_uring keeps that of the submission.
  TEST_CASE("without descriptors accepting waits, and goes on once there are some") {
    for (const auto over : over_sockets) {
      const lowered_limit limit(test::open_descriptors() + 60);
      besieged ends(over);
      {
        // Clang's undefined-behaviour sanitizer needs descriptors when it first sees a type.
        static_cast<void>(std::make_error_code(std::errc::too_many_files_open).message());
        static_cast<void>(std::error_code(EMFILE, std::system_category()).message());
        std::vector<raw_socket> attackers, spare;
        for (int i = 0; i < 4; ++i) {
          attackers.push_back(raw_socket::unconnected(ends.listener.uri()));
        }
        while (true) {
          const int another = ::dup(0);
          if (another < 0) break;
          spare.emplace_back(another);
        }
        for (auto& each : attackers) each.connect(ends.listener.uri());
        ends.expect_event({"accepting waits"});
        hawser::run(ends.runtime, ping, ends.client, ends.server);
        const auto refused = test::outcome_of([&] {
          hawser::sync_wait(ends.runtime, hawser::connect(ends.listener.uri()));
        });
        CHECK(refused.error().code() == errc::unreachable);
        spare.clear();
        hawser::link late, accepted;
        ends.connect(late, accepted);
        hawser::run(ends.runtime, ping, late, accepted);
      }
      CHECK(ends.log.count(hawser::log_level::error) == 0);
      ends.expect_unharmed();
    }
  }

  TEST_CASE("a thousand links opened and closed from both ends leave nothing behind") {
    for (const auto over : test::transports) {
      std::mt19937_64 dice(test::seed());
      besieged ends(over, {.threads = 2});
      std::vector<std::array<hawser::link, 2>> open;
      for (int i = 0; i < 340; ++i) {
        auto& both = open.emplace_back();
        ends.connect(both[0], both[1]);
        if (dice() % 2 == 0) {
          auto& from = both[dice() % 2];
          hawser::run(ends.runtime, [&]() -> task<void> {
            auto sent = co_await hawser::as_result(from.bulk().send("hello"));
            CHECK(sent.has_value());
          });
        }
        while (open.size() > dice() % 10) {
          const std::size_t chosen = dice() % open.size();
          std::swap(open[chosen], open.back());
          if (dice() % 2 == 0) {
            hawser::run(ends.runtime, [&] { return open.back()[dice() % 2].close(); });
          }
          open.back()[dice() % 2] = {};
          open.pop_back();
        }
      }
      open.clear();
      test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 2; });
      ends.expect_unharmed();
    }
  }
}
