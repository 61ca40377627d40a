// SPDX-License-Identifier: Apache-2.0
// What is left when a process dies that shares memory with us: at any instruction, and at any time.
//
// Goal: what is received is whole, in order and nothing twice, and all that was flushed. The link
// is lost; other links, descriptors and mappings are as before.
// Method: children send numbered messages and note on a page of their parent's how many they have
// flushed. They are killed by the clock and by what has arrived of them, or stepped, instruction
// by instruction, to the one behind which they are killed.
//
// HAWSER_KILLS=10000 kills so many by the clock; HAWSER_KILL_STRIDE=1 kills at every instruction.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/sanitizer.hpp"
#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "shm/bell.hpp"
#include "shm/ring.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"
#include "support/folder.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/process.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::priority;
using hawser::task;
using test::kinds;

namespace shm = hawser::shm;

std::size_t index_of(priority kind) {
  return static_cast<std::size_t>(std::find(kinds.begin(), kinds.end(), kind) - kinds.begin());
}

/// Looks again and again; a watchdog must be on guard.
template <class Condition>
void await(const Condition& reached) {
  while (!reached()) std::this_thread::sleep_for(50us);  // sleeps: between looks, no order
}

/// What a child has flushed, by channel.
struct witness {
  std::array<std::atomic<std::uint64_t>, kinds.size()> flushed{};
};

/// A page that processes share: a file, or nobody else's but a forked child's.
template <class Content>
class shared_page {
 public:
  explicit shared_page(const std::string& path = {}) {
    const int file = path.empty() ? -1 : ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (!path.empty() && ::ftruncate(file, bytes) != 0) std::abort();
    void* const first = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                               path.empty() ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, file, 0);
    if (file >= 0) ::close(file);
    if (first == MAP_FAILED) std::abort();
    content_ = ::new (first) Content;
  }
  ~shared_page() { ::munmap(content_, bytes); }
  shared_page(const shared_page&) = delete;
  shared_page& operator=(const shared_page&) = delete;

  Content& operator*() const noexcept { return *content_; }
  Content* operator->() const noexcept { return content_; }

 private:
  static constexpr std::size_t bytes = 4096;
  static_assert(sizeof(Content) <= bytes);

  Content* content_;
};

// Mostly small; now and then of more records than one, and of more than a ring has room for.
std::size_t size_of(priority kind, std::uint64_t number) {
  if (kind == priority::bulk && number % 16 == 7) return 150'000;
  if (kind != priority::control && number % 16 == 11) return 20'000;
  return number * 37 % 900;
}

// ---- the child --------------------------------------------------------------------------------

struct orders {
  explicit orders(const std::string& text) {
    std::array<std::string*, 4> fields{&role, &uri, &page, &rounds};
    std::size_t begin = 0;
    for (std::string* const each : fields) {
      const std::size_t end = std::min(text.find('|', begin), text.size());
      *each = text.substr(begin, end - begin);
      begin = end + 1;
    }
  }
  orders(std::string role_, std::string uri_, std::string page_, unsigned rounds_ = 0)
      : role(std::move(role_)),
        uri(std::move(uri_)),
        page(std::move(page_)),
        rounds(std::to_string(rounds_)) {}

  [[nodiscard]] std::string text() const { return role + '|' + uri + '|' + page + '|' + rounds; }

  std::string role;
  std::string uri;
  std::string page;
  std::string rounds;
};

task<void> send_one(hawser::link to, priority kind, std::uint64_t number, hawser::buffer bytes,
                    witness& seen) {
  co_await to.at(kind).send(std::move(bytes));
  co_await to.at(kind).flush();
  seen.flushed[index_of(kind)].store(number + 1, std::memory_order_release);
}

task<void> send_all(hawser::link to, priority kind, witness& seen) {
  for (std::uint64_t i = 0;; ++i) {
    co_await send_one(to, kind, i, test::make_pattern(i, size_of(kind, i)), seen);
  }
}

task<void> drain(hawser::link from, priority kind) {
  while (const auto message = co_await from.at(kind).recv()) {
  }
}

task<void> keep_busy(hawser::link at, witness& seen) {
  std::vector<task<void>> all;
  for (const auto kind : kinds) {
    all.push_back(send_all(at, kind, seen));
    all.push_back(drain(at, kind));
  }
  co_await hawser::when_all(std::move(all));
}

task<void> connect_busily(orders given, witness& seen) {
  auto link = co_await hawser::connect(given.uri);
  co_await keep_busy(std::move(link), seen);
}

