// SPDX-License-Identifier: Apache-2.0
#include "os/reactor.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/errc.hpp"
#include "support/child.hpp"
#include "support/environment.hpp"
#include "support/folder.hpp"
#include "support/reactors.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::platform::io_slice;
using hawser::platform::native_handle;
using notice = hawser::stream::notice;
using test::guarded_reactor;
using test::listen_anywhere;
using test::slice_of;
using test::tcp_pair;
using test::turn_until;
using test::waiting;
namespace platform = hawser::platform;

constexpr auto long_time = 30s;

std::string pattern(std::size_t bytes, unsigned salt = 0) {
  std::string text(bytes, '\0');
  unsigned state = 12345 + salt;
  for (char& each : text) {
    state = state * 1664525 + 1013904223;
    each = static_cast<char>(state >> 24);
  }
  return text;
}

// Bytes of messages: four bytes of length, then the rest, which goes to memory of its own from the
// length on, as a link does it. With `direct_from` above all lengths everything comes in blocks.
class reader : public hawser::stream_events {
 public:
  explicit reader(std::size_t direct_from = ~std::size_t{0}) : direct_from_(direct_from) {}

  std::span<std::byte> direct_space() noexcept override {
    if (!message_open_ || missing() < direct_from_) return {};
    return {reinterpret_cast<std::byte*>(message_.data()) + filled_, missing()};
  }
  void on_direct(std::size_t bytes) noexcept override {
    ++directs;
    direct_bytes += bytes;
    total += bytes;
    filled_ += bytes;
    finish_message();
  }
  void on_block(hawser::detail::block* filled, std::size_t bytes) noexcept override {
    ++blocks;
    total += bytes;
    const auto* at = reinterpret_cast<const char*>(filled->data());
    if (framed) {
      parse(std::string_view(at, bytes));
    } else {
      text.append(at, bytes);
    }
    hawser::detail::release(filled);
    if (action) action();
  }
  void on_end(std::error_code why) noexcept override {
    CHECK_FALSE(ended);
    CHECK_FALSE(closed);
    ended = true;
    error = why;
  }
  void on_written(std::error_code why) noexcept override {
    CHECK_FALSE(closed);
    ++written;
    write_error = why;
  }
  void on_closed() noexcept override {
    CHECK_FALSE(closed);
    closed = true;
  }

  bool framed = false;
  std::string text;
  std::vector<std::string> messages;
  std::size_t total = 0, direct_bytes = 0;
  unsigned blocks = 0, directs = 0, written = 0;
  bool ended = false, closed = false;
  std::error_code error, write_error;
  std::function<void()> action;

 private:
  [[nodiscard]] std::size_t missing() const { return message_.size() - filled_; }
  void finish_message() {
    if (!message_open_ || missing() != 0) return;
    messages.push_back(std::move(message_));
    message_.clear();
    filled_ = 0;
    message_open_ = false;
  }
  void parse(std::string_view bytes) {
    while (!bytes.empty()) {
      if (!message_open_) {
        const auto taken = std::min(bytes.size(), 4 - length_.size());
        length_.append(bytes.substr(0, taken));
        bytes.remove_prefix(taken);
        if (length_.size() < 4) return;
        std::uint32_t length = 0;
        std::memcpy(&length, length_.data(), 4);
        length_.clear();
        message_.assign(length, '\0');
        message_open_ = true;
      }
      const auto taken = std::min(bytes.size(), missing());
      std::memcpy(message_.data() + filled_, bytes.data(), taken);
      filled_ += taken;
      bytes.remove_prefix(taken);
      finish_message();
    }
  }

  std::size_t direct_from_;
  std::string length_, message_;
  std::size_t filled_ = 0;
  bool message_open_ = false;
};

std::string framed(std::string_view payload) {
  const auto length = static_cast<std::uint32_t>(payload.size());
  std::string text(4, '\0');
  std::memcpy(text.data(), &length, 4);
  return text.append(payload);
}

// A stream that ends in order with the test.
class peer final : public reader {
 public:
  peer(hawser::reactor& home, native_handle socket, std::size_t direct_from = ~std::size_t{0})
      : reader(direct_from), home_(home), stream_(home.open(socket, *this)) {}
  ~peer() { close(); }

