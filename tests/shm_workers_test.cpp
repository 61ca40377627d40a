// SPDX-License-Identifier: Apache-2.0
#include "hawser/shm_workers.hpp"

#include <doctest/doctest.h>

#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "os/platform.hpp"
#include "support/process.hpp"
#include "support/streams.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::shm_batch;
using hawser::shm_stream;
using hawser::shm_workers;
using test::unique_stream;
using test::until;
using test::write_number;

const hawser::shm_workers_options sleepy{.spin = {hawser::spin_policy::mode::off, 20us}};

std::uint64_t number_in(std::span<const std::byte> record) {
  std::uint64_t number = test::no_number;
  if (record.size() == sizeof number) std::memcpy(&number, record.data(), sizeof number);
  return number;
}

struct pair {
  explicit pair(const hawser::shm_stream_options& options = test::small_stream)
      : name(unique_stream()),
        near(shm_stream::create(name, options)),
        far(shm_stream::open(name, options)) {}

  std::string name;
  shm_stream near;
  shm_stream far;
};

std::error_code error_of_making(const hawser::shm_workers_options& options) {
  try {
    const shm_workers made(options);
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

std::error_code error_of_serving(shm_workers& by, shm_stream& what) {
  try {
    by.serve(what, [](shm_stream&, const shm_batch&) {});
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

/// Checks that numbers come in order, and by one thread at a time.
struct ordered {
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> busy{false};
  std::atomic<bool> wrong{false};

  void operator()(shm_stream& /*from*/, const shm_batch& records) {
    if (busy.exchange(true)) wrong = true;
    for (std::size_t i = 0; i < records.size(); ++i) {
      if (number_in(records[i]) != next) wrong = true;
      ++next;
    }
    busy = false;
  }
};

}  // namespace

TEST_SUITE("shm_workers") {
  TEST_CASE("many streams are served in order, whether threads spin or sleep") {
    const test::watchdog guard(60s);
    for (const bool spins : {true, false}) {
      auto options = spins ? hawser::shm_workers_options() : sleepy;
      options.threads = 2;
      shm_workers workers(options);
      std::vector<std::unique_ptr<pair>> pairs;
      std::vector<ordered> seen(12);
      std::atomic<int> ended{0};
      for (auto& each : seen) {
        pairs.push_back(std::make_unique<pair>());
        workers.serve(pairs.back()->near, std::ref(each),
                      [&](shm_stream&, std::error_code why) { ended += why ? 100 : 1; });
      }
      constexpr std::uint64_t count = 2000;
      for (std::uint64_t i = 0; i < count; ++i) {
        for (auto& each : pairs) REQUIRE(write_number(each->far, i));
      }
      for (auto& each : pairs) each->far.close_writing();
      until([&] { return ended == 12; });
      for (auto& each : seen) {
        CHECK(each.next == count);
        CHECK_FALSE(each.wrong);
      }
      CHECK(workers.stats().records == 12 * count);
    }
  }

  TEST_CASE("no wake-up is lost: a thread that sleeps for several streams answers each") {
    const test::watchdog guard(60s);
    auto lazy = test::sleepy_stream;
    lazy.peer_check = 1h;  // nobody wakes by looking
    std::vector<std::unique_ptr<pair>> pairs;
    shm_workers workers(sleepy);
    for (int i = 0; i < 5; ++i) {
      pairs.push_back(std::make_unique<pair>(lazy));
      workers.serve(pairs.back()->near, [](shm_stream& from, const shm_batch& records) {
        for (std::size_t at = 0; at < records.size(); ++at) from.write(records[at]).value();
      });
    }
    for (std::uint64_t i = 0; i < 20'000; ++i) {
      auto& at = *pairs[i * 7 % pairs.size()];
      REQUIRE(write_number(at.far, i));
      REQUIRE(test::read_number(at.far) == i);
    }
    CHECK(workers.stats().sleeps > 0);
  }

  TEST_CASE("stop() ends handlers that wait in their streams") {
    const test::watchdog guard(60s);
    auto lazy = test::sleepy_stream;
    lazy.peer_check = 1h;
    pair both(lazy);
    pair idle(lazy);
    shm_workers workers({.threads = 2, .spin = sleepy.spin});
    std::atomic<bool> ended{false};
    std::error_code why;
    workers.serve(
        both.near,
        [&](shm_stream& from, const shm_batch& /*records*/) {
          auto written = from.write(test::as_record(1));
          while (written.has_value()) written = from.write(test::as_record(1));
          why = written.error().code();
        },
        [&](shm_stream&, std::error_code) { ended = true; });
    workers.serve(idle.near, [](shm_stream&, const shm_batch&) {});
    REQUIRE(write_number(both.far, 1));
    test::until_asleep(both.near);
    workers.stop();
    CHECK(why == errc::closed);
    CHECK_FALSE(ended);
    CHECK(error_of_serving(workers, idle.near) == errc::closed);
    std::vector<std::byte> into;
    CHECK_FALSE(idle.far.read(into).value().has_value());
  }

  TEST_CASE("a stream may go in its last handler") {
    const test::watchdog guard(60s);
    auto both = std::make_unique<pair>();
    auto far = std::move(both->far);
    shm_workers workers;
    std::atomic<bool> ended{false};
    workers.serve(
        both->near, [](shm_stream&, const shm_batch&) {},
        [&](shm_stream&, std::error_code) {
          both.reset();
          ended = true;
        });
    far.close();
    until([&] { return ended.load(); });
  }

  TEST_CASE("child: opens and hangs" * doctest::skip()) {
    const auto own = shm_stream::open(test::process_argument());
    for (;;) ::pause();
  }

  TEST_CASE("a stream whose peer is killed ends with that, and others go on") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    auto doomed = shm_stream::create(name, test::small_stream);
    pair both;
    ordered seen;
    shm_workers workers(sleepy);
    std::atomic<bool> ended{false};
    std::error_code why;
    workers.serve(
        doomed, [](shm_stream&, const shm_batch&) {},
        [&](shm_stream&, std::error_code error) {
          why = error;
          ended = true;
        });
    workers.serve(both.near, std::ref(seen));
    test::process peer("opens and hangs", name);
    REQUIRE(doomed.wait_for_peer().has_value());
    peer.signal(SIGKILL);
    until([&] { return ended.load(); });
    CHECK(why == errc::link_lost);
    REQUIRE(write_number(both.far, 0));
    until([&] { return seen.next == 1; });
  }

  TEST_CASE("threads say which core they were bound to") {
    const auto cores = hawser::platform::usable_core_list();
    const shm_workers bound({.threads = 3});
    const auto found = bound.cores();
    REQUIRE(found.size() == 3);
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (found[i].has_value()) CHECK(*found[i] == cores[i % cores.size()]);
    }
    const shm_workers free({.pin = false});
    CHECK(free.cores() == std::vector<std::optional<unsigned>>{std::nullopt});
    const shm_workers nowhere({.cores = {100'000}});
    CHECK(nowhere.cores() == std::vector<std::optional<unsigned>>{std::nullopt});
  }

  TEST_CASE("options out of range are refused, and too many streams") {
    CHECK(error_of_making({.threads = 0}) == errc::bad_config);
    CHECK(error_of_making({.threads = 65}) == errc::bad_config);
    CHECK(error_of_making({.batch_records = 0}) == errc::bad_config);

    std::vector<shm_stream> streams;
    shm_workers workers(sleepy);
    for (std::size_t i = 0; i <= shm_workers::streams_per_thread_max; ++i) {
      streams.push_back(shm_stream::create(unique_stream(), test::small_stream));
    }
    for (auto& each : streams) {
      const bool fits = &each != &streams.back();
      CHECK((error_of_serving(workers, each) == errc::limit_reached) != fits);
    }
    workers.stop();
  }
}
