// SPDX-License-Identifier: Apache-2.0
// Every allocation fails in turn. A scenario is run again and again: first with its first
// allocation failing, then with its second, until it comes to its end without a failure; and the
// same once more with as many as fifty in a row. Whatever fails must be an error with a name, or
// be absorbed; a link that is made afterwards works; and nothing is left behind.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "support/allocations.hpp"
#include "support/config.hpp"
#include "support/links.hpp"
#include "support/watchdog.hpp"

namespace {

using hawser::errc;
using hawser::lane;
using hawser::link;
using hawser::listener;
using hawser::priority;
using hawser::runtime;
using hawser::scope;
using hawser::task;
using namespace std::chrono_literals;

constexpr std::uint64_t in_a_row = 50;
constexpr std::size_t large_bytes = 600'000;  // more than a window of rpc: it goes in slices

/// What the scenarios are given: things that a test has made before anything fails.
struct surroundings {
  const test::folder& place;
  hawser::executor_config config;
};

// ---- what the scenarios do ------------------------------------------------------------------

[[noreturn]] void give_up(const char* where) {
  hawser::failure(errc::link_lost, where).raise();
}

task<void> expect(hawser::channel& from, std::size_t bytes) {
  const auto got = co_await from.recv();
  if (!got.has_value()) give_up("the channel ended");
  if (got->size() != bytes) std::terminate();
}

// Sends back whatever comes, on every channel, until the client closes.
task<void> echo_channel(link peer, priority which) {
  hawser::channel& here = peer.at(which);
  while (auto got = co_await here.recv()) {
    const lane via = got->via();
    const auto sent = co_await hawser::as_result(here.send(std::move(*got), via));
    if (sent.has_value()) continue;
    if (sent.error().code() == errc::closed) co_return;
    sent.error().raise();
  }
}

task<void> echo_link(scope& all, link peer) {
  for (const priority which : test::kinds) all.spawn(echo_channel(peer, which));
  co_return;
}

task<void> serve_one(listener& here) {
  link peer = co_await here.accept();
  co_await hawser::with_scope(echo_link, std::move(peer));
}

// The client's half runs beside the server's; the first failure ends both.
using client_half = task<void> (*)(link);

task<void> client(std::string uri, hawser::link_options options, client_half talk) {
  link peer = co_await hawser::connect(std::move(uri), options);
  co_await talk(peer);
  co_await peer.close();
}

task<void> both(scope& all, listener& here, hawser::link_options options, client_half talk) {
  all.spawn(serve_one(here));
  all.spawn(client(here.uri(), options, talk));
  co_return;
}

void talk_over(runtime& where, const std::string& uri, const hawser::link_options& options,
               client_half talk) {
  listener here = hawser::listen(where, uri, {.link = options});
  hawser::run(where, both, std::ref(here), options, talk);
}

task<void> say_little(link peer) {
  co_await peer.rpc().send("a question");
  co_await expect(peer.rpc(), 10);
}

task<void> use_all_channels(link peer) {
  for (const priority which : test::kinds) {
    hawser::channel& here = peer.at(which);
    co_await here.send("normal");
    co_await here.send("more urgent", lane::urgent);
    const auto first = co_await here.recv();
    const auto second = co_await here.recv();
    if (!first.has_value() || !second.has_value()) give_up("the channel ended");
  }
}

task<void> send_much(link peer) {
  for (const priority which : {priority::rpc, priority::stream, priority::bulk}) {
    co_await peer.at(which).send(hawser::buffer(large_bytes));
    co_await expect(peer.at(which), large_bytes);
  }
  co_await peer.bulk().send(std::string(30'000, 'x'));  // copied
  co_await expect(peer.bulk(), 30'000);
}

// Attaching begins when a channel has been used for two milliseconds.
task<void> stay_until_attached(link peer) {
  co_await say_little(peer);
  co_await hawser::this_task::sleep_for(4ms);
  co_await say_little(peer);
  co_await send_much(peer);
}

task<void> lend(link peer) {
  constexpr std::size_t bytes = 100'000;
  for (int i = 0; i < 3; ++i) {
    hawser::buffer lent = co_await peer.bulk().loan(bytes);
    std::memset(lent.data(), i, bytes);
    co_await peer.bulk().send(std::move(lent));
    co_await expect(peer.bulk(), bytes);
  }
}

task<void> send_batches(link peer) {
  std::vector<hawser::message> many;
  for (std::size_t i = 0; i < 40; ++i) many.emplace_back(hawser::buffer(i * 200));
  co_await peer.stream().send_batch(many);
  co_await peer.stream().flush();
  co_await peer.stream().finish();
  for (std::size_t got = 0; got < 40;) {
    const auto some = co_await peer.stream().recv_batch(7);
    if (some.empty()) give_up("the channel ended");
    for (const auto& each : some) {
      if (each.size() != got++ * 200) std::terminate();  // lost, or out of order
    }
  }
  if (!peer.rpc().try_send(std::as_bytes(std::span("text")))) give_up("no room");
  co_await expect(peer.rpc(), 5);
}

task<void> close_twice(link peer) {
  co_await say_little(peer);
  co_await peer.control().send("on its way");
  co_await hawser::when_all(peer.close(), peer.ended());
}

task<void> give_up_receiving(link peer) {
  auto none = co_await hawser::as_result(hawser::timeout(1ms, peer.rpc().recv()));
  if (none.has_value()) give_up("the channel ended");
  if (none.error().code() != errc::timed_out) none.error().raise();
  auto first = co_await hawser::when_any(peer.rpc().recv(), hawser::this_task::sleep_for(1ms));
  static_cast<void>(first);
  co_await say_little(peer);
}

void over_tcp(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "tcp://127.0.0.1:0", {}, say_little);
}
void over_unix(runtime& where, const surroundings& given) {
  talk_over(where, "unix:" + (given.place / "socket"), {}, say_little);
}
void over_inproc(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {}, say_little);
}
void by_name(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "tcp://localhost:0", {}, say_little);
}
void early(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "tcp://127.0.0.1:0", {.early = true}, say_little);
}
void all_channels(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {.channels = 1}, use_all_channels);
}
void large_messages(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {.channels = 1}, send_much);
}
void shared(runtime& where, const surroundings& given) {
  talk_over(where, "shm:" + (given.place / "shared"),
            {.arena_bytes = 256 << 10, .handshake_timeout = 200ms, .close_timeout = 200ms}, lend);
}
void own_sockets(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {}, stay_until_attached);
}
void batches(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {.channels = 1}, send_batches);
}
void closing(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {.channels = 1}, close_twice);
}
void giving_up(runtime& where, const surroundings& /*given*/) {
  talk_over(where, "inproc:here", {.channels = 1}, give_up_receiving);
}

