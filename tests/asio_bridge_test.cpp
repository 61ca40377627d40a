// SPDX-License-Identifier: Apache-2.0
#include "hawser/asio.hpp"

#include <doctest/doctest.h>

#include <array>
#include <asio.hpp>
#include <asio/experimental/as_tuple.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/experimental/deferred.hpp>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
#include "support/folder.hpp"
#include "support/links.hpp"
#include "support/watchdog.hpp"

namespace {

using asio::use_awaitable;
using hawser::errc;
using hawser::task;
using hawser::use_task;
using tcp = asio::ip::tcp;
using namespace std::chrono_literals;

// ---- an executor for Asio -----------------------------------------------------------------------

namespace execution = asio::execution;
using hawser::asio_executor;

static_assert(execution::is_executor<asio_executor>::value);
static_assert(asio::can_require<asio_executor, execution::blocking_t::never_t>::value);
static_assert(asio::can_require<asio_executor, execution::blocking_t::possibly_t>::value);
static_assert(asio::can_require<asio_executor, execution::relationship_t::fork_t>::value);
static_assert(asio::can_require<asio_executor, execution::relationship_t::continuation_t>::value);
static_assert(asio::can_require<asio_executor, execution::outstanding_work_t::tracked_t>::value);
static_assert(asio::can_require<asio_executor, execution::outstanding_work_t::untracked_t>::value);
static_assert(asio::can_query<asio_executor, execution::context_t>::value);
static_assert(asio::can_query<asio_executor, execution::mapping_t>::value);
static_assert(std::convertible_to<asio_executor, asio::any_io_executor>);
static_assert(std::is_nothrow_copy_constructible_v<asio_executor>);

// ---- support ------------------------------------------------------------------------------------

/// An io_context with a thread that runs it, for runtimes that have threads of their own.
class io_thread {
 public:
  io_thread() : keep_(io_.get_executor()), thread_([this] { io_.run(); }) {}
  ~io_thread() { stop(); }
  void stop() {
    keep_.reset();
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  [[nodiscard]] asio::io_context& io() noexcept { return io_; }
  [[nodiscard]] std::thread::id id() const noexcept { return thread_.get_id(); }

 private:
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> keep_;
  std::thread thread_;
};

struct socket_pair {
  explicit socket_pair(asio::io_context& io) : near(io), far(io) {
    asio::local::connect_pair(near, far);
  }
  asio::local::stream_protocol::socket near;
  asio::local::stream_protocol::socket far;
};

// What a handler was called with.
template <class Error, class Value>
struct told {
  unsigned times = 0;
  Error error{};
  Value value{};
  std::thread::id where{};

  auto handler() {
    return [this](Error why, Value got) {
      ++times;
      error = std::move(why);
      value = std::move(got);
      where = std::this_thread::get_id();
    };
  }
};

// Counts what is allocated and not given back.
struct allocations {
  std::size_t live = 0;
  unsigned handlers = 0;
};

template <class T>
struct counting_allocator {
  using value_type = T;

  explicit counting_allocator(allocations& in) noexcept : counts(&in) {}
  template <class U>
  counting_allocator(const counting_allocator<U>& other) noexcept : counts(other.counts) {}
  T* allocate(std::size_t count) const {
    counts->live += count * sizeof(T);
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* used, std::size_t count) const noexcept {
    counts->live -= count * sizeof(T);
    std::allocator<T>().deallocate(used, count);
  }
  bool operator==(const counting_allocator& other) const noexcept = default;

