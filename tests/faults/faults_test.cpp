// SPDX-License-Identifier: Apache-2.0
// Goal: whatever call to the system fails, or comes up short, ends in an error that has a name or
// is made again; nothing hangs, leaks or crashes, and the next link works.
// Method: io_uring/ is compiled into this program with faults to switch on (calls.hpp). Each
// scenario is run for every site that it passes, with the first, the second, ... the n-th call
// there failing in each way that this call can fail.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <netdb.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "faults/plan.hpp"
#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "hawser/shm_stream.hpp"
#include "link/socket_owner.hpp"
#include "os/platform.hpp"
#include "os/reactor.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/raw_socket.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::task;
using hawser::calls::site;
using test::transport;

constexpr int cut = 0;  // no error: it moves one byte, or completes once only

enum class backends : std::uint8_t { both, io_uring, asio };

/// A site, and the ways in which its call can fail.
struct frailty {
  site where;
  std::string_view name;
  backends passed_by;
  std::vector<int> faults;
};

// Two sites are not passed by both: the ring accepts by itself, and only its streams read and write
// with calls of their own.
const std::vector<frailty>& frailties() {
  constexpr auto both = backends::both;
  constexpr auto ring = backends::io_uring;
  static const std::vector<int> opening{EMFILE, ENFILE, ENOBUFS, ENOMEM};
  static const std::vector<int> reading{cut, EINTR, EAGAIN, ECONNRESET, ENOMEM};
  static const std::vector<int> writing{cut, EINTR, EAGAIN, ECONNRESET, EPIPE, ENOBUFS};
  static const std::vector<int> entering{EINTR, EAGAIN, ENOMEM, EBUSY};
  static const std::vector<frailty> all{
      {site::getaddrinfo, "getaddrinfo", both, {EAI_AGAIN, EAI_MEMORY, EAI_NONAME}},
      {site::socket, "socket", both, {EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM}},
      {site::socketpair, "socketpair", both, opening},
      {site::setsockopt, "setsockopt", both, {ENOMEM, EPERM, EINVAL}},
      {site::getsockopt, "getsockopt", both, {ENOMEM, EINVAL}},
      {site::getsockname, "getsockname", both, {ENOBUFS}},
      {site::getpeername, "getpeername", both, {ENOTCONN, ENOBUFS}},
      {site::bind, "bind", both, {EADDRINUSE, EPERM, ENOMEM, EINVAL}},
      {site::listen, "listen", both, {EADDRINUSE, EINVAL}},
      {site::connect,
       "connect",
       both,
       {EINTR, EAGAIN, ECONNREFUSED, ENETUNREACH, ETIMEDOUT, EPERM, EADDRNOTAVAIL}},
      {site::accept,
       "accept",
       backends::asio,
       {EINTR, EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM}},
      {site::shutdown, "shutdown", both, {ENOTCONN}},
      {site::recv, "recv", both, reading},
      {site::recvmsg, "recvmsg", ring, reading},
      {site::send, "send", ring, writing},
      {site::sendmsg, "sendmsg", both, writing},
      {site::lstat, "lstat", both, {ENOENT, EPERM, ENOMEM}},
      {site::fchmod, "fchmod", both, {EPERM}},
      {site::chmod, "chmod", both, {EPERM, ENOENT}},
      {site::unlink, "unlink", both, {EPERM}},
      {site::memfd_create, "memfd_create", both, opening},
      {site::ftruncate, "ftruncate", both, {EINTR, ENOMEM}},
      {site::add_seals, "adding seals", both, {EPERM}},
      {site::get_seals, "looking at seals", both, {EINVAL}},
      {site::fstat, "fstat", both, {ENOMEM}},
      {site::fstatfs, "fstatfs", both, {ENOSYS, ENOMEM}},
      {site::fallocate, "fallocate", both, {EINTR, ENOSPC, ENOMEM, EOPNOTSUPP}},
      {site::punch_hole, "punching a hole", both, {ENOSPC, EOPNOTSUPP}},
      {site::mmap, "mmap", both, {ENOMEM, EPERM, EACCES}},
      {site::madvise, "madvise", both, {EINVAL, EFAULT, ENOMEM}},
      {site::send_handles, "sending handles", both, {EINTR, EAGAIN, EPIPE, ETOOMANYREFS}},
      {site::recv_handles, "receiving handles", both, {EINTR, EAGAIN, ECONNRESET, ENOMEM}},
      {site::membarrier, "membarrier", both, {EPERM, ENOSYS}},
      {site::open_to_read, "opening to read", both, {EMFILE, EACCES, ENOENT}},
      {site::pread, "reading a file", both, {cut, EINTR, EIO, ENOMEM}},
      {site::shm_open, "shm_open", both, {EMFILE, EACCES, ENOENT, EEXIST, ENOSPC}},
      {site::shm_unlink, "shm_unlink", both, {EPERM, ENOENT}},
      {site::lock_byte, "locking", both, {EAGAIN, EACCES, ENOLCK}},
      {site::read_note, "reading a note", both, {EIO, ENOMEM}},
      {site::write_note, "writing a note", both, {ENOSPC, EDQUOT, EIO}},
      {site::borrow, "opening what is another's", both, {EACCES, ENOENT, EMFILE}},
      {site::watch_process, "pidfd_open", both, {ESRCH, EMFILE, ENOSYS, EPERM}},
      {site::sched_getaffinity, "sched_getaffinity", both, {EINVAL, EPERM}},
      {site::sched_setaffinity, "sched_setaffinity", both, {EINVAL, EPERM}},
      {site::getrandom, "getrandom", both, {cut, EINTR}},
      {site::eventfd, "eventfd", ring, opening},
      {site::read_event, "read of an event", ring, {EINTR, EAGAIN}},
      {site::write_event, "write to an event", ring, {EINTR}},
      {site::epoll_create, "epoll_create", both, {EMFILE, ENFILE, ENOMEM}},
      {site::epoll_add, "epoll_ctl", both, {ENOMEM, ENOSPC}},
      {site::ring_setup, "io_uring_setup", ring, {EPERM, ENOSYS, ENOMEM, EMFILE, EINVAL}},
      {site::ring_probe, "io_uring probe", ring, {ENOMEM}},
      {site::ring_register_buffers, "registering buffers", ring, {ENOMEM, EINVAL}},
      {site::ring_register_itself, "registering the ring", ring, {ENOMEM, EINVAL}},
      {site::ring_register_event, "registering an event", ring, {ENOMEM, EBUSY}},
      {site::ring_make_room, "io_uring_enter for room", ring, entering},
      {site::ring_look, "io_uring_enter to look", ring, entering},
      {site::ring_wait, "io_uring_enter to wait", ring, entering},
      {site::ring_drain, "io_uring_enter at the end", ring, {EINTR, ETIME, EAGAIN}},
      {site::submit_accept,
       "accepting",
       ring,
       {cut, EINTR, EAGAIN, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM}},
      {site::submit_receive_many,
       "receiving many times",
       ring,
       {cut, EINTR, EAGAIN, ENOBUFS, ECONNRESET, ENOMEM}},
      {site::submit_bell, "waiting for a wake", ring, {cut, ENOMEM, EINTR}},
      {site::submit_receive_once,
       "receiving once",
       ring,
       {cut, EINTR, EAGAIN, ENOBUFS, ECONNRESET}},
      {site::submit_receive_direct, "receiving in place", ring, reading},
      {site::submit_send, "sending", ring, writing},
      {site::submit_silent_send, "sending silently", ring, writing},
      {site::submit_poll, "waiting for a socket", ring, {ENOMEM, EINTR}},
      {site::submit_alarm, "the alarm", ring, {ENOMEM, EINTR, ETIME}},
      {site::submit_word, "waiting for a word", ring, {ENOMEM, EINTR, EFAULT}},
  };
  return all;
}