task<void> listen_busily(hawser::runtime& where, orders given, witness& seen) {
  auto listener = hawser::listen(where, given.uri);
  auto link = co_await listener.accept();
  co_await keep_busy(std::move(link), seen);
}

// The parent steps what is between two stops of its own.
void stop_here() {
  ::raise(SIGSTOP);
}

task<void> be_stepped(orders given, witness& seen) {
  // A small arena: what notes down its first loan is stepped, too.
  auto link = co_await hawser::connect(given.uri, {.arena_bytes = 256 << 10});
  const auto rounds = std::strtoul(given.rounds.c_str(), nullptr, 10);
  for (std::uint64_t i = 0; i <= rounds; ++i) {
    auto bytes = test::make_pattern(i, size_of(priority::rpc, i));
    if (i == rounds) {
      if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) co_return;
      stop_here();
      if (given.role == "step lent") {
        hawser::buffer lent = co_await link.rpc().loan(bytes.size());
        std::memcpy(lent.data(), bytes.data(), bytes.size());
        bytes = std::move(lent);
      }
    }
    co_await send_one(link, priority::rpc, i, std::move(bytes), seen);
    if (i == rounds && given.role == "step alone") break;
    const auto echo = co_await link.rpc().recv();
    if (!echo.has_value()) co_return;
  }
  stop_here();
}

// ---- who survives -----------------------------------------------------------------------------

/// One link to a child, to its end.
struct survivor {
  std::array<std::atomic<std::uint64_t>, kinds.size()> received{};
  std::atomic<unsigned> wrong{0};  // messages and ends that should not be
  std::atomic<bool> over{false};
  errc why{};
  hawser::clock::time_point ended;
  // Behind so many messages nobody looks before the child is dead.
  std::uint64_t held_up_at = ~std::uint64_t{0};
  const std::atomic<bool>* dead = nullptr;

  [[nodiscard]] std::uint64_t messages() const {
    std::uint64_t all = 0;
    for (const auto& each : received) all += each.load(std::memory_order_relaxed);
    return all;
  }
};

task<void> take_all(hawser::link from, priority kind, survivor& all) {
  auto& count = all.received[index_of(kind)];
  for (;;) {
    auto got = co_await hawser::as_result(from.at(kind).recv());
    if (!got.has_value()) {
      if (got.error().code() != errc::link_lost) ++all.wrong;
      co_return;
    }
    if (!got->has_value()) {
      ++all.wrong;  // no end in order
      co_return;
    }
    const auto number = count.load(std::memory_order_relaxed);
    if (!test::is_pattern(**got, number, size_of(kind, number))) ++all.wrong;
    count.store(number + 1, std::memory_order_release);
    if (kind != priority::rpc) continue;
    auto sent = co_await hawser::as_result(from.rpc().send(std::move(**got)));
    if (!sent.has_value() || number + 1 != all.held_up_at) continue;
    auto flushed = co_await hawser::as_result(from.rpc().flush());
    await([&] { return !flushed.has_value() || all.dead->load(std::memory_order_acquire); });
  }
}

task<void> feed(hawser::link to) {
  for (std::uint64_t i = 0;; ++i) {
    auto sent = co_await hawser::as_result(
        to.stream().send(test::make_pattern(i, size_of(priority::stream, i))));
    if (!sent.has_value()) co_return;
  }
}

task<void> survive(hawser::link link, bool feeding, survivor& all) {
  std::vector<task<void>> work;
  for (const auto kind : kinds) work.push_back(take_all(link, kind, all));
  if (feeding) work.push_back(feed(link));
  work.push_back([](hawser::link of, survivor& seen) -> task<void> {
    const auto why = co_await of.ended();
    seen.ended = hawser::clock::now();
    seen.why = static_cast<errc>(why.code().value());
  }(link, all));
  co_await hawser::when_all(std::move(work));
  link = {};
  all.over.store(true, std::memory_order_release);
}

/// Listeners, a link that must notice nothing, and the survivors of one child after the other.
class scene {
 public:
  explicit scene(std::chrono::seconds limit, bool feeding)
      : guard_(limit),
        feeding_(feeding),
        page_(place_ / "page"),
        runtime_(test::config(2, log_)),
        shm_(hawser::listen(runtime_, "shm:" + (place_ / "m"))),
        unix_(hawser::listen(runtime_, "unix:" + (place_ / "u"))) {
    hawser::start(runtime_, accept_all(shm_));
    hawser::start(runtime_, accept_all(unix_));
    // A link of its own, the end of the listener being served as any other.
    bystander_ = hawser::sync_wait(runtime_, hawser::connect(shm_.uri()));
    expect_bystander();
    {
      const std::lock_guard guard(mutex_);
      bystanders_end_ = survivors_.size();
    }
    descriptors_ = test::open_descriptors();
    mappings_ = test::segment_mappings();
    CHECK(mappings_ == 6);  // the rings, and both halves of the arena
  }