  allocations* counts;
};

std::error_code code_of(const std::exception_ptr& error) {
  if (!error) return {};
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& why) {
    return why.code();
  }
}

task<int> give(int value) {
  co_return value;
}
task<int> give_later(std::chrono::milliseconds after, int value) {
  co_await hawser::this_task::sleep_for(after);
  co_return value;
}
task<int> fail_with(errc code) {
  hawser::failure(code, "on purpose").raise();
  co_return 0;
}
task<int> throw_else() {
  throw std::logic_error("else");
  co_return 0;
}
task<void> nothing() {
  co_return;
}

std::size_t threads_of_this_process() {
  const std::filesystem::directory_iterator all("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// A link within one runtime.
struct link_pair {
  hawser::link client;
  hawser::link server;
};

task<void> connect_both(hawser::listener listener, link_pair& made) {
  auto both = co_await hawser::when_all(listener.accept(), hawser::connect(listener.uri()));
  made.server = std::move(std::get<0>(both));
  made.client = std::move(std::get<1>(both));
}

link_pair make_links(hawser::runtime& where, std::string_view name = "inproc:bridge") {
  link_pair made;
  hawser::sync_wait(where, connect_both(hawser::listen(where, name), made));
  return made;
}

// The example of the README, to be compared with it (readme_test.cpp) and run.
std::string run_readme_example() {
  std::string said;
  // from here: bridge
  asio::io_context io(1);
  hawser::asio_runtime runtime(io);  // in the io_context's thread; no other
  auto listener = hawser::listen(runtime, "inproc:greetings");

  asio::co_spawn(io, [&]() -> asio::awaitable<void> {
    auto link = co_await hawser::async_start(runtime, listener.accept(), asio::use_awaitable);
    co_await hawser::async_start(runtime, link.rpc().send("hello"), asio::use_awaitable);
  }, asio::detached);

  hawser::start(runtime, [](asio::io_context& on, std::string& heard) -> hawser::task<void> {
    const auto link = co_await hawser::connect("inproc:greetings");
    const auto message = co_await link.rpc().recv();
    co_await asio::steady_timer(on, 1ms).async_wait(hawser::use_task);
    heard = message->text();
  }(io, said));
  // to here
  while (said.empty()) io.run_one();
  return said;
}

// ---- tasks that await Asio ----------------------------------------------------------------------

task<std::size_t> read_some(asio::local::stream_protocol::socket& from, std::span<char> into) {
  co_return co_await from.async_read_some(asio::buffer(into.data(), into.size()), use_task);
}

task<std::string> read_exactly(asio::local::stream_protocol::socket& from, std::size_t count) {
  std::string text(count, ' ');
  const auto got = co_await asio::async_read(from, asio::buffer(text), use_task);
  text.resize(got);
  co_return text;
}

task<hawser::executor_config> stay_home(asio::io_context& io, bool& stayed) {
  auto* const home = hawser::detail::executor::current();
  asio::steady_timer timer(io);
  stayed = true;
  for (unsigned i = 0; i < 50; ++i) {
    timer.expires_after(i % 2 == 0 ? 0us : 200us);
    co_await timer.async_wait(use_task);
    stayed = stayed && hawser::detail::executor::current() == home;
  }
  co_return hawser::executor_config{};
}

}  // namespace

TEST_SUITE("use_task") {
  TEST_CASE("a task awaits values, its own worker goes on") {
    const test::watchdog dog(60s);
    io_thread loop;
    hawser::runtime runtime(test::config(2));
    socket_pair pair(loop.io());

    asio::write(pair.far, asio::buffer(std::string_view("hello")));
    CHECK(hawser::sync_wait(runtime, read_exactly(pair.near, 5)) == "hello");
    bool stayed = false;
    static_cast<void>(hawser::sync_wait(runtime, stay_home(loop.io(), stayed)));
    CHECK(stayed);
  }

  TEST_CASE("what a signature has behind its error is what is yielded") {
    const test::watchdog dog(60s);
    io_thread loop;
    hawser::runtime runtime(test::config(1));
    const auto start = [&]<class Signature>(std::in_place_type_t<Signature> /*which*/, auto say) {
      return asio::async_initiate<const hawser::use_task_t, Signature>(
          [&io = loop.io(), say](auto handler) {
            asio::post(io, [say, handler = std::move(handler)]() mutable { say(handler); });
          },
          use_task);
    };
    const auto body = [&]() -> task<void> {
      co_await start(std::in_place_type<void()>, [](auto& handler) { handler(); });
      const int one = co_await start(std::in_place_type<void(int)>,
                                     [](auto& handler) { handler(1); });
      CHECK(one == 1);
      const std::tuple<int, std::string> two =
          co_await start(std::in_place_type<void(std::error_code, int, std::string)>,
                         [](auto& handler) { handler(std::error_code(), 2, "two"); });
      CHECK(std::get<1>(two) == "two");
      auto owned = co_await start(
          std::in_place_type<void(std::exception_ptr, std::unique_ptr<int>)>,
          [](auto& handler) { handler(nullptr, std::make_unique<int>(3)); });
      CHECK(*owned == 3);
    };
    hawser::sync_wait(runtime, body());
  }

  TEST_CASE("an error is thrown, or comes as a result") {
    const test::watchdog dog(60s);
    io_thread loop;
    hawser::runtime runtime(test::config(1));
    // A second read after the end of a stream may wait for ever in Asio 1.22.
    socket_pair pair(loop.io());
    socket_pair other(loop.io());
    pair.far.close();
    other.far.close();
    std::array<char, 8> room{};

    CHECK_THROWS_AS(static_cast<void>(hawser::sync_wait(runtime, read_some(pair.near, room))),
                    std::system_error);
    const auto body = [&]() -> task<std::error_code> {
      const auto got = co_await hawser::as_result(
          other.near.async_read_some(asio::buffer(room), use_task));
      co_return got.error().code();
    };
    CHECK(hawser::sync_wait(runtime, body()) == asio::error::eof);
    const auto rethrown = [&]() -> task<void> {
      co_await asio::co_spawn(
          loop.io(), []() -> asio::awaitable<void> {
            throw std::logic_error("else");
            co_return;
          },
          use_task);
    };
    CHECK_THROWS_AS(hawser::sync_wait(runtime, rethrown()), std::logic_error);
  }

  TEST_CASE("what the initiation throws is thrown by the await, once") {
    const test::watchdog dog(60s);
    hawser::runtime runtime(test::config(1));
    const auto body = []() -> task<void> {
      co_await asio::async_initiate<const hawser::use_task_t, void(std::error_code)>(
          [](auto handler) {
            const auto dropped = std::move(handler);
            throw std::logic_error("not started");
          },
          use_task);
    };
    CHECK_THROWS_AS(hawser::sync_wait(runtime, body()), std::logic_error);
  }

  TEST_CASE("Asio's adaptors compose with it") {
    const test::watchdog dog(60s);
    io_thread loop;
    hawser::runtime runtime(test::config(1));
    socket_pair pair(loop.io());
    pair.far.close();
    std::array<char, 8> room{};
    const auto body = [&]() -> task<void> {
      const auto both = co_await pair.near.async_read_some(
          asio::buffer(room), asio::experimental::as_tuple(use_task));
      CHECK(std::get<0>(both) == asio::error::eof);
    };
    hawser::sync_wait(runtime, body());
  }

  TEST_CASE("a timeout cancels the operation, and its end is awaited") {
    const test::watchdog dog(60s);
    io_thread loop;
    hawser::runtime runtime(test::config(2));
    socket_pair pair(loop.io());
    std::array<char, 8> room{};

    const auto why = test::outcome_of([&] {
      static_cast<void>(
          hawser::sync_wait(runtime, hawser::timeout(10ms, read_some(pair.near, room))));
    });
    CHECK(why.error().code() == errc::timed_out);
    // Nothing reads any more: the next one gets all.
    asio::write(pair.far, asio::buffer(std::string_view("late")));
    CHECK(hawser::sync_wait(runtime, read_exactly(pair.near, 4)) == "late");
    // A composed operation, too.
    const auto composed = test::outcome_of([&] {
      static_cast<void>(
          hawser::sync_wait(runtime, hawser::timeout(10ms, read_exactly(pair.near, 4))));
    });
    CHECK(composed.error().code() == errc::timed_out);
  }

  TEST_CASE("asked to stop before it starts, it does not start") {
    const test::watchdog dog(60s);
    io_thread loop;
    hawser::runtime runtime(test::config(1));
    bool started = false;
    const auto body = [&]() -> task<void> {
      co_await asio::async_initiate<const hawser::use_task_t, void(std::error_code)>(
          [&](auto handler) {
            started = true;
            handler(std::error_code());
          },
          use_task);
    };
    const auto why =
        test::outcome_of([&] { hawser::sync_wait(runtime, hawser::timeout(0ms, body())); });
    // The limit may also have passed a moment later.
    if (!why.has_value()) {
      CHECK(why.error().code() == errc::timed_out);
      CHECK_FALSE(started);
    }
  }

  TEST_CASE("an operation that is aborted by others tells Asio's code") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    asio::steady_timer waited(io, 1h);
    asio::steady_timer ends_it(io, 5ms);
    std::optional<hawser::result<void>> got;
    const auto body = [&]() -> task<void> {
      auto ended = co_await hawser::as_result(waited.async_wait(use_task));
      got = std::move(ended);
    };
    hawser::start(runtime, body());
    ends_it.async_wait([&](std::error_code) { waited.cancel(); });
    io.run();
    REQUIRE(got.has_value());
    CHECK(got->error().code() == asio::error::operation_aborted);
  }

  TEST_CASE("cancels race with completions: each operation ends once") {
    const test::watchdog dog(120s);
    io_thread loop;
    hawser::runtime runtime(test::config(2));
    const auto one = [](asio::io_context& io, unsigned number) -> task<void> {
      asio::steady_timer timer(io, std::chrono::microseconds(number % 7 * 20));
      const auto got = co_await hawser::as_result(
          hawser::timeout(std::chrono::microseconds(number % 5 * 30), [](auto& waited)
              -> task<void> { co_await waited.async_wait(use_task); }(timer)));
      if (!got.has_value() && got.error().code() != errc::timed_out) got.value();
    };
    const auto all = [&](hawser::scope& children) -> task<void> {
      for (unsigned i = 0; i < 2000; ++i) {
        children.spawn(one(loop.io(), i));
        if (i % 64 == 63) co_await hawser::this_task::sleep_for(0us);
      }
    };
    hawser::run(runtime, all);
  }

  TEST_CASE("an io_context that ends drops its operations, and their tasks go on") {
    const test::watchdog dog(60s);
    hawser::runtime runtime(test::config(1));
    auto io = std::make_unique<asio::io_context>(1);
    std::promise<void> waits;
    const auto body = [&]() -> task<void> {
      co_await asio::async_initiate<const hawser::use_task_t, void(std::error_code)>(
          [&](auto handler) {
            asio::post(*io, [held = std::move(handler)] {});
            waits.set_value();
          },
          use_task);
    };
    std::thread ender([&] {
      waits.get_future().wait();
      io.reset();
    });
    const auto why = test::outcome_of([&] { hawser::sync_wait(runtime, body()); });
    ender.join();
    REQUIRE_FALSE(why.has_value());
    CHECK(why.error().code() == asio::error::operation_aborted);
  }
}

TEST_SUITE("async_start") {
  TEST_CASE("an operation ends with an error code, a task with an exception") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    told<std::exception_ptr, int> value;
    told<std::exception_ptr, int> coded;
    told<std::exception_ptr, int> other;
    unsigned slept = 0;
    std::optional<hawser::result<int>> result;

    hawser::async_start(runtime, give(7), value.handler());
    hawser::async_start(runtime, fail_with(errc::refused), coded.handler());
    hawser::async_start(runtime, throw_else(), other.handler());
    hawser::async_start(runtime, hawser::this_task::sleep_for(1ms), [&](std::error_code error) {
      CHECK_FALSE(error);
      ++slept;
    });
    hawser::async_start(runtime, hawser::as_result(fail_with(errc::closed)),
                        [&](std::exception_ptr error, std::optional<hawser::result<int>> got) {
                          CHECK_FALSE(error);
                          result = std::move(got);
                        });
    CHECK(value.times == 0);  // never inside the call
    io.run();

    CHECK(value.times == 1);
    CHECK(value.value == 7);
    CHECK(code_of(coded.error) == errc::refused);
    CHECK_THROWS_AS(std::rethrow_exception(other.error), std::logic_error);
    CHECK(slept == 1);
    REQUIRE(result.has_value());
    CHECK(result->error().code() == errc::closed);
  }