// The handles are dropped, and the runtime ends, while failures go on.
task<void> take_one(listener& here, std::optional<link>& taken) {
  link accepted = co_await here.accept();
  taken.emplace(std::move(accepted));
  co_await taken->control().send("hello");
}
// One that nobody could be given ends in order.
task<void> make_one(std::string uri, std::optional<link>& made) {
  link connected = co_await hawser::connect(std::move(uri));
  made.emplace(std::move(connected));
  co_await expect(made->control(), 5);
}
task<void> make_both(scope& all, listener& here, std::optional<link>& made,
                     std::optional<link>& taken) {
  all.spawn(take_one(here, taken));
  all.spawn(make_one(here.uri(), made));
  co_return;
}
task<void> leave_something(link peer) {
  co_await peer.rpc().send(hawser::buffer(100'000));
  co_await peer.stream().send("unread");
}
void whole_life(runtime& /*other*/, const surroundings& given) {
  runtime where(given.config);
  listener here = hawser::listen(where, "inproc:here");
  std::optional<link> made;
  std::optional<link> taken;
  hawser::run(where, make_both, std::ref(here), std::ref(made), std::ref(taken));
  hawser::run(where, leave_something, *made);
}

void dropped_handles(runtime& where, const surroundings& /*given*/) {
  listener here = hawser::listen(where, "inproc:here");
  std::optional<link> made;
  std::optional<link> taken;
  hawser::run(where, make_both, std::ref(here), std::ref(made), std::ref(taken));
  hawser::run(where, leave_something, *made);
  taken.reset();
  made.reset();
}

void driven(runtime& /*other*/, const surroundings& given) {
  hawser::executor_config config = given.config;
  config.threads = 1;
  hawser::driven_runtime where(config);
  talk_over(where, "inproc:here", {.channels = 1}, say_little);
}

// ---- without links --------------------------------------------------------------------------

task<void> nap() {
  co_await hawser::this_task::sleep_for(100us);
}
task<int> count_to(int value) {
  co_await hawser::this_task::yield();
  co_return value;
}
task<int> compute(int value) {
  co_return value;
}

task<void> structure(scope& all) {
  for (int i = 0; i < 4; ++i) all.spawn(nap());
  for (int i = 0; i < 4; ++i) all.serve(nap());
  const auto gathered = co_await hawser::when_all(count_to(1), count_to(2));
  auto any = co_await hawser::when_any(count_to(3), nap());
  const auto computed = co_await hawser::parallel(compute(4), compute(5));
  co_await hawser::timeout(10s, nap());
  const int six = co_await hawser::offload([] { return 6; });
  static_cast<void>(any);
  const auto [one, two] = gathered;
  const auto [four, five] = computed;
  if (one + two + four + five + six != 18) std::terminate();
}
void tasks(runtime& where, const surroundings& /*given*/) {
  hawser::run(where, structure);
}

void posts(runtime& where, const surroundings& /*given*/) {
  std::atomic<int> ran{0};
  int made = 0;
  std::exception_ptr failed;
  try {
    for (; made < 4; ++made) where.post([&ran] { ++ran; });
    hawser::start(where, nap());
  } catch (...) {
    failed = std::current_exception();
  }
  while (ran < made) std::this_thread::yield();
  if (failed) std::rethrow_exception(failed);
}

// ---- failing --------------------------------------------------------------------------------

struct scenario {
  const char* name;
  void (*run)(runtime&, const surroundings&);
};

constexpr std::array scenarios{
    scenario{"a runtime begins, has a link, and ends", whole_life},
    scenario{"a driven runtime", driven},
    scenario{"tasks", tasks},
    scenario{"posts", posts},
    scenario{"tcp", over_tcp},
    scenario{"unix", over_unix},
    scenario{"inproc", over_inproc},
    scenario{"a name is resolved", by_name},
    scenario{"early frames", early},
    scenario{"all channels, both lanes", all_channels},
    scenario{"large messages", large_messages},
    scenario{"shared memory that lends", shared},
    scenario{"channels with sockets of their own", own_sockets},
    scenario{"batches, flush and finish", batches},
    scenario{"close", closing},
    scenario{"timeouts and races", giving_up},
    scenario{"dropped handles", dropped_handles},
};

bool is_named(std::string_view outcome) {
  static const std::array texts{
      std::string("std::bad_alloc"),
      hawser::make_error_code(errc::resource_exhausted).message(),
      hawser::make_error_code(errc::link_lost).message(),
      hawser::make_error_code(errc::closed).message(),
      hawser::make_error_code(errc::refused).message(),
      hawser::make_error_code(errc::unreachable).message(),
      std::string("no shared memory: no memory"),
      std::string("no shared memory: hung up before the first frame"),  // it had none
      std::string("no shared memory: no first frame in time"),
      std::string("no shared memory: Connection reset by peer"),
      std::string("no shared memory: Broken pipe"),
      std::make_error_code(std::errc::not_enough_memory).message(),
  };
  return std::any_of(texts.begin(), texts.end(), [&](const std::string& each) {
    return outcome.find(each) != std::string_view::npos;
  });
}

struct figures {
  std::uint64_t runs = 0;
  std::uint64_t failed = 0;    // allocations
  std::uint64_t absorbed = 0;  // runs with a failure that nobody was told of
};

// The end of a runtime is to be clean: its log would say what it has left behind.
struct complaints {
  std::atomic<unsigned> count{0};

  hawser::log_sink sink() {
    return [this](const hawser::log_event& event) {
      if (event.area == "runtime") ++count;
    };
  }
};

// How a run ended, in words; no word: well. Fixed room, so that nothing is allocated for it.
class outcome_text {
 public:
  void set(const char* text) noexcept { std::strncpy(text_.data(), text, text_.size() - 1); }
  [[nodiscard]] std::string_view view() const noexcept { return text_.data(); }

 private:
  std::array<char, 400> text_{};
};

struct run_result {
  std::uint64_t failed = 0;
  outcome_text outcome;
  outcome_text afterwards;
};

void run_once(const scenario& what, runtime& where, const surroundings& given,
              outcome_text& outcome) {
  try {
    what.run(where, given);
  } catch (const std::exception& error) {
    outcome.set(error.what());
  }
}

void run_with_faults(const scenario& what, const surroundings& given, std::uint64_t first,
                     std::uint64_t count, run_result& result) {
  runtime where(given.config);
  {
    const test::allocation_faults faults(first, count);
    run_once(what, where, given, result.outcome);
    result.failed = faults.failed();
  }
  run_once({"afterwards", over_inproc}, where, given, result.afterwards);
}

// A thread of its own: what threads keep for their next allocations goes with them.
// False: no allocation was left to fail.
bool fail_from(const scenario& what, const surroundings& given, std::uint64_t first,
               std::uint64_t count, figures& sum) {
  auto result = std::make_unique<run_result>();
  const auto before = test::allocations().outstanding;
  std::thread([&] { run_with_faults(what, given, first, count, *result); }).join();
  const auto left = test::allocations().outstanding - before;
  const auto complain = [&](const std::string& text) {
    FAIL_CHECK(std::string(what.name) << ", failing from " << first << " on: " << text);
  };
  const std::string outcome(result->outcome.view());
  const std::string afterwards(result->afterwards.view());
  if (!outcome.empty() && (result->failed == 0 || !is_named(outcome))) complain(outcome);
  if (!afterwards.empty()) complain("afterwards " + afterwards);
  if (left != 0) complain(std::to_string(left) + " allocations were not freed");
  ++sum.runs;
  sum.failed += result->failed;
  if (outcome.empty() && result->failed != 0) ++sum.absorbed;
  return result->failed != 0;
}

void fail_all(unsigned threads, std::uint64_t count) {
  const test::folder place;
  complaints said;
  hawser::executor_config config = test::config(threads);
  config.log = said.sink();
  const surroundings given{place, config};
  for (const scenario& what : scenarios) {
    test::watchdog dog(60s);
    const auto start = std::chrono::steady_clock::now();
    figures sum;
    // Once without: what is made at its first use stays.
    fail_from(what, given, ~0ULL - count, count, sum);
    sum = {};
    // What several workers do differs from run to run anyway: not every number is worth one.
    const std::uint64_t step = threads == 1 ? 1 : 3;
    for (std::uint64_t first = 1; fail_from(what, given, first, count, sum); first += step) {
    }
    const auto took = std::chrono::steady_clock::now() - start;
    std::cout << "  " << what.name << ": " << sum.failed << " allocations failed in " << sum.runs
              << " runs, " << sum.absorbed << " of them went well, "
              << std::chrono::duration_cast<std::chrono::milliseconds>(took).count() << " ms\n";
    CHECK(sum.failed > 0);
    CHECK(said.count == 0);
  }
}

}  // namespace

TEST_SUITE("allocation_failure") {
  TEST_CASE("each allocation fails in turn") {
    fail_all(1, 1);
  }

  TEST_CASE("each allocation fails in turn, with several workers") {
    fail_all(2, 1);
  }

  TEST_CASE("many allocations fail, and then none") {
    fail_all(1, in_a_row);
  }

  TEST_CASE("many allocations fail on several workers, and then none") {
    fail_all(2, in_a_row);
  }
}