  [[nodiscard]] orders to_connect(bool shm) const {
    return {"connect", shm ? shm_.uri() : unix_.uri(), place_ / "page"};
  }
  /// The child sends one message behind `rounds` of them, and takes what comes back. "step alone":
  /// while nobody looks at its rings; "step lent": in memory of the arena, which it asks for first.
  [[nodiscard]] orders to_be_stepped(unsigned rounds, const std::string& role) {
    held_up_at_.store(role == "step alone" ? rounds : ~std::uint64_t{0});
    return {role, shm_.uri(), place_ / "page", rounds};
  }
  /// The parent connects, as soon as somebody listens.
  [[nodiscard]] orders to_listen(bool shm) {
    const std::string path = place_ / ("c" + std::to_string(++listened_));
    return {"listen", (shm ? "shm:" : "unix:") + path, place_ / "page"};
  }

  void begin() {
    listens_ = false;
    for (auto& each : page_->flushed) each.store(0);
    dead_.store(false);
  }
  void reach(const std::string& uri) {
    listens_ = true;
    reaching_.store(true);
    hawser::start(runtime_, reach_all(uri));
  }
  [[nodiscard]] std::uint64_t messages() {
    const std::lock_guard guard(mutex_);
    std::uint64_t all = 0;
    for (std::size_t i = bystanders_end_; i < survivors_.size(); ++i) {
      all += at(i).messages();
    }
    return all;
  }

  /// After the child is dead. Says how long that took to be noticed; negative: nobody knew it.
  std::chrono::duration<double, std::milli> expect_survival(hawser::clock::time_point killed) {
    dead_.store(true);
    await([&] { return !reaching_.load(); });
    expect_bystander();
    std::uint64_t flushed = 0;
    for (auto& each : page_->flushed) flushed += each.load(std::memory_order_acquire);
    // If it was the child that listened, we may not have known that we are connected.
    const bool expected = flushed != 0 && !listens_;
    await([&] { return all_over(expected); });

    const auto noticed = check(!expected, killed);
    await([&] { return test::segment_mappings() == mappings_; });
    await([&] { return test::open_descriptors() == descriptors_; });
    return noticed;
  }

 private:
  survivor& at(std::size_t index) {
    return *std::next(survivors_.begin(), static_cast<long>(index));
  }

  survivor& add() {
    const std::lock_guard guard(mutex_);
    auto& added = survivors_.emplace_back();
    added.held_up_at = held_up_at_.load();
    added.dead = &dead_;
    return added;
  }

  std::chrono::duration<double, std::milli> check(bool one_has_all,
                                                  hawser::clock::time_point killed) {
    const std::lock_guard guard(mutex_);
    std::chrono::duration<double, std::milli> noticed(-1);
    std::string told;
    one_has_all &= survivors_.size() == bystanders_end_;
    for (std::size_t i = bystanders_end_; i < survivors_.size(); ++i) {
      const survivor& each = at(i);
      CHECK(each.wrong.load() == 0);
      CHECK(each.why == errc::link_lost);
      bool has_all = true;
      for (std::size_t k = 0; k < kinds.size(); ++k) {
        const std::uint64_t received = each.received[k].load();
        const std::uint64_t flushed = page_->flushed[k].load();
        has_all &= received >= flushed;
        if (received < flushed) {
          told += " channel " + std::to_string(k) + ": " + std::to_string(received) + " of " +
                  std::to_string(flushed);
        }
      }
      one_has_all |= has_all;
      if (each.messages() != 0) noticed = each.ended - killed;
    }
    CHECK_MESSAGE(one_has_all, "received," << told);
    survivors_.remove_if([](const survivor& each) { return each.over.load(); });
    return noticed;
  }

  bool all_over(bool some) {
    const std::lock_guard guard(mutex_);
    if (some && survivors_.size() == bystanders_end_) return false;
    for (std::size_t i = bystanders_end_; i < survivors_.size(); ++i) {
      if (!at(i).over.load(std::memory_order_acquire)) return false;
    }
    return true;
  }