bool is_passed(const frailty& which) {
  if (which.passed_by == backends::both) return true;
  return (which.passed_by == backends::io_uring) == (test::backend() == "io_uring");
}

/// Runs `action`, which may fail with an error that says something.
void expect_named(const std::function<void()>& action) {
  const auto done = test::outcome_of(action);
  if (done.has_value()) return;
  CHECK(done.error().code().value() != 0);
  CHECK_FALSE(done.error().text().empty());
}

// ---- what is done -----------------------------------------------------------------------------

// Nothing that a fault leaves behind may take long.
const hawser::link_options brisk{.handshake_timeout = 500ms, .close_timeout = 500ms};

std::size_t bytes_of(hawser::priority kind, bool large) {
  if (!large) return 100;
  return kind == hawser::priority::control ? 20'000 : 300'000;
}

task<void> echo(hawser::link at, hawser::priority kind) {
  while (auto message = co_await at.at(kind).recv()) {
    co_await at.at(kind).send(std::move(*message));
  }
}

task<void> ask(hawser::link at, hawser::priority kind, unsigned rounds) {
  for (unsigned i = 0; i < rounds; ++i) {
    const std::size_t bytes = bytes_of(kind, i % 2 != 0);
    co_await at.at(kind).send(test::make_pattern(i, bytes));
    const auto answer = co_await at.at(kind).recv();
    if (!answer.has_value()) hawser::failure(hawser::errc::closed, "no answer").raise();
    CHECK(test::is_pattern(*answer, i, bytes));
  }
}