  TEST_CASE("every completion token") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));

    auto future = hawser::async_start(runtime, give(1), asio::use_future);
    auto failing = hawser::async_start(runtime, fail_with(errc::refused), asio::use_future);
    auto later = hawser::async_start(runtime, give(2), asio::experimental::deferred);
    told<std::exception_ptr, int> deferred;
    std::move(later)(deferred.handler());
    hawser::async_start(runtime, nothing(), asio::detached);
    const auto body = [&]() -> asio::awaitable<int> {
      int sum = co_await hawser::async_start(runtime, give(3), use_awaitable);
      auto both = co_await hawser::async_start(runtime, give(4),
                                               asio::experimental::as_tuple(use_awaitable));
      sum += std::get<1>(both);
      try {
        co_await hawser::async_start(runtime, fail_with(errc::closed), use_awaitable);
      } catch (const std::system_error& why) {
        CHECK(std::string(why.what()).find("on purpose") != std::string::npos);
        sum += 100;
      }
      co_return sum;
    };
    auto spawned = asio::co_spawn(io, body(), asio::use_future);
    io.run();

    CHECK(future.get() == 1);
    CHECK_THROWS_AS(failing.get(), std::system_error);
    CHECK(deferred.value == 2);
    CHECK(spawned.get() == 107);
  }

  TEST_CASE("the handler runs on its executor, which has work until then") {
    const test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));
    asio::io_context io(1);
    auto strand = asio::make_strand(io);
    unsigned ran = 0;
    for (unsigned i = 0; i < 100; ++i) {
      hawser::async_start(runtime, give_later(std::chrono::milliseconds(i % 3), 1),
                          asio::bind_executor(strand, [&](std::exception_ptr error, int value) {
                            CHECK_FALSE(error);
                            CHECK(strand.running_in_this_thread());
                            ran += static_cast<unsigned>(value);
                          }));
    }
    io.run();  // returns when all have come
    CHECK(ran == 100);

    // On a runtime with threads one without an executor runs on a worker.
    std::promise<bool> on_worker;
    hawser::async_start(runtime, give(1), [&](std::exception_ptr, int) {
      on_worker.set_value(hawser::detail::executor::current() != nullptr);
    });
    CHECK(on_worker.get_future().get());
  }

  TEST_CASE("the associated allocator is used, and has all back before the handler runs") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    allocations counts;
    asio::cancellation_signal signal;
    const auto handler = [&](std::exception_ptr, int) {
      CHECK(counts.live == 0);
      ++counts.handlers;
    };
    hawser::async_start(
        runtime, give_later(1ms, 1),
        asio::bind_allocator(counting_allocator<void>(counts),
                             asio::bind_cancellation_slot(signal.slot(), handler)));
    CHECK(counts.live > 0);
    io.run();
    CHECK(counts.handlers == 1);
    CHECK(counts.live == 0);
  }

  TEST_CASE("a cancellation slot asks to stop") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    asio::cancellation_signal first;
    asio::cancellation_signal second;
    told<std::exception_ptr, int> sleeper;
    std::error_code code;

    hawser::async_start(runtime, hawser::this_task::sleep_for(1h),
                        asio::bind_cancellation_slot(
                            first.slot(), [&](std::error_code error) { code = error; }));
    hawser::async_start(runtime, give_later(1h, 1),
                        asio::bind_cancellation_slot(second.slot(), sleeper.handler()));
    first.emit(asio::cancellation_type::total);  // before it has begun
    second.emit(asio::cancellation_type::total);  // is not for tasks
    while (!code) io.run_one();
    CHECK(code == asio::error::operation_aborted);
    CHECK_FALSE(first.slot().has_handler());
    CHECK(sleeper.times == 0);
    second.emit(asio::cancellation_type::terminal);
    io.run();
    CHECK(sleeper.times == 1);
    CHECK(code_of(sleeper.error) == errc::cancelled);
    second.emit(asio::cancellation_type::terminal);  // too late
  }

  TEST_CASE("signals race with ends on other threads: each handler runs once") {
    const test::watchdog dog(120s);
    hawser::runtime runtime(test::config(2));
    asio::io_context io(1);
    std::vector<std::unique_ptr<asio::cancellation_signal>> signals;
    unsigned ran = 0;
    const auto body = [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(io);
      for (unsigned i = 0; i < 2000; ++i) {
        auto& signal = *signals.emplace_back(std::make_unique<asio::cancellation_signal>());
        hawser::async_start(
            runtime, hawser::this_task::sleep_for(std::chrono::microseconds(i % 5 * 30)),
            asio::bind_executor(io, asio::bind_cancellation_slot(
                                        signal.slot(), [&](std::error_code) { ++ran; })));
        timer.expires_after(std::chrono::microseconds(i % 7 * 10));
        co_await timer.async_wait(use_awaitable);
        signal.emit(asio::cancellation_type::all);
      }
    };
    asio::co_spawn(io, body(), asio::detached);
    io.run();
    CHECK(ran == 2000);
  }
}