  task<void> accept_all(hawser::listener& from) {
    for (;;) {
      auto link = co_await from.accept();
      // The first one is the bystander's: it only echoes.
      hawser::start(runtime_, survive(std::move(link), feeding_ && !first_.exchange(false), add()));
    }
  }

  task<void> reach_all(std::string uri) {
    while (!dead_.load()) {
      auto made = co_await hawser::as_result(hawser::connect(uri));
      if (made.has_value()) {
        co_await survive(std::move(*made), feeding_, add());
        break;
      }
      co_await hawser::this_task::sleep_for(500us);
    }
    reaching_.store(false);
  }

  void expect_bystander() {
    hawser::sync_wait(runtime_, [](hawser::link over, std::uint64_t number) -> task<void> {
      co_await over.rpc().send(test::make_pattern(number, size_of(priority::rpc, number)));
      const auto echo = co_await over.rpc().recv();
      CHECK(echo.has_value());
      if (echo.has_value()) {
        CHECK(test::is_pattern(*echo, number, size_of(priority::rpc, number)));
      }
    }(bystander_, asked_++));
  }

  test::watchdog guard_;
  bool feeding_;
  test::log_book log_;
  test::folder place_;
  shared_page<witness> page_;
  std::mutex mutex_;
  std::list<survivor> survivors_;  // those of the bystander first
  std::size_t bystanders_end_ = 0;
  std::atomic<bool> first_{true};
  std::atomic<bool> dead_{false};
  std::atomic<std::uint64_t> held_up_at_{~std::uint64_t{0}};
  std::atomic<bool> reaching_{false};
  unsigned listened_ = 0;
  bool listens_ = false;  // the child does
  std::uint64_t asked_ = 0;
  std::size_t descriptors_ = 0;
  std::size_t mappings_ = 0;
  hawser::runtime runtime_;
  hawser::listener shm_;
  hawser::listener unix_;
  hawser::link bystander_;
};

// ---- stepping ---------------------------------------------------------------------------------

/// Steps a child from its first stop of its own towards the second.
class stepper {
 public:
  explicit stepper(pid_t id) : id_(id) { ready_ = next() == SIGSTOP; }

  /// It came to its first stop, and may be traced.
  [[nodiscard]] bool ready() const noexcept { return ready_; }
  /// How many of these instructions it has made before the second stop.
  std::uint64_t step(std::uint64_t most) {
    int signal = 0;
    for (std::uint64_t i = 0; i < most; ++i) {
      if (::ptrace(PTRACE_SINGLESTEP, id_, nullptr, signal) != 0) return i;
      const int stopped_by = next();
      if (stopped_by == SIGSTOP || stopped_by < 0) return i;
      signal = stopped_by == SIGTRAP ? 0 : stopped_by;
    }
    return most;
  }

 private:
  // The signal that has stopped it; negative: it has ended.
  [[nodiscard]] int next() const {
    int status = 0;
    if (::waitpid(id_, &status, 0) != id_ || !WIFSTOPPED(status)) return -1;
    return WSTOPSIG(status);
  }

  pid_t id_;
  bool ready_ = false;
};

constexpr std::uint64_t to_the_end = ~std::uint64_t{0};

/// Runs `attempt(n)`, which kills a child behind instruction n and says how many it has made, for
/// every n from one end of the window to the other, or for about `points` of them.
template <class Attempt>
void at_every_instruction(std::uint64_t points, const Attempt& attempt) {
  const std::uint64_t all = attempt(to_the_end);
  if (all == 0) return test::skip("children may not be traced here");
  const std::uint64_t stride =
      test::asked("HAWSER_KILL_STRIDE", std::max<std::uint64_t>(all / points, 1));
  std::uint64_t kills = 1;
  for (std::uint64_t n = test::seed() % stride; attempt(n) == n; n += stride) ++kills;
  if (std::getenv("HAWSER_KILL_STRIDE") != nullptr) {
    MESSAGE("killed behind " << kills << " of about " << all << " instructions");
  }
}

// ---- a ring by itself -------------------------------------------------------------------------

/// A small ring between a child and its parent, both of which have a copy of both ends.
struct ring_page {
  shm::bell_state<> bell;
  shm::ring_state<> state;
  alignas(8) std::array<std::byte, shm::ring_bytes_min> bytes{};
  std::atomic<std::uint64_t> done{0};  // records that the child has published, or taken
};

