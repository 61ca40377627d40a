// SPDX-License-Identifier: Apache-2.0
// Every awaitable is asked to stop at a random moment: before it begins, while it waits, just as it
// completes, and afterwards; from its own worker, from another one, and from a thread that is no
// worker. It completes exactly once, and a message is delivered if and only if its send says so.
//
// HAWSER_CANCEL_RACES=1000000 runs so many.
#include "hawser/stop_token.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <iostream>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/sanitizer.hpp"
#include "hawser/hawser.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::as_result;
using hawser::errc;
using hawser::link;
using hawser::scope;
using hawser::task;
using test::linked;
using test::transport;

enum class what : std::uint8_t {
  send, send_batch, recv, recv_batch, flush, sleep, timeout, when_any, offload,  // on one link
  finish, opened, close, ended, accept, connect                                 // each on a new one
};
constexpr std::size_t kinds = 15;
constexpr std::size_t kinds_on_one_link = 9;
constexpr std::array<const char*, kinds> names{
    "send", "send_batch", "recv", "recv_batch", "flush", "sleep", "timeout", "when_any",
    "offload", "finish", "opened", "close", "ended", "accept", "connect"};

enum class moment : std::uint8_t { before, waiting, completion, after };

std::uint64_t races_wanted() {
  return test::asked("HAWSER_CANCEL_RACES", hawser::detail::sanitized ? 2'000 : 8'000);
}

// ---- what was sent and what came ---------------------------------------------------------------

/// The messages of one lane, by number. At most one send is under way.
///
/// Threads: any.
class ledger {
 public:
  std::uint64_t begin(std::size_t count) {
    const std::lock_guard guard(mutex_);
    first_pending_ = next_;
    next_ += count;
    pending_end_ = next_;
    delivered_ = 0;
    return first_pending_;
  }
  /// The first `accepted` of those were, says the sender.
  void settle(std::uint64_t accepted) {
    const std::lock_guard guard(mutex_);
    if (delivered_ > accepted) ++wrong_;  // one that was cancelled has arrived
    for (auto each = delivered_; each < accepted; ++each) sent_.push_back(first_pending_ + each);
    pending_end_ = first_pending_ = next_;
    delivered_ = 0;
  }
  void receive(const hawser::message& message) {
    std::uint64_t number = ~0ULL;
    if (message.size() >= sizeof number) {
      std::memcpy(&number, message.bytes().data(), sizeof number);
    }
    const std::lock_guard guard(mutex_);
    ++received_;
    if (!sent_.empty()) {
      if (sent_.front() != number) ++wrong_;  // lost, doubled or out of order
      sent_.pop_front();
    } else if (number == first_pending_ + delivered_ && number < pending_end_) {
      ++delivered_;
    } else {
      ++wrong_;
    }
  }
  [[nodiscard]] std::size_t under_way() const {
    const std::lock_guard guard(mutex_);
    return sent_.size();
  }
  [[nodiscard]] unsigned wrong() const {
    const std::lock_guard guard(mutex_);
    return wrong_;
  }
  [[nodiscard]] std::uint64_t received() const {
    const std::lock_guard guard(mutex_);
    return received_;
  }

 private:
  mutable std::mutex mutex_;
  std::deque<std::uint64_t> sent_;  // accepted and not received
  std::uint64_t next_ = 0;
  std::uint64_t first_pending_ = 0;
  std::uint64_t pending_end_ = 0;
  std::uint64_t delivered_ = 0;  // of the pending ones
  std::uint64_t received_ = 0;
  unsigned wrong_ = 0;
};

hawser::buffer numbered(std::uint64_t number, std::size_t bytes) {
  hawser::buffer made(std::max(bytes, sizeof number));
  std::memcpy(made.data(), &number, sizeof number);
  return made;
}

// ---- a thread that is no worker ----------------------------------------------------------------

/// Asks a scope to stop after some idle turns.
class stranger {
 public:
  stranger() : thread_([this] { work(); }) {}
  stranger(const stranger&) = delete;
  stranger& operator=(const stranger&) = delete;
  ~stranger() {
    ended_.store(true);
    asked_.fetch_add(1);
    asked_.notify_one();
    thread_.join();
  }
  void ask(scope& target, unsigned delay) {
    target_ = &target;
    delay_ = delay;
    asked_.fetch_add(1);
    asked_.notify_one();
  }
  [[nodiscard]] bool is_done() const { return done_.load() == asked_.load(); }