TEST_SUITE("asio_context") {
  TEST_CASE("post, dispatch, strands, any_io_executor and timers") {
    const test::watchdog dog(60s);
    hawser::runtime runtime(test::config(2));
    hawser::asio_context context(runtime);
    const asio::any_io_executor any = context.get_executor(hawser::priority::bulk);
    std::promise<void> posted;
    std::promise<bool> inline_there;
    asio::post(context.get_executor(), [&] {
      bool ran = false;
      asio::dispatch(context.get_executor(), [&] { ran = true; });
      inline_there.set_value(ran);
    });
    asio::post(any, [&] { posted.set_value(); });
    posted.get_future().get();
    CHECK(inline_there.get_future().get());

    auto strand = asio::make_strand(context.get_executor());
    unsigned unguarded = 0;
    std::promise<void> all;
    for (unsigned i = 0; i < 1000; ++i) {
      asio::post(strand, [&] {
        if (++unguarded == 1000) all.set_value();
      });
    }
    all.get_future().get();
    CHECK(unguarded == 1000);

    const auto body = [&]() -> asio::awaitable<bool> {
      const auto executor = co_await asio::this_coro::executor;
      asio::steady_timer timer(executor);
      timer.expires_after(1ms);
      co_await timer.async_wait(use_awaitable);
      co_return hawser::detail::executor::current() != nullptr;
    };
    CHECK(asio::co_spawn(any, body(), asio::use_future).get());
    CHECK(&asio::query(any, execution::context) == &context);
  }

  TEST_CASE("tracked work is waited for by the end of the runtime") {
    const test::watchdog dog(60s);
    std::atomic<bool> ran{false};
    std::thread later;
    {
      hawser::runtime runtime(test::config(1));
      hawser::asio_context context(runtime);
      auto guard = asio::make_work_guard(context.get_executor());
      later = std::thread([&ran, guard = std::move(guard)]() mutable {
        asio::post(guard.get_executor(), [&ran] { ran = true; });
        guard.reset();
      });
      later.join();
      while (!ran) std::this_thread::yield();
    }
    CHECK(ran);
  }
}