struct ring_ends {
  ring_ends() {
    // Near the end of the ring, so that records do not fit before it.
    for (std::uint64_t i = 0; i < 6; ++i) {
      put(i);
      to.publish();
      CHECK(take(i));
    }
    from.give_back();
  }

  void put(std::uint64_t number) {
    const std::size_t bytes = 1 + number * 7 % 30;
    const std::size_t at = to.claim(bytes);
    if (at == shm::ring_writer<>::no_room) std::abort();
    for (std::size_t i = 0; i < bytes; ++i) *to.memory().at(at + i) = byte_of(number, i);
    to.commit(bytes);
  }
  bool take(std::uint64_t number) {
    if (from.look() != shm::ring_reader<>::found::record) return false;
    bool right = from.bytes() == 1 + number * 7 % 30;
    for (std::size_t i = 0; right && i < from.bytes(); ++i) {
      right = *from.memory().at(from.offset() + i) == byte_of(number, i);
    }
    from.pop();
    return right;
  }
  void ring() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (bell.ring()) hawser::platform::wake_one(bell.word());
  }
  static std::byte byte_of(std::uint64_t number, std::size_t at) {
    return static_cast<std::byte>(1 + number * 31 + at);
  }

  shared_page<ring_page> page;
  shm::ring_writer<> to{page->state, shm::ring_bytes(page->bytes)};
  shm::ring_reader<> from{page->state, shm::ring_bytes(page->bytes)};
  shm::bell<> bell{page->bell};
};

constexpr std::uint64_t first_record = 6;
constexpr std::uint64_t last_record = 14;

// One at a time, then several at once.
void write_records(ring_ends& ends) {
  for (std::uint64_t i = first_record; i < last_record; ++i) {
    ends.put(i);
    if (i == 10 || i == 11) continue;
    ends.to.publish();
    ends.page->done.store(i + 1, std::memory_order_release);
    ends.ring();
  }
}

void read_records(ring_ends& ends) {
  for (std::uint64_t i = first_record; i < last_record; ++i) {
    if (!ends.take(i)) ::_exit(1);
    ends.page->done.store(i + 1, std::memory_order_release);
  }
  ends.from.give_back();
  if (ends.from.take_waiting()) ends.ring();
  ends.bell.announce();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (ends.from.look() == shm::ring_reader<>::found::nothing && !ends.bell.was_rung()) {
    hawser::platform::sleep_on(ends.bell.word(), 1, 1us);
  }
  ends.bell.answer();
}

/// Forks a child that does `work` and dies behind instruction n of it.
std::uint64_t die_at(std::uint64_t n, ring_ends& ends, void (*work)(ring_ends&)) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(1);
    stop_here();
    work(ends);
    stop_here();
    ::_exit(0);
  }
  stepper stepping(child);
  const std::uint64_t made = stepping.ready() ? stepping.step(n) : 0;
  int status = 0;
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status));
  return made;
}

constexpr std::uint64_t ring_points = hawser::detail::sanitized ? 10 : 60;
constexpr std::uint64_t link_points = 12;

}  // namespace

TEST_SUITE("ring_death") {
  TEST_CASE("who dies while it writes into a ring leaves whole records, and all it published") {
    const test::watchdog guard(3600s);
    at_every_instruction(ring_points, [](std::uint64_t n) {
      CAPTURE(n);
      ring_ends ends;
      ends.bell.announce();
      const std::uint64_t made = die_at(n, ends, write_records);
      std::uint64_t read = first_record;
      while (ends.take(read)) ++read;
      CHECK(ends.from.look() == shm::ring_reader<>::found::nothing);
      CHECK(read >= ends.page->done.load());
      if (n == to_the_end) CHECK(read == last_record);
      return made;
    });
  }

  TEST_CASE("who dies while it reads a ring, or waits for it, takes nothing along") {
    const test::watchdog guard(3600s);
    at_every_instruction(ring_points, [](std::uint64_t n) {
      CAPTURE(n);
      ring_ends ends;
      for (std::uint64_t i = first_record; i < last_record; ++i) ends.put(i);
      ends.to.publish();
      ends.to.wait_for_room();
      const std::uint64_t before = ends.page->state.consumed.load();
      const std::uint64_t made = die_at(n, ends, read_records);
      const std::uint64_t consumed = ends.page->state.consumed.load();
      CHECK(consumed >= before);
      CHECK(consumed <= ends.to.position());
      if (n == to_the_end) CHECK(ends.page->done.load() == last_record);
      // Whoever came after it would find all of them.
      for (std::uint64_t i = first_record; i < last_record; ++i) CHECK(ends.take(i));
      // Who writes is not disturbed, and has the room that was given back.
      const std::size_t free = ends.page->bytes.size() - (ends.to.position() - consumed);
      CHECK(ends.to.has_room(1) == (free >= 16 + 8));
      CHECK_FALSE(ends.to.broken());
      CHECK_FALSE((ends.bell.ring() && ends.bell.ring()));
      return made;
    });
  }
}