 private:
  void work() {
    for (unsigned seen = 0;; done_.store(++seen)) {
      asked_.wait(seen);
      if (ended_.load()) return;
      for (unsigned i = 0; i < delay_; ++i) static_cast<void>(ended_.load());
      target_->request_stop();
    }
  }

  scope* target_ = nullptr;
  unsigned delay_ = 0;
  std::atomic<unsigned> asked_{0};
  std::atomic<unsigned> done_{0};
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

// ---- one race ----------------------------------------------------------------------------------

struct race {
  what kind{};
  moment when{};
  bool by_stranger = false;
  unsigned delay = 0;
  std::size_t bytes = 0;

  std::atomic<scope*> inside{nullptr};
  std::atomic<unsigned> completions{0};
  std::atomic<bool> released{false};
  std::error_code end;  // clear: with a value

  // Of those with a link of their own.
  link client;
  link server;
  link accepted;
  std::optional<hawser::listener> listener;
};

struct arena {
  arena() : ends(transport::inproc, habits(), 60s + std::chrono::seconds(races_wanted() / 200)) {}

  static test::habits habits() {
    test::habits how;
    how.threads = 2;
    how.client.window_bytes.fill(64 << 10);
    how.server.link.window_bytes.fill(64 << 10);
    return how;
  }