task<void> ask_all(hawser::link at, unsigned rounds) {
  std::vector<task<void>> all;
  for (const auto kind : test::kinds) all.push_back(ask(at, kind, rounds));
  co_await hawser::when_all(std::move(all));
  co_await at.close();
}

// The least that a link is for.
task<void> greet(hawser::scope& all, hawser::listener& listener) {
  auto ends = co_await hawser::when_all(hawser::connect(listener.uri(), brisk), listener.accept());
  const auto [client, server] = std::move(ends);
  all.spawn(echo(server, hawser::priority::rpc));
  co_await ask(client, hawser::priority::rpc, 1);
  co_await client.close();
}

// A link through `listener`, messages of two sizes on all channels and back, and its end.
task<void> exchange(hawser::scope& all, hawser::listener& listener, unsigned rounds) {
  auto ends = co_await hawser::when_all(hawser::connect(listener.uri(), brisk), listener.accept());
  const auto [client, server] = std::move(ends);
  for (const auto kind : test::kinds) all.spawn(echo(server, kind));
  co_await ask_all(client, rounds);
}

// A link over memory that lends: an arena is made, blocks of it are lent both ways, come back, and
// are lent again, because there is no room for more than one.
task<void> borrow(hawser::scope& all, hawser::listener& listener) {
  constexpr std::size_t bytes = 200'000;
  auto lending = brisk;
  lending.arena_bytes = 256 << 10;
  auto ends =
      co_await hawser::when_all(hawser::connect(listener.uri(), lending), listener.accept());
  const auto [client, server] = std::move(ends);
  all.spawn(echo(server, hawser::priority::rpc));
  for (std::uint64_t i = 0; i < 4; ++i) {
    auto lent = co_await client.rpc().loan(bytes);
    auto pattern = test::make_pattern(i, bytes);
    std::copy(pattern.bytes().begin(), pattern.bytes().end(), lent.bytes().begin());
    co_await client.rpc().send(std::move(lent));
    const auto answer = co_await client.rpc().recv();
    if (!answer.has_value()) hawser::failure(hawser::errc::closed, "no answer").raise();
    CHECK(test::is_pattern(*answer, i, bytes));
  }
  co_await client.close();
}