TEST_SUITE("memory_death") {
  // Not where the code is a sanitizer's: that is other code, and ten times as much.
  TEST_CASE("a process that dies at any instruction of a link leaves whole messages" *
            doctest::skip(hawser::detail::sanitized)) {
    scene here(3600s, false);
    // What comes behind so many messages is small, or several records.
    const std::array<std::pair<unsigned, std::string>, 4> all{
        {{5, "step"}, {11, "step"}, {11, "step alone"}, {5, "step lent"}}};
    for (const auto& each : all) {
      const unsigned rounds = each.first;
      const std::string& role = each.second;
      CAPTURE(rounds);
      CAPTURE(role);
      at_every_instruction(link_points, [&](std::uint64_t n) {
        CAPTURE(n);
        here.begin();
        test::process child("dies over shared memory", here.to_be_stepped(rounds, role).text());
        stepper stepping(child.id());
        const std::uint64_t made = stepping.ready() ? stepping.step(n) : 0;
        const auto killed = hawser::clock::now();
        child.signal(SIGKILL);
        CHECK_FALSE(child.join());
        here.expect_survival(killed);
        return made;
      });
    }
  }

  TEST_CASE("processes that are killed at any time leave whole messages, and nothing else") {
    const auto kills = test::asked("HAWSER_KILLS", hawser::detail::sanitized ? 20 : 120);
    scene here(std::chrono::seconds(60 + kills / 4), true);
    std::mt19937_64 dice(test::seed());
    std::vector<double> noticed;
    // Until the first message of a child arrives, as far as is known.
    std::chrono::duration<double> starting = 20ms;

    for (unsigned i = 0; i < kills; ++i) {
      here.begin();
      const bool shm = dice() % 2 == 0;
      const orders given = dice() % 3 == 0 ? here.to_listen(shm) : here.to_connect(shm);
      INFO("kill " << i << " of one that was to " << given.role << ", " << given.uri);
      const bool by_clock = dice() % 2 == 0;
      const std::chrono::duration<double> delay =
          starting * (static_cast<double>(dice() % 1000) / 600);
      const std::uint64_t enough = 1 + dice() % 400;
      const auto began = hawser::clock::now();
      test::process child("dies over shared memory", given.text());
      if (given.role == "listen") here.reach(given.uri);
      if (by_clock) {
        await([&] { return hawser::clock::now() - began >= delay; });
      } else {
        await([&] { return here.messages() != 0; });
        starting += (hawser::clock::now() - began - starting) / 16;
        await([&] { return here.messages() >= enough; });
      }
      const auto killed = hawser::clock::now();
      child.signal(SIGKILL);
      CHECK_FALSE(child.join());
      const auto took = here.expect_survival(killed);
      if (took.count() >= 0) noticed.push_back(took.count());
    }

    CHECK(noticed.size() >= kills / 4);
    std::sort(noticed.begin(), noticed.end());
    if (std::getenv("HAWSER_KILLS") != nullptr && !noticed.empty()) {
      MESSAGE(kills << " kills, " << noticed.size()
                    << " of links in use; noticed after, in ms: p50 " << noticed[noticed.size() / 2]
                    << ", p99 " << noticed[noticed.size() * 99 / 100] << ", most "
                    << noticed.back());
    }
  }

  // What follows runs in a process of its own, see above.
  TEST_CASE("child: dies over shared memory" * doctest::skip()) {
    const orders given(test::process_argument());
    const shared_page<witness> page(given.page);
    try {
      if (given.role.starts_with("step")) {
        hawser::driven_runtime runtime(test::config());
        hawser::run(runtime, [&] { return be_stepped(given, *page); });
        return;
      }
      hawser::runtime runtime(test::config());
      if (given.role == "listen") {
        hawser::run(runtime, [&] { return listen_busily(runtime, given, *page); });
      } else {
        hawser::run(runtime, [&] { return connect_busily(given, *page); });
      }
    } catch (const std::system_error&) {
      // its parent has gone
    }
  }
}