  linked ends;
  ledger book;
  stranger outside;
  std::array<std::uint64_t, kinds> ran{};
  std::array<std::uint64_t, kinds> cancelled{};
  unsigned wrong_ends = 0;
};

template <class T>
void note(race& one, const hawser::result<T>& got) {
  if (!got.has_value()) one.end = got.error().code();
}

task<void> nap() {
  co_await hawser::this_task::sleep_for(20us);
}

task<void> perform_send(arena& all, race& one) {
  const auto number = all.book.begin(1);
  const auto sent =
      co_await as_result(all.ends.client.rpc().send(numbered(number, one.bytes)));
  all.book.settle(sent.has_value() ? 1 : 0);
  note(one, sent);
}

task<void> perform_send_batch(arena& all, race& one) {
  hawser::channel& to = all.ends.client.rpc();
  co_await to.flush();  // on its home: the counts are read there
  const auto first = all.book.begin(4);
  std::vector<hawser::message> batch;
  for (std::uint64_t i = 0; i < 4; ++i) batch.emplace_back(numbered(first + i, one.bytes));
  const auto before = to.counts().accepted;
  const auto sent = co_await as_result(to.send_batch(batch));
  all.book.settle(to.counts().accepted - before);
  note(one, sent);
}

task<void> perform_recv(arena& all, race& one) {
  const auto got = co_await as_result(all.ends.server.rpc().recv());
  if (got.has_value()) all.book.receive((*got).value());
  note(one, got);
}

task<void> perform_recv_batch(arena& all, race& one) {
  const auto got = co_await as_result(all.ends.server.rpc().recv_batch(3));
  if (got.has_value()) {
    for (const auto& each : *got) all.book.receive(each);
  }
  note(one, got);
}

task<void> perform_when_any(race& one) {
  const auto got = co_await as_result(hawser::when_any(nap(), hawser::this_task::yield()));
  note(one, got);
}

task<void> perform_accept(race& one) {
  auto got = co_await as_result(one.listener->accept());
  if (got.has_value()) one.accepted = std::move(*got);
  note(one, got);
}

task<void> perform_connect(race& one) {
  auto got = co_await as_result(hawser::connect(one.listener->uri()));
  if (got.has_value()) one.client = std::move(*got);
  note(one, got);
}

template <class A>
task<void> perform_plainly(race& one, A operation) {
  const auto got = co_await as_result(std::move(operation));
  note(one, got);
}

task<void> nothing() {
  co_return;
}

task<void> operation_of(arena& all, race& one) {
  switch (one.kind) {
    case what::send:
      return perform_send(all, one);
    case what::send_batch:
      return perform_send_batch(all, one);
    case what::recv:
      return perform_recv(all, one);
    case what::recv_batch:
      return perform_recv_batch(all, one);
    case what::flush:
      return perform_plainly(one, all.ends.client.rpc().flush());
    case what::sleep:
      return perform_plainly(one, nap());
    case what::timeout:
      return perform_plainly(one, hawser::timeout(10s, nap()));
    case what::when_any:
      return perform_when_any(one);
    case what::offload:
      return perform_plainly(one, hawser::offload([] {}));
    case what::finish:
      return perform_plainly(one, one.client.bulk().finish());
    case what::opened:
      return perform_plainly(one, one.client.opened());
    case what::close:
      return perform_plainly(one, one.client.close());
    case what::ended:
      return perform_plainly(one, one.client.ended());
    case what::accept:
      return perform_accept(one);
    case what::connect:
      return perform_connect(one);
  }
  return nothing();
}

task<void> perform(arena& all, race& one) {
  try {
    co_await operation_of(all, one);
  } catch (const std::system_error& error) {
    one.end = error.code();  // the flush that comes before a batch
  }
  one.completions.fetch_add(1);
}

// Its own awaits are asked to stop too: it goes on as long as it is needed.
task<void> stage(scope& inside, arena& all, race& one) {
  if (one.when == moment::before) inside.request_stop();
  inside.spawn(perform(all, one));
  one.inside.store(&inside);
  while (!one.released.load()) {
    const auto ignored = co_await as_result(hawser::this_task::yield());
    static_cast<void>(ignored);
  }
}

// ---- what completes the operations -------------------------------------------------------------

task<void> send_one(arena& all) {
  const auto number = all.book.begin(1);
  co_await all.ends.client.rpc().send(numbered(number, 8));
  all.book.settle(1);
}

task<void> drain(arena& all) {
  while (all.book.under_way() != 0) {
    auto got = co_await all.ends.server.rpc().recv();
    all.book.receive(got.value());
  }
}

task<void> complete(arena& all, race& one) {
  switch (one.kind) {
    case what::send:
    case what::send_batch:
      co_await drain(all);
      break;
    case what::recv:
    case what::recv_batch:
      if (all.book.under_way() == 0) co_await send_one(all);
      break;
    case what::ended:
      co_await one.server.close();
      break;
    case what::accept:
      one.client = co_await hawser::connect(one.listener->uri());
      break;
    default:
      break;  // they complete by themselves
  }
}

task<void> stop(arena& all, race& one) {
  scope& inside = *one.inside.load();
  if (!one.by_stranger) {
    inside.request_stop();
    co_return;
  }
  all.outside.ask(inside, one.delay);
}

task<void> disturb(arena& all, race& one) {
  while (one.inside.load() == nullptr) co_await hawser::this_task::yield();
  switch (one.when) {
    case moment::before:
      break;
    case moment::waiting:
      for (unsigned i = 0; i < one.delay % 4; ++i) co_await hawser::this_task::yield();
      co_await stop(all, one);
      break;
    case moment::completion:
      if (one.delay % 2 == 0) co_await stop(all, one);
      co_await complete(all, one);
      if (one.delay % 2 != 0) co_await stop(all, one);
      break;
    case moment::after:
      co_await complete(all, one);
      while (one.completions.load() == 0) co_await hawser::this_task::yield();
      co_await stop(all, one);
      break;
  }
  while (!all.outside.is_done()) co_await hawser::this_task::yield();
  one.released.store(true);
}

// ---- before and after --------------------------------------------------------------------------

task<void> take_link(hawser::listener& from, link& taken) {
  taken = co_await from.accept();
}

task<void> make_link(std::string uri, hawser::link_options options, link& made) {
  made = co_await hawser::connect(std::move(uri), options);
}

task<void> prepare(arena& all, race& one, std::uint64_t number) {
  if (static_cast<std::size_t>(one.kind) < kinds_on_one_link) co_return;
  const std::string uri = "inproc:race" + std::to_string(number);
  one.listener.emplace(hawser::listen(all.ends.runtime, uri));
  if (one.kind == what::accept || one.kind == what::connect) co_return;
  hawser::link_options options;
  options.early = one.kind == what::opened;
  co_await hawser::when_all(take_link(*one.listener, one.server),
                            make_link(uri, options, one.client));
}

// What was asked for happens all the same, or can be done again.
task<void> settle(arena& all, race& one) {
  switch (one.kind) {
    case what::finish: {
      const auto end = co_await one.server.bulk().recv();
      if (end.has_value()) ++all.wrong_ends;
      break;
    }
    case what::opened:
      co_await one.client.opened();
      break;
    case what::close:
    case what::ended: {
      co_await hawser::when_all(one.client.close(), one.server.close());
      const auto why = co_await one.client.ended();
      if (why.code() != errc::closed) ++all.wrong_ends;
      break;
    }
    case what::accept:
      if (one.client && !one.accepted) one.accepted = co_await one.listener->accept();
      if (one.client) co_await one.client.close();
      break;
    default:
      break;
  }
  if (all.book.under_way() > 6) co_await drain(all);
}

task<void> run_race(arena& all, race& one, std::uint64_t number) {
  co_await prepare(all, one, number);
  co_await hawser::when_all(hawser::with_scope(stage, std::ref(all), std::ref(one)),
                            disturb(all, one));
  co_await settle(all, one);
}

bool is_possible(const race& one) {
  return one.completions == 1 && (!one.end || one.end == errc::cancelled);
}

// All that can have both outcomes.
constexpr std::array two_ended{what::recv,   what::recv_batch, what::send,   what::sleep,
                               what::accept, what::connect,    what::offload};

bool has_seen_both(const arena& all) {
  return std::all_of(two_ended.begin(), two_ended.end(), [&all](what each) {
    const auto at = static_cast<std::size_t>(each);
    return all.cancelled.at(at) > 0 && all.cancelled.at(at) < all.ran.at(at);
  });
}

// More than `count` of them if some outcome is missing then, which depends on the machine.
task<void> run_races(arena& all, std::uint64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&random](std::uint64_t most) { return random() % most; };
  // A batch of four of the largest fits into three quarters of the window, once nothing else is in
  // it: so a drained channel lets every sender go on.
  constexpr std::array<std::size_t, 3> sizes{8, 3000, 12'000};
  for (std::uint64_t i = 0; i < count || (i < 4 * count && !has_seen_both(all)); ++i) {
    race one;
    const bool new_link = below(32) == 0;
    one.kind = static_cast<what>(new_link ? kinds_on_one_link + below(kinds - kinds_on_one_link)
                                          : below(kinds_on_one_link));
    one.when = static_cast<moment>(below(4));
    one.by_stranger = below(2) == 0;
    one.delay = static_cast<unsigned>(below(below(8) == 0 ? 3000 : 40));
    one.bytes = sizes.at(below(sizes.size()));
    co_await run_race(all, one, i);
    const auto kind = static_cast<std::size_t>(one.kind);
    ++all.ran.at(kind);
    if (one.end) ++all.cancelled.at(kind);
    INFO("race " << i << ": " << std::string(names.at(kind)) << ", " << one.completions.load()
                 << " completions, " << one.end.message());
    REQUIRE(is_possible(one));
    REQUIRE(all.book.wrong() == 0);
  }
  co_await drain(all);
}

}  // namespace

TEST_SUITE("cancel_race") {
  TEST_CASE("whatever is asked to stop, and whenever, completes once, and no message is lost") {
    arena all;
    const std::uint64_t count = races_wanted();

    hawser::sync_wait(all.ends.runtime, run_races(all, count, test::seed()));

    CHECK(all.book.wrong() == 0);
    CHECK(all.book.under_way() == 0);
    CHECK(all.wrong_ends == 0);
    for (std::size_t i = 0; i < kinds; ++i) {
      std::cout << "  " << names.at(i) << ": " << all.ran.at(i) << " races, "
                << all.cancelled.at(i) << " cancelled\n";
      CHECK(all.ran.at(i) > 0);
    }
    std::cout << "  " << all.book.received() << " messages received\n";
    CHECK(has_seen_both(all));
  }
}