// Parts of a file are messages: over memory handed over, or read, and over sockets mapped.
task<void> send_file(hawser::scope& all, hawser::listener& listener) {
  auto passing = brisk;
  passing.pass_files = 1;
  auto ends =
      co_await hawser::when_all(hawser::connect(listener.uri(), passing), listener.accept());
  const auto [client, server] = std::move(ends);
  all.spawn(echo(server, hawser::priority::rpc));
  struct sample {
    ~sample() { ::close(descriptor); }
    int descriptor = ::memfd_create("sample", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  };
  constexpr std::size_t bytes = 100'000;
  const sample file;
  const hawser::shared_buffer pattern = test::make_pattern(3, bytes);
  REQUIRE(::write(file.descriptor, pattern.data(), bytes) == bytes);
  REQUIRE(::fcntl(file.descriptor, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  for (const std::size_t part : {bytes, std::size_t{1000}, bytes}) {
    co_await client.rpc().send_file(file.descriptor, 0, part);
    const auto answer = co_await client.rpc().recv();
    if (!answer.has_value()) hawser::failure(hawser::errc::closed, "no answer").raise();
    CHECK(test::is_pattern(*answer, 3, part));
  }
  co_await client.close();
}

/// What the scenarios share: a folder for their sockets.
struct place {
  test::folder folder;

  [[nodiscard]] hawser::listener listen(hawser::runtime& where, transport over) const {
    return hawser::listen(where, test::address_of(over, folder), {.link = brisk});
  }
  void greet(hawser::runtime& where) const {
    auto listener = listen(where, transport::inproc);
    hawser::run(where, [&](hawser::scope& all) { return ::greet(all, listener); });
  }
  void exchange_over(hawser::runtime& where, transport over, unsigned rounds = 2) const {
    auto listener = listen(where, over);
    hawser::run(where, [&](hawser::scope& all) { return exchange(all, listener, rounds); });
  }
};

hawser::executor_config threaded(std::string_view text) {
  auto config = hawser::executor_config::parse(text);
  config.backend = test::config().backend;
  return config;
}

/// Something to do while calls fail, in a runtime that goes on.
using deed = std::function<void(const place&, hawser::runtime&)>;

void listen_at_files(const place& at, hawser::runtime& where) {
  const auto path = at.folder / "file";
  ::unlink(path.c_str());
  { const test::raw_listener stale(path); }
  hawser::listen_options open{.link = brisk, .any_user = true};
  auto listener = hawser::listen(where, "unix:" + path, open);
  hawser::run(where, [&](hawser::scope& all) { return exchange(all, listener, 1); });
}

// A client whose first attempts find nobody.
void come_again(const place& at, hawser::runtime& where) {
  const auto path = at.folder / "late";
  ::unlink(path.c_str());
  const auto uri = "unix:" + path;
  hawser::run(where, [&](hawser::scope& all) -> task<void> {
    std::optional<hawser::listener> listener;
    for (unsigned attempt = 0; attempt < 5; ++attempt) {
      auto made = co_await hawser::as_result(hawser::connect(uri, brisk));
      if (made.has_value()) {
        const auto server = co_await listener->accept();
        all.spawn(echo(server, hawser::priority::rpc));
        co_await ask(*made, hawser::priority::rpc, 2);
        co_await made->close();
        co_return;
      }
      if (!listener.has_value()) listener = hawser::listen(where, uri, {.link = brisk});
    }
    hawser::failure(hawser::errc::unreachable, "five times").raise();
  });
}

// Peers that are no hawser, say nothing, or are one too many.
void meet_strangers(const place& /*at*/, hawser::runtime& where) {
  auto listener = hawser::listen(where, "tcp://:0", {.link = brisk, .max_links = 1});
  expect_named([&] {
    const auto first = hawser::sync_wait(where, hawser::connect(listener.uri(), brisk));
    const auto second = hawser::sync_wait(where, hawser::connect(listener.uri(), brisk));
  });
  {
    test::raw_socket stranger(listener.uri());
    stranger.send(test::bytes_of("GET / HTTP/1.1\r\n\r\n"));
    const test::raw_listener silent;
    const auto unheard = test::outcome_of([&] {
      hawser::sync_wait(where, hawser::connect(silent.uri(), {.handshake_timeout = 20ms}));
    });
    CHECK_FALSE(unheard.has_value());
  }
}

/// Wants the first bytes of a stream in a place of its own, and drops the rest.
class taker final : public hawser::stream_events {
 public:
  std::span<std::byte> direct_space() noexcept override {
    return std::span(place_).subspan(std::min(taken_, place_.size()));
  }
  void on_direct(std::size_t bytes) noexcept override { taken_ += bytes; }
  void on_block(hawser::detail::block* filled, std::size_t bytes) noexcept override {
    hawser::detail::release(filled);
    taken_ += bytes;
  }
  void on_end(std::error_code why) noexcept override {
    error_ = why;
    reading->close();
  }
  void on_written(std::error_code /*error*/) noexcept override {}
  void on_closed() noexcept override { closed_ = true; }

  [[nodiscard]] bool closed() const noexcept { return closed_; }
  [[nodiscard]] bool has_all(std::size_t bytes) const noexcept {
    return error_ || taken_ == bytes;
  }

  std::unique_ptr<hawser::stream> reading;

 private:
  std::array<std::byte, 48 << 10> place_{};
  std::size_t taken_ = 0;
  std::error_code error_;
  bool closed_ = false;
};

std::unique_ptr<hawser::reactor> make_reactor() {
  return test::backend() == "asio" ? hawser::make_portable_reactor()
                                   : hawser::platform::make_native_reactor().created;
}

void receive_in_place(const place& /*at*/, hawser::runtime& /*where*/) {
  const std::vector<std::byte> bytes(60 << 10);
  const auto reactor = make_reactor();
  if (reactor == nullptr) return;
  const auto [reading, writing] = hawser::platform::socket_pair();
  taker owner;
  owner.reading = reactor->open(reading, owner);
  owner.reading->start_reading();
  std::size_t sent = 0;
  std::error_code error;
  while (sent < bytes.size() && !error) {
    const hawser::platform::io_slice some{bytes.data() + sent,
                                          std::min<std::size_t>(bytes.size() - sent, 7000)};
    sent += hawser::platform::write_some(writing, {&some, 1}, error);
    reactor->turn(0ms);
  }
  hawser::platform::close(writing);
  while (!owner.closed()) reactor->turn(10ms);
  CHECK(owner.has_all(sent));
}

// More submissions in one turn than the queue has room for.
void crowd(const place& /*at*/, hawser::runtime& /*where*/) {
  struct readable : hawser::readiness {
    readable() : readiness([](readiness& entry, std::error_code why) noexcept {
      auto& self = static_cast<readable&>(entry);
      self.is_done = true;
      self.error = why;
    }) {}
    bool is_done = false;
    std::error_code error;
  };
  constexpr std::size_t many = 700;
  if (test::backend() == "asio") return;  // has no queue, and watches a socket once only
  const auto reactor = make_reactor();
  if (reactor == nullptr) return;
  const auto [reading, writing] = hawser::platform::socket_pair();
  std::vector<readable> all(many);
  for (auto& each : all) reactor->wait(writing, hawser::readiness::kind::writable, each);
  while (reactor->has_waits()) reactor->turn(10ms);
  hawser::platform::close(reading);
  hawser::platform::close(writing);
  CHECK(std::all_of(all.begin(), all.end(), [](const readable& each) { return each.is_done; }));
}

// What shared memory is made of.
void share_memory(const place& /*at*/, hawser::runtime& /*where*/) {
  namespace platform = hawser::platform;
  const std::size_t bytes = platform::page_bytes();
  const auto [one, other] = platform::socket_pair();
  const hawser::detail::socket_owner ours(one);
  const hawser::detail::socket_owner theirs(other);
  struct handle_owner {
    ~handle_owner() { platform::release_handle(handle); }
    platform::native_handle handle = platform::no_handle;
  };
  const handle_owner made{platform::create_memory(bytes)};
  if (const auto error = platform::reserve_memory(made.handle, 0, bytes)) {
    throw std::system_error(error, "reserve_memory");
  }
  const std::byte word{1};
  std::error_code error;
  platform::handle_list came;
  const std::array sent{made.handle};
  if (platform::write_with_handles(one, {&word, 1}, sent, error) != 1) {
    throw std::system_error(error, "write_with_handles");
  }
  std::array<std::byte, 8> room{};
  if (platform::read_with_handles(other, room, came, error) != 1) {
    throw std::system_error(error, "read_with_handles");
  }
  const handle_owner taken{came.handles[0]};
  REQUIRE(came.count == 1);
  const std::size_t found = platform::inspect_memory(taken.handle);
  CHECK(found == bytes);
  std::byte* const first = platform::map_memory(taken.handle, bytes);
  platform::touch_memory(first, bytes);
  first[0] = word;
  platform::unreserve_memory(made.handle, 0, bytes);
  platform::unmap_memory(first, bytes);
  platform::pass_barrier();
}

// A stream under a name, of which one end or both fail to come to be. A name that is left behind is
// that of a living process, so each has its own.
void name_memory(const place& /*at*/, hawser::runtime& /*where*/) {
  static unsigned count = 0;
  const std::string name = "faults." + std::to_string(::getpid()) + '.' + std::to_string(++count);
  const hawser::shm_stream_options options{.ring_bytes = 4096, .huge_pages = true};
  struct cleaner {
    ~cleaner() { ::shm_unlink(hawser::platform::memory_name(name).c_str()); }
    const std::string& name;
  };
  const cleaner after{name};
  auto one = hawser::shm_stream::create(name, options);
  expect_named([&] { auto again = hawser::shm_stream::create(name, options); });
  auto two = hawser::shm_stream::open(name, options);
  const std::byte word{1};
  one.write({&word, 1}).value();
  std::vector<std::byte> got;
  CHECK(two.read(got).value() == 1U);
  const auto nothing = two.read(got, 100us);
  CHECK_FALSE(nothing.has_value());
}

// A worker sleeps on a word, and somebody wakes it.
void wait_for_word(const place& /*at*/, hawser::runtime& /*where*/) {
  const auto reactor = make_reactor();
  if (reactor == nullptr || !reactor->waits_for_words()) return;
  struct told : hawser::readiness {
    told() : readiness([](readiness& entry, std::error_code why) noexcept {
      static_cast<told&>(entry).error = why;
      static_cast<told&>(entry).is_done = true;
    }) {}
    bool is_done = false;
    std::error_code error;
  };
  std::atomic<std::uint32_t> word{1};
  told waiting;
  reactor->wait_while(word, 1, waiting);
  reactor->turn(0ms);
  word.store(0);
  hawser::platform::wake_one(word);
  while (!waiting.is_done) reactor->turn(10ms);
  if (waiting.error) throw std::system_error(waiting.error, "wait_while");
}

// ---- what must hold ---------------------------------------------------------------------------

/// Descriptors close a little later than what has them ends.
bool come_to(std::size_t descriptors, hawser::runtime& where) {
  unsigned looks = 3000;
  test::wait_until(where, [&] { return test::open_descriptors() == descriptors || --looks == 0; });
  return test::open_descriptors() == descriptors;
}

/// What is opened at its first use is open now, and what a link has had is not.
std::size_t descriptors_of_idle(hawser::runtime& where, const place& at) {
  at.greet(where);
  std::size_t seen = 0;
  unsigned alike = 0;
  test::wait_until(where, [&] {
    const std::size_t now = test::open_descriptors();
    alike = std::exchange(seen, now) == now ? alike + 1 : 0;
    return alike == 50;
  });
  return seen;
}

std::vector<std::uint64_t> count_calls() {
  std::vector<std::uint64_t> all;
  for (const frailty& each : frailties()) all.push_back(test::calls_at(each.where));
  return all;
}

/// `attempt` is made once without a fault, and then once for each that it may meet.
void torture(std::string_view scenario, unsigned calls_max, const std::function<void()>& attempt) {
  const auto before = count_calls();
  attempt();
  const auto after = count_calls();
  for (std::size_t at = 0; at < frailties().size(); ++at) {
    const frailty& weak = frailties()[at];
    const auto calls = static_cast<unsigned>(
        std::min<std::uint64_t>(after[at] - before[at], calls_max));
    if (calls == 0) continue;
    const auto kinds = static_cast<unsigned>(weak.faults.size());
    for (unsigned i = 0; i < std::max(calls, kinds); ++i) {
      const test::fault next{weak.where, weak.faults[i % kinds], 1 + i % calls};
      INFO(std::string(scenario) << ": " << std::string(weak.name) << " no. " << next.nth
                                 << ", error " << next.error);
      const test::watchdog guard(20s);
      test::arm(next);
      attempt();
      test::disarm();
    }
  }
}

/// A deed in a runtime that lives on and must serve the next link.
void torture_in(hawser::runtime& where, std::string_view scenario, unsigned calls_max,
                const deed& what) {
  const place at;
  what(at, where);  // without a fault nothing fails
  const std::size_t descriptors = descriptors_of_idle(where, at);
  torture(scenario, calls_max, [&] {
    expect_named([&] { what(at, where); });
    test::disarm();
    at.greet(where);
    REQUIRE(come_to(descriptors, where));
    CHECK(test::segment_mappings() == 0);
  });
}

/// A runtime from its beginning to its end, with a link that is still open then.
template <class Runtime>
void torture_life(std::string_view scenario, unsigned calls_max,
                  const hawser::executor_config& config) {
  const place at;
  const std::size_t descriptors = test::open_descriptors();
  const auto live = [&] {
    Runtime where(config);
    at.exchange_over(where, transport::unix_socket, 1);
    const auto listener = at.listen(where, transport::tcp);
    const auto left = hawser::sync_wait(where, hawser::connect(listener.uri(), brisk));
  };
  torture(scenario, calls_max, [&] {
    expect_named(live);
    test::disarm();
    REQUIRE(test::open_descriptors() == descriptors);
  });
  live();
}

deed over(transport which) {
  return [which](const place& at, hawser::runtime& where) { at.exchange_over(where, which); };
}

}  // namespace

TEST_SUITE("faults") {
  TEST_CASE("every call to the system fails, n-th by n-th, and the next link works") {
    CHECK(frailties().size() == hawser::calls::site_count);
    for (std::size_t at = 0; at < frailties().size(); ++at) {
      CHECK(static_cast<std::size_t>(frailties()[at].where) == at);
    }
    auto driven = test::config();
    driven.shutdown_deadline = 2s;
    {
      hawser::driven_runtime runtime(driven);
      for (const auto each : test::transports) {
        torture_in(runtime, "over " + test::name_of(each), 8, over(each));
      }
      torture_in(runtime, "lending", 8, [](const place& at, hawser::runtime& where) {
        auto listener = at.listen(where, transport::shared_memory);
        hawser::run(where, [&](hawser::scope& all) { return borrow(all, listener); });
      });
      for (const auto each : {transport::tcp, transport::shared_memory}) {
        torture_in(
            runtime, "files over " + test::name_of(each), 8,
            [each](const place& at, hawser::runtime& where) {
              auto sharing = brisk;
              sharing.pass_files = 1;
              auto listener =
                  hawser::listen(where, test::address_of(each, at.folder), {.link = sharing});
              hawser::run(where, [&](hawser::scope& all) { return send_file(all, listener); });
            });
      }
      torture_in(runtime, "in place", 6, receive_in_place);
      torture_in(runtime, "files", 4, listen_at_files);
      torture_in(runtime, "reconnect", 4, come_again);
      torture_in(runtime, "strangers", 4, meet_strangers);
      torture_in(runtime, "crowd", 3, crowd);
      torture_in(runtime, "memory", 3, share_memory);
      torture_in(runtime, "names", 6, name_memory);
      torture_in(runtime, "word", 3, wait_for_word);
    }
    {
      hawser::runtime looking(threaded("threads=1 spin=2ms"));
      torture_in(looking, "looking", 8, [](const place& at, hawser::runtime& where) {
        at.exchange_over(where, transport::tcp, 20);
      });
    }
    torture_life<hawser::driven_runtime>("driven life", 5, driven);
    torture_life<hawser::runtime>("life", 5, threaded("threads=2 pin=cores"));

    for (const frailty& each : frailties()) {
      CAPTURE(std::string(each.name));
      CHECK((test::faults_at(each.where) != 0) == is_passed(each));
    }
  }

  TEST_CASE("a stream that the system has no memory for says so before anybody touches it") {
    test::arm({site::fallocate, ENOSPC, 1});
    const auto made = test::outcome_of([] { auto one = hawser::shm_stream::create("full"); });
    test::disarm();
    REQUIRE_FALSE(made.has_value());
    CHECK(made.error().code() == std::errc::no_space_on_device);
    CHECK(test::outcome_of([] { auto one = hawser::shm_stream::create("full"); }).has_value());
  }
}