TEST_SUITE("asio_runtime") {
  using namespace asio::experimental::awaitable_operators;

  asio::awaitable<void> serve_echo(hawser::asio_runtime& runtime, hawser::listener& listener,
                                   unsigned links) {
    for (unsigned i = 0; i < links; ++i) {
      auto link = co_await hawser::async_start(runtime, listener.accept(), use_awaitable);
      for (;;) {
        auto message =
            co_await hawser::async_start(runtime, link.rpc().recv(), use_awaitable);
        if (!message) break;
        co_await hawser::async_start(runtime, link.rpc().send(std::move(*message)),
                                     use_awaitable);
      }
    }
  }

  asio::awaitable<void> call_echo(hawser::asio_runtime& runtime, std::string uri, unsigned count,
                                  unsigned& answered) {
    auto link =
        co_await hawser::async_start(runtime, hawser::connect(std::move(uri)), use_awaitable);
    for (unsigned i = 0; i < count; ++i) {
      co_await hawser::async_start(runtime, link.rpc().send(test::make_pattern(i, 100 + i * 97)),
                                   use_awaitable);
      const auto answer =
          co_await hawser::async_start(runtime, link.rpc().recv(), use_awaitable);
      if (answer.has_value() && test::is_pattern(*answer, i, 100 + i * 97)) ++answered;
    }
    co_await hawser::async_start(runtime, link.close(), use_awaitable);
  }

  TEST_CASE("links in Asio's coroutines, on one thread, until all is done") {
    for (const auto transport : test::transports) {
      CAPTURE(test::name_of(transport));
      const test::watchdog dog(60s);
      const test::folder place;
      const auto threads = threads_of_this_process();
      asio::io_context io(1);
      hawser::asio_runtime runtime(io, test::config(1));
      std::optional listener(hawser::listen(runtime, test::address_of(transport, place)));
      unsigned answered = 0;
      asio::co_spawn(io, serve_echo(runtime, *listener, 1), [&](std::exception_ptr error) {
        CHECK_FALSE(error);
        listener.reset();
      });
      asio::co_spawn(io, call_echo(runtime, listener->uri(), 300, answered), asio::detached);
      io.run();
      CHECK(answered == 300);
      CHECK_FALSE(runtime.has_work());
      CHECK(threads_of_this_process() == threads);
    }
  }

  TEST_CASE("a recv that loses against a timer loses no message") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    auto links = make_links(runtime);
    unsigned timeouts = 0;
    unsigned received = 0;
    const auto receive = [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(io);
      while (received < 200) {
        timer.expires_after(std::chrono::microseconds(received % 3 * 100));
        auto first = co_await (
            hawser::async_start(runtime, links.server.rpc().recv(), use_awaitable) ||
            timer.async_wait(use_awaitable));
        if (first.index() == 1) {
          ++timeouts;
        } else {
          CHECK(test::is_pattern(*std::get<0>(first), received, 64));
          ++received;
        }
      }
    };
    const auto send = [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(io);
      for (unsigned i = 0; i < 200; ++i) {
        co_await hawser::async_start(runtime, links.client.rpc().send(test::make_pattern(i, 64)),
                                     use_awaitable);
        timer.expires_after(std::chrono::microseconds(i % 4 * 70));
        co_await timer.async_wait(use_awaitable);
      }
    };
    asio::co_spawn(io, receive(), [&](std::exception_ptr error) {
      CHECK_FALSE(error);
      links = {};
    });
    asio::co_spawn(io, send(), asio::detached);
    io.run();
    CHECK(received == 200);
    CHECK(timeouts > 0);
  }

  TEST_CASE("its tasks await Asio, and Asio's coroutines its tasks") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    socket_pair pair(io);
    const auto thread = std::this_thread::get_id();
    const auto answer = [&]() -> task<void> {
      std::array<char, 64> room{};
      for (;;) {
        const auto got = co_await hawser::as_result(
            pair.far.async_read_some(asio::buffer(room), use_task));
        if (!got.has_value()) break;
        CHECK(std::this_thread::get_id() == thread);
        co_await asio::async_write(pair.far, asio::buffer(room.data(), *got), use_task);
      }
    };
    unsigned done = 0;
    const auto ask = [&]() -> asio::awaitable<void> {
      for (unsigned i = 0; i < 100; ++i) {
        co_await asio::async_write(pair.near, asio::buffer(&i, sizeof i), use_awaitable);
        unsigned back = 0;
        co_await asio::async_read(pair.near, asio::buffer(&back, sizeof back), use_awaitable);
        if (back == i) ++done;
      }
      pair.near.close();
    };
    hawser::start(runtime, answer());
    asio::co_spawn(io, ask(), asio::detached);
    io.run();
    CHECK(done == 100);
  }

  TEST_CASE("a timeout of hawser around an operation of Asio, in one thread") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    socket_pair pair(io);
    std::array<char, 8> room{};
    told<std::exception_ptr, std::size_t> got;
    hawser::async_start(runtime, hawser::timeout(5ms, read_some(pair.near, room)), got.handler());
    io.run();
    CHECK(code_of(got.error) == errc::timed_out);
  }

  TEST_CASE("run() goes on while something lives in it, and starts again") {
    const test::watchdog dog(60s);
    const test::folder place;
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    io.run();  // nothing
    CHECK(io.stopped());

    std::optional listener(hawser::listen(
        runtime, test::address_of(test::transport::unix_socket, place)));
    io.restart();
    CHECK(io.run_for(5ms) > 0);
    CHECK_FALSE(io.stopped());
    listener.reset();
    io.run();
    CHECK(io.stopped());

    io.restart();
    told<std::exception_ptr, int> value;
    hawser::async_start(runtime, give_later(1ms, 5), value.handler());
    io.run();
    CHECK(value.value == 5);
  }

  TEST_CASE("what another thread posts is run by the io_context's") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    auto keep = asio::make_work_guard(io);
    const auto thread = std::this_thread::get_id();
    std::atomic<unsigned> ran{0};
    std::thread poster([&] {
      for (unsigned i = 0; i < 200; ++i) {
        runtime.post([&] {
          CHECK(std::this_thread::get_id() == thread);
          ++ran;
        });
        while (ran <= i) std::this_thread::yield();
        CHECK(hawser::async_start(runtime, give(static_cast<int>(i)), asio::use_future).get() ==
              static_cast<int>(i));
      }
      keep.reset();
    });
    io.run();
    poster.join();
    CHECK(ran == 200);
  }

  TEST_CASE("an exception of a handler leaves run(), and hurts nothing") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    unsigned ran = 0;
    for (unsigned i = 1; i <= 3; ++i) {
      hawser::async_start(runtime, give(1), [&](std::exception_ptr, int) {
        ++ran;
        throw std::runtime_error("of a handler");
      });
      hawser::async_start(runtime, give_later(1ms, 1), [&](std::exception_ptr, int) { ++ran; });
      CHECK_THROWS_AS(io.run(), std::runtime_error);
      io.run();
      CHECK(ran == 2 * i);
      io.restart();
    }
  }

  TEST_CASE("a deadline nearer than the one that is waited for ends that wait, and no more") {
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    const auto sleep = [](std::chrono::minutes time) -> task<void> {
      co_await hawser::as_result(hawser::this_task::sleep_for(time));
    };
    for (const auto time : {60min, 30min, 20min}) {
      hawser::start(runtime, sleep(time));
      CHECK(io.run_for(20ms) < 30);
    }
    runtime.request_stop();
    io.run();
  }

  TEST_CASE("request_stop() ends all, and run() returns") {
    const test::watchdog dog(60s);
    const test::folder place;
    asio::io_context io(1);
    hawser::asio_runtime runtime(io, test::config(1));
    auto listener =
        hawser::listen(runtime, test::address_of(test::transport::unix_socket, place));
    socket_pair pair(io);
    std::array<char, 8> room{};
    told<std::exception_ptr, std::size_t> reader;
    std::error_code ended;
    hawser::async_start(runtime, read_some(pair.near, room), reader.handler());
    asio::co_spawn(io, serve_echo(runtime, listener, 1), [&](std::exception_ptr error) {
      ended = code_of(error);
      const auto closed = std::move(listener);
    });
    asio::steady_timer timer(io, 5ms);
    timer.async_wait([&](std::error_code) { runtime.request_stop(); });
    io.run();
    CHECK(code_of(reader.error) == errc::cancelled);
    CHECK(ended == errc::cancelled);
  }

  TEST_CASE("its end and that of the io_context, while operations wait") {
    const test::watchdog dog(60s);
    unsigned called = 0;
    {
      asio::io_context io(1);
      auto runtime = std::make_unique<hawser::asio_runtime>(io, test::config(1));
      auto links = make_links(*runtime);
      const auto wait = [&](hawser::link own) -> asio::awaitable<void> {
        co_await hawser::async_start(*runtime, own.rpc().recv(), use_awaitable);
        ++called;
      };
      asio::co_spawn(io, wait(links.server), asio::detached);
      hawser::async_start(*runtime, hawser::this_task::sleep_for(1h),
                          [&](std::error_code) { ++called; });
      hawser::async_start(*runtime, give_later(1h, 1),
                          [&](std::exception_ptr, int) { ++called; });
      io.run_for(5ms);
      runtime.reset();
    }
    CHECK(called == 0);  // dropped, with what they held
    {
      asio::io_context io(1);
      auto runtime = std::make_unique<hawser::asio_runtime>(io, test::config(1));
      std::error_code code;
      hawser::async_start(*runtime, hawser::this_task::sleep_for(1h),
                          [&](std::error_code error) { code = error; });
      io.run_for(5ms);
      runtime.reset();
      io.run();  // handlers that were left are called by whom goes on
      CHECK(code == asio::error::operation_aborted);
    }
  }

  TEST_CASE("a handler may end it") {
    const test::watchdog dog(60s);
    asio::io_context io(1);
    auto runtime = std::make_unique<hawser::asio_runtime>(io, test::config(1));
    unsigned ran = 0;
    hawser::async_start(*runtime, give(1), [&](std::exception_ptr, int) {
      ++ran;
      runtime.reset();
    });
    hawser::async_start(*runtime, give(1), [&](std::exception_ptr, int) { ++ran; });
    io.run();
    CHECK(ran == 2);
  }

  TEST_CASE("the example of the README runs") {
    const test::watchdog dog(60s);
    CHECK(run_readme_example() == "hello");
  }
}