  void start() { stream_->start_reading(); }
  void write(std::string_view bytes) {
    const auto slice = slice_of(bytes);
    write({&slice, 1});
  }
  void write(std::span<const io_slice> slices, notice when = notice::soon) {
    if (stream_->write(slices, when)) on_written({});
  }
  void close() {
    stream_->close();
    turn_until(home_, [this] { return closed; });
  }
  hawser::stream& stream() { return *stream_; }

 private:
  hawser::reactor& home_;
  std::unique_ptr<hawser::stream> stream_;
};

class gate final : public hawser::accept_events {
 public:
  gate(hawser::reactor& home, native_handle socket)
      : home_(home), acceptor_(home.listen(socket, *this)) {}
  ~gate() {
    acceptor_->close();
    turn_until(home_, [this] { return closed; });
    for (const auto each : accepted) platform::close(each);
  }
  void on_accept(native_handle socket) noexcept override { accepted.push_back(socket); }
  void on_accept_failed(std::error_code why) noexcept override { failures.push_back(why); }
  void on_closed() noexcept override { closed = true; }
  void start() { acceptor_->start(); }

  std::vector<native_handle> accepted;
  std::vector<std::error_code> failures;
  bool closed = false;

 private:
  hawser::reactor& home_;
  std::unique_ptr<hawser::acceptor> acceptor_;
};

native_handle connect_to(hawser::reactor& home, native_handle listener) {
  bool pending = false;
  std::error_code error;
  const auto socket = platform::start_connect(platform::local_address(listener), pending, error);
  REQUIRE_FALSE(error);
  if (pending) {
    waiting writable;
    home.wait(socket, hawser::readiness::kind::writable, writable);
    turn_until(home, [&] { return writable.outcome.has_value(); });
  }
  REQUIRE_FALSE(platform::finish_connect(socket));
  return socket;
}

}  // namespace

TEST_SUITE("reactor") {
  TEST_CASE("bytes arrive in order, in both directions, over a pair of unix sockets") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer one(*reactor, left), two(*reactor, right);
    one.start();
    two.start();

    one.write("hello");
    two.write("goodbye");
    turn_until(*reactor, [&] { return one.total == 7 && two.total == 5; });
    turn_until(*reactor, [&] { return one.written == 1 && two.written == 1; });

    CHECK(two.text == "hello");
    CHECK(one.text == "goodbye");
    CHECK_FALSE(one.write_error);
  }

  TEST_CASE("a thousand round trips over tcp") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [ours, theirs] = tcp_pair();
    peer client(*reactor, ours), server(*reactor, theirs);
    client.start();
    server.start();

    for (unsigned i = 1; i <= 1000; ++i) {
      client.write("ping!");
      turn_until(*reactor, [&] { return server.total == 5 * i && client.written == i; });
      server.write("pong");
      turn_until(*reactor, [&] { return client.total == 4 * i && server.written == i; });
    }

    CHECK(reactor->counters().bytes_read == 9000);
    CHECK(reactor->counters().bytes_written == 9000);
    CHECK(reactor->counters().system_calls > 0);
  }

  TEST_CASE("a large message is read into the owner's memory, and small ones around it in blocks") {
    const guarded_reactor reactor(60s);
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer writer(*reactor, left), target(*reactor, right, 16 << 10);
    target.framed = true;
    target.start();
    std::vector<std::string> sent;
    std::string all;
    for (unsigned i = 0; i < 40; ++i) {
      sent.push_back(pattern(i % 4 == 3 ? (1 << 20) + i : 100 * i, i));
      all += framed(sent.back());
    }

    writer.write(all);
    turn_until(*reactor, [&] { return target.messages.size() == sent.size() && writer.written; });

    CHECK(target.messages == sent);
    CHECK(target.direct_bytes > all.size() / 4);
  }

  TEST_CASE("a write larger than the socket's buffer is reported once, when all has left") {
    const guarded_reactor reactor(60s);
    if (!reactor) return;
    const auto [ours, theirs] = tcp_pair();
    peer writer(*reactor, ours), target(*reactor, theirs);
    const auto part = pattern(200'001);
    std::vector<io_slice> slices(hawser::stream::max_slices, slice_of(part));

    writer.write(slices);
    for (int i = 0; i < 20; ++i) reactor->turn(0s);
    CHECK(writer.written == 0);
    target.start();
    turn_until(*reactor, [&] { return writer.written == 1; });
    turn_until(*reactor, [&] { return target.total == part.size() * slices.size(); });

    CHECK_FALSE(writer.write_error);
    std::string expected;
    for (std::size_t i = 0; i < slices.size(); ++i) expected += part;
    CHECK(target.text == expected);
    writer.write("more");
    turn_until(*reactor, [&] { return writer.written == 2; });
  }

  TEST_CASE("a write says that all is with the system, or it is reported by a later turn") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer writer(*reactor, left), target(*reactor, right);
    target.start();

    const auto slice = slice_of("x");
    const bool done = writer.stream().write({&slice, 1}, notice::soon);

    CHECK(writer.written == 0);
    if (!done) turn_until(*reactor, [&] { return writer.written == 1; });
    turn_until(*reactor, [&] { return target.text == "x"; });
  }

  TEST_CASE("late notices: many streams write, all arrives, and each is reported once") {
    const guarded_reactor reactor;
    if (!reactor) return;
    struct couple {
      explicit couple(hawser::reactor& home) : couple(home, platform::socket_pair()) {}
      couple(hawser::reactor& home, std::pair<native_handle, native_handle> ends)
          : writer(home, ends.first), target(home, ends.second) {
        target.start();
      }
      peer writer, target;
    };
    std::deque<couple> couples;
    for (unsigned i = 0; i < 20; ++i) couples.emplace_back(*reactor);
    const auto text = pattern(3000);
    const auto slice = slice_of(text);

    for (unsigned round = 1; round <= 5; ++round) {
      for (auto& each : couples) each.writer.write({&slice, 1}, notice::late);
      reactor->turn(0s);
      for (const auto& each : couples) CHECK(each.writer.written == round);
      turn_until(*reactor, [&] {
        return std::ranges::all_of(
            couples, [&](auto& each) { return each.target.total == round * text.size(); });
      });
    }
    for (const auto& each : couples) {
      CHECK_FALSE(each.writer.write_error);
      CHECK(each.target.text.substr(4 * text.size()) == text);
    }
  }

  // Who is told that a write is done writes what comes next to the same place.
  TEST_CASE("a late notice of what was written in the midst of a turn comes when it has left") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer asking(*reactor, left), answering(*reactor, right);
    asking.start();
    answering.start();
    const auto question = slice_of("question");
    const auto answer = pattern(3000);
    std::string place;
    answering.action = [&] {
      const auto slice = slice_of(place = answer);
      answering.write({&slice, 1}, notice::late);
    };
    for (unsigned round = 1; round <= 20; ++round) {
      asking.write({&question, 1}, notice::late);
      turn_until(*reactor, [&] { return answering.written == round; });
      place.assign(place.size(), 'x');
      turn_until(*reactor,
                 [&] { return asking.written == round && asking.total == round * answer.size(); });
      CHECK(asking.text.substr((round - 1) * answer.size()) == answer);
    }
  }

  TEST_CASE("a late notice comes only when a write is whole, though the socket is full") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer writer(*reactor, left), target(*reactor, right);
    const auto flood = pattern(4 << 20);
    std::vector<io_slice> slices{slice_of(flood), slice_of("the end")};

    writer.write(slices, notice::late);
    for (int i = 0; i < 20; ++i) reactor->turn(0s);
    CHECK(writer.written == 0);
    target.start();
    turn_until(*reactor, [&] { return target.total == flood.size() + 7 && writer.written == 1; });

    CHECK_FALSE(writer.write_error);
    CHECK(target.text == flood + "the end");
  }

  TEST_CASE("a late notice says that a write has failed, as a soon one does") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer writer(*reactor, left);
    platform::close(right);
    const auto text = pattern(3000);
    const auto slice = slice_of(text);

    writer.write({&slice, 1}, notice::late);
    turn_until(*reactor, [&] { return writer.written == 1; });

    CHECK(writer.write_error == std::errc::broken_pipe);
  }

  TEST_CASE("a stream is closed while nothing was heard of its write yet") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    std::optional<peer> writer(std::in_place, *reactor, left);
    peer target(*reactor, right);
    const auto text = pattern(3000);
    const auto slice = slice_of(text);

    writer->write({&slice, 1}, notice::late);
    writer.reset();  // its end is waited for, and nothing else happens meanwhile
    target.start();
    turn_until(*reactor, [&] { return target.ended; });

    CHECK_FALSE(target.error);
    CHECK(text.compare(0, target.total, target.text) == 0);
  }

  TEST_CASE("the end of the stream comes after its bytes, without error") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer target(*reactor, right);
    {
      peer writer(*reactor, left);
      writer.write("last words");
      turn_until(*reactor, [&] { return writer.written == 1; });
    }

    target.start();
    turn_until(*reactor, [&] { return target.ended; });

    CHECK(target.text == "last words");
    CHECK_FALSE(target.error);
  }

  TEST_CASE("half-close: the end arrives, and the other direction goes on") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer one(*reactor, left), two(*reactor, right);
    one.start();
    two.start();

    platform::shut_down_writing(left);
    turn_until(*reactor, [&] { return two.ended; });
    two.write("still here");
    turn_until(*reactor, [&] { return one.total == 10; });

    CHECK_FALSE(two.error);
    CHECK_FALSE(one.ended);
  }

  TEST_CASE("a reset by the peer ends the stream with an error, and writing fails") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [ours, theirs] = tcp_pair();
    peer target(*reactor, theirs);
    target.start();
    target.write("unread");
    turn_until(*reactor, [&] { return target.written == 1; });

    ::close(static_cast<int>(ours));  // with unread bytes: tcp resets
    turn_until(*reactor, [&] { return target.ended; });
    target.write("nobody");
    turn_until(*reactor, [&] { return target.written == 2; });

    CHECK(target.error == std::errc::connection_reset);
    CHECK(target.write_error);
  }

  TEST_CASE("close abandons a read and a write, and on_closed is the last event") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    const auto flood = pattern(8 << 20);
    std::optional<peer> writer(std::in_place, *reactor, left);
    peer target(*reactor, right);
    writer->start();
    writer->write(flood);
    for (int i = 0; i < 10; ++i) reactor->turn(0s);

    writer->stream().close();
    CHECK_FALSE(writer->closed);
    turn_until(*reactor, [&] { return writer->closed; });
    const auto written = writer->written;
    writer.reset();
    target.start();
    turn_until(*reactor, [&] { return target.ended; });

    CHECK(written == 0);
    CHECK(target.total < flood.size());
    CHECK(flood.compare(0, target.total, target.text) == 0);
  }

  TEST_CASE("a stream that is closed behind a failed write waits for its read all the same") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer writer(*reactor, left);
    writer.start();
    reactor->turn(0s);  // the read is with the system
    REQUIRE(::shutdown(static_cast<int>(right), SHUT_RD) == 0);

    writer.write("nobody will read this");
    writer.stream().close();
    turn_until(*reactor, [&] { return writer.closed; });
    for (int i = 0; i < 5; ++i) reactor->turn(0s);  // nothing is heard of it any more

    CHECK(writer.written == 0);
    platform::close(right);
  }

  TEST_CASE("close inside an event of the stream is the last thing it does") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    peer writer(*reactor, left), target(*reactor, right);
    target.action = [&] { target.stream().close(); };
    target.start();

    const auto flood = pattern(400'000);
    writer.write(flood);
    turn_until(*reactor, [&] { return target.closed; });

    CHECK(target.blocks == 1);
    CHECK_FALSE(target.ended);
    target.action = nullptr;
  }

  TEST_CASE("a stream that was never started can be destroyed, or closed first") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    reader unused;
    reactor->open(left, unused).reset();
    peer other(*reactor, right);
    other.start();

    turn_until(*reactor, [&] { return other.ended; });

    CHECK_FALSE(other.error);
  }

  TEST_CASE("a hundred connections are accepted") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto listener = listen_anywhere();
    gate door(*reactor, listener);
    door.start();
    std::vector<native_handle> clients;

    for (int i = 0; i < 100; ++i) {
      clients.push_back(connect_to(*reactor, listener));
      turn_until(*reactor, [&] { return door.accepted.size() == clients.size(); });
    }

    CHECK(door.failures.empty());
    for (const auto each : clients) platform::close(each);
  }

  TEST_CASE("accepting without descriptors left fails, says so, and can be started again") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto listener = listen_anywhere();
    gate door(*reactor, listener);
    const auto client = connect_to(*reactor, listener);
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    const auto next_number = ::dup(0);
    ::close(next_number);
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(next_number);

    // io_uring looks at the limit when the accept is submitted, so it is lowered before.
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    door.start();
    while (door.failures.empty() && door.accepted.empty()) reactor->turn(long_time);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);

    REQUIRE(door.failures.size() == 1);
    CHECK(platform::is_exhaustion(door.failures.front()));
    door.start();
    turn_until(*reactor, [&] { return door.accepted.size() == 1; });
    platform::close(client);
  }

  TEST_CASE("wait reports that a handle is readable or writable, once, and leaves it open") {
    const guarded_reactor reactor;
    if (!reactor) return;
    std::array<int, 2> ends{};
    REQUIRE(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0);
    const auto [reading, writing] = ends;
    waiting readable, writable;

    reactor->wait(reading, hawser::readiness::kind::readable, readable);
    reactor->wait(writing, hawser::readiness::kind::writable, writable);
    turn_until(*reactor, [&] { return writable.outcome.has_value(); });
    CHECK_FALSE(readable.outcome);
    REQUIRE(::write(writing, "x", 1) == 1);
    turn_until(*reactor, [&] { return readable.outcome.has_value(); });

    CHECK_FALSE(*readable.outcome);
    CHECK_FALSE(*writable.outcome);
    char got = 0;
    CHECK(::read(reading, &got, 1) == 1);
    platform::close(reading);
    platform::close(writing);
  }

  TEST_CASE("a cancelled wait completes once, with an error") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [left, right] = platform::socket_pair();
    waiting readable;

    reactor->wait(left, hawser::readiness::kind::readable, readable);
    reactor->turn(0s);
    reactor->cancel_wait(readable);
    CHECK_FALSE(readable.outcome);
    turn_until(*reactor, [&] { return readable.outcome.has_value(); });
    reactor->cancel_wait(readable);
    reactor->turn(0s);

    CHECK(*readable.outcome == std::errc::operation_canceled);
    platform::close(left);
    platform::close(right);
  }

  // Who has cancelled may close the handle at once, before the wait has been told.
  TEST_CASE("a cancelled wait does not disturb the next handle with that number") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [first, first_peer] = platform::socket_pair();
    waiting cancelled, next;
    reactor->wait(first, hawser::readiness::kind::readable, cancelled);
    reactor->turn(0s);

    reactor->cancel_wait(cancelled);
    platform::close(first);
    const auto [second, second_peer] = platform::socket_pair();
    REQUIRE(second == first);
    reactor->wait(second, hawser::readiness::kind::readable, next);
    turn_until(*reactor, [&] { return cancelled.outcome.has_value(); });
    REQUIRE(::write(static_cast<int>(second_peer), "x", 1) == 1);
    turn_until(*reactor, [&] { return next.outcome.has_value(); });

    CHECK_FALSE(*next.outcome);
    for (const auto each : {first_peer, second, second_peer}) platform::close(each);
  }

  // A worker that ends waits for those that wait.
  TEST_CASE("a wait that could not begin is over") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [gone, peer] = platform::socket_pair();
    platform::close(gone);
    waiting refused;

    try {
      reactor->wait(gone, hawser::readiness::kind::readable, refused);
      turn_until(*reactor, [&] { return refused.outcome.has_value(); });
      CHECK(*refused.outcome);
    } catch (const std::system_error& error) {
      CHECK_FALSE(refused.outcome);
    }

    CHECK_FALSE(reactor->has_waits());
    platform::close(peer);
  }

  TEST_CASE("a turn waits for its limit when nothing happens, and not at all for zero") {
    const guarded_reactor reactor;
    if (!reactor) return;
    reactor->turn(0s);  // what was left from the start

    const auto start = hawser::clock::now();
    reactor->turn(20ms);

    CHECK(hawser::clock::now() - start >= 20ms);
  }

  TEST_CASE("a wake that came before the turn ends it at once") {
    const guarded_reactor reactor;
    if (!reactor) return;

    for (int i = 0; i < 100; ++i) {
      reactor->wake();
      reactor->wake();
      reactor->turn(long_time);
    }
  }

  // Method: each of two threads continues only when the other has been woken, so a lost wake stops
  // both.
  TEST_CASE("no wake from another thread is lost") {
    const guarded_reactor reactor(60s);
    if (!reactor) return;
    constexpr unsigned rounds = 5'000;
    std::atomic<unsigned> asked{0}, answered{0};

    std::thread other([&] {
      for (unsigned i = 1; i <= rounds; ++i) {
        asked.store(i);
        reactor->wake();
        while (answered.load() != i) std::this_thread::yield();
      }
    });
    for (unsigned i = 1; i <= rounds; ++i) {
      turn_until(*reactor, [&] { return asked.load() >= i; });
      answered.store(i);
    }
    other.join();
  }

  TEST_CASE("io_uring receives and accepts many times for one submission") {
    const guarded_reactor reactor;
    if (!reactor) return;
    const auto [ours, theirs] = tcp_pair();
    peer writer(*reactor, ours), target(*reactor, theirs);
    target.start();

    for (unsigned i = 1; i <= 100; ++i) {
      writer.write("x");
      turn_until(*reactor, [&] { return target.total == i && writer.written == i; });
    }

    if (test::backend() == "asio") {
      CHECK(reactor->counters().multishot == 0);
    } else {
      CHECK(reactor->counters().multishot >= 100);
    }
  }

  TEST_CASE("a connected socket reads on when other streams take all receive buffers") {
    const guarded_reactor reactor(60s);
    if (!reactor) return;
    const auto flood = pattern(3 << 20);
    std::vector<std::unique_ptr<peer>> writers, targets;
    for (unsigned i = 0; i < 8; ++i) {
      const auto [left, right] = platform::socket_pair();
      platform::apply(left, {.no_delay = false, .send_buffer_bytes = 4 << 20});
      writers.push_back(std::make_unique<peer>(*reactor, left));
      targets.push_back(std::make_unique<peer>(*reactor, right));
      targets.back()->start();
      writers.back()->write(flood);
    }

    for (const auto& each : targets) {
      turn_until(*reactor, [&] { return each->total == flood.size(); });
      CHECK(each->text == flood);
    }
  }

  // Goal: a turn costs one io_uring_enter. Method: the child brackets its turns with a harmless
  // system call; strace sees both.
  TEST_CASE("io_uring enters the kernel at most once a turn") {
    const test::watchdog dog(60s);
    if (test::backend() == "asio") return;
    if (!test::make_reactor() || !test::can_trace()) return;
    const test::folder here;
    const auto trace = here / "trace";

    const auto child = test::run_child(
        "strace -qq -e trace=io_uring_enter,getppid -o '" + trace + "'", "counted turns");

    REQUIRE_MESSAGE(child.status == 0, child.output);
    const auto at = child.output.find("turns=");
    REQUIRE(at != std::string::npos);
    const auto turns = std::stoul(child.output.substr(at + 6));
    std::ifstream lines(trace);
    unsigned entered = 0;
    bool counting = false;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("getppid(")) counting = !counting;
      if (counting && line.starts_with("io_uring_enter(")) ++entered;
    }
    CHECK(entered > 0);
    CHECK(entered <= turns);
  }

  // What follows runs in a process of its own, see above.
  TEST_CASE("child: counted turns" * doctest::skip()) {
    const auto reactor = hawser::platform::make_native_reactor().created;
    REQUIRE(reactor);
    const auto [ours, theirs] = tcp_pair();
    unsigned turns = 0;
    {
      peer client(*reactor, ours), server(*reactor, theirs);
      client.start();
      server.start();
      const auto until = [&](auto condition) {
        while (!condition()) {
          reactor->turn(long_time);
          ++turns;
        }
      };
      static_cast<void>(::getppid());
      for (unsigned i = 1; i <= 500; ++i) {
        client.write("ping");
        until([&] { return server.total == 4 * i && client.written == i; });
        server.write("pong");
        until([&] { return client.total == 4 * i && server.written == i; });
      }
      static_cast<void>(::getppid());
    }
    std::cout << "turns=" << turns << std::endl;
  }
}
