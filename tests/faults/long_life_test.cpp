// SPDX-License-Identifier: Apache-2.0
// What is left of links that have gone, and what those cost that do nothing.
//
// HAWSER_LONG_LIFE=10000 opens and closes so many.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <dirent.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/sanitizer.hpp"
#include "hawser/hawser.hpp"
#include "shm/segment.hpp"
#include "support/allocations.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/raw_peer.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::link;
using hawser::task;
using test::linked;
using test::transport;

std::size_t links_wanted() {
  return test::asked("HAWSER_LONG_LIFE", hawser::detail::sanitized ? 300 : 6'000);
}

// Blocks and frames together: see core/buffer.cpp and task/frame_pool.cpp.
constexpr std::int64_t bytes_a_thread_keeps = (8 << 20) + (4 << 20);

std::vector<int> descriptors() {
  std::vector<int> found;
  DIR* const folder = ::opendir("/proc/self/fd");
  REQUIRE(folder != nullptr);
  while (const dirent* const each = ::readdir(folder)) {
    const int number = std::atoi(each->d_name);
    if (each->d_name[0] != '.' && number != ::dirfd(folder)) found.push_back(number);
  }
  ::closedir(folder);
  std::sort(found.begin(), found.end());
  return found;
}

std::size_t resident_bytes() {
  std::ifstream from("/proc/self/statm");
  std::size_t all = 0;
  std::size_t resident = 0;
  from >> all >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// Descriptors for `links` idle ones, both ends. False: the system allows fewer.
bool allow_descriptors(std::size_t links) {
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlim_t wanted = links * 2 + 200;
  if (limit.rlim_cur >= wanted) return true;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  return limit.rlim_cur >= wanted;
}

struct pair {
  link client;
  link server;
  std::vector<int> sockets;
};

task<void> exchange(link from, link to, hawser::priority which, std::size_t bytes) {
  co_await from.at(which).send(hawser::buffer(bytes));
  const auto got = co_await to.at(which).recv();
  CHECK(got.has_value());
}

// As if the network had: neither side is asked. False: its sockets are not known, because one that
// was closing let go of its number meanwhile.
bool kill_one(const pair& of, std::mt19937_64& dice) {
  if (of.sockets.size() != 2) return false;
  return ::shutdown(of.sockets[dice() % 2], SHUT_RDWR) == 0;
}

task<void> wait_for_end(link one) {
  const auto why = co_await one.ended();
  static_cast<void>(why);
}

class crowd {
 public:
  crowd(linked& through, std::uint64_t seed) : ends_(through), dice_(seed) {}

  void open() {
    const auto before = descriptors();
    pair& added = open_.emplace_back();
    ends_.connect(added.client, added.server);
    const auto after = descriptors();
    std::set_difference(after.begin(), after.end(), before.begin(), before.end(),
                        std::back_inserter(added.sockets));
    if (dice_() % 2 == 0) {
      const auto which = test::kinds[dice_() % test::kinds.size()];
      hawser::run(ends_.runtime, exchange, added.client, added.server, which,
                  std::size_t{1} << dice_() % 17);
    }
  }
  void close_one() {
    std::swap(open_[dice_() % open_.size()], open_.back());
    pair gone = std::move(open_.back());
    open_.pop_back();
    link& some = dice_() % 2 == 0 ? gone.client : gone.server;
    switch (dice_() % 3) {
      case 0:
        hawser::run(ends_.runtime, [&some] { return some.close(); });
        break;
      case 1:
        if (!kill_one(gone, dice_)) break;
        ++killed;
        hawser::run(ends_.runtime, wait_for_end, gone.client);
        hawser::run(ends_.runtime, wait_for_end, gone.server);
        break;
      default:
        some = {};
        break;
    }
  }
  void close_all() {
    while (!open_.empty()) close_one();
    test::wait_until(ends_.runtime, [this] { return ends_.runtime.stats().open_links == 2; });
  }
  // Opens `count` in all, and keeps at most eight open.
  void live(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      open();
      while (open_.size() > dice_() % 8) close_one();
    }
    close_all();
  }

  unsigned killed = 0;

 private:
  linked& ends_;
  std::mt19937_64 dice_;
  std::vector<pair> open_;
};

// How memory has grown by so many links, once caches and pools have what they keep. With one socket
// a link: those that it opens by itself may be others' by the time one is killed.
test::allocation_figures live(transport over, std::size_t count) {
  linked ends(over, {.client = {.channels = 1}}, 600s);
  crowd all(ends, test::seed());
  all.live(count / 2);
  const auto memory = test::allocations();
  const auto open = descriptors().size();
  all.live(count);
  test::wait_until(ends.runtime, [&] { return descriptors().size() == open; });
  if (count > 100) CHECK(all.killed > 0);
  auto grown = test::allocations();
  grown.outstanding -= memory.outstanding;
  grown.outstanding_bytes -= memory.outstanding_bytes;
  return grown;
}

// On a thread of its own: what that keeps goes with it.
test::allocation_figures live_beside(transport over, std::size_t count) {
  test::allocation_figures grown;
  std::thread([&] { grown = live(over, count); }).join();
  return grown;
}

void expect_quiet(hawser::runtime& where) {
  const auto quiet = where.stats();
  std::this_thread::sleep_for(300ms);  // sleeps: so long nothing may happen
  const auto later = where.stats();
  for (std::size_t i = 0; i < quiet.workers.size(); ++i) {
    CHECK(later.workers[i].turns - quiet.workers[i].turns <= 3);
    CHECK(later.workers[i].parks - quiet.workers[i].parks <= 3);
    CHECK(later.workers[i].executed == quiet.workers[i].executed);
  }
}

// ---- shared memory ----------------------------------------------------------------------------

constexpr std::size_t arena_bytes = 1 << 20;
const std::size_t segment_bytes =
    hawser::shm::segment_bytes(hawser::shm::ring_sizes(hawser::link_options().ring_bytes));

test::habits sharing() {
  test::habits how;
  how.server.max_links_per_user = 10'000;
  how.client.arena_bytes = arena_bytes;
  return how;
}

void connect_and_ask(linked& ends, std::array<hawser::link, 2>& both) {
  ends.connect(both[0], both[1]);
  hawser::run(ends.runtime, test::ask, both[0], both[1]);
}

}  // namespace

TEST_SUITE("long_life") {
  // While the runtime lives threads keep frames and blocks for later, which is bounded, but not in
  // sanitized builds: there a single allocation a link shows. What is left afterwards is exact.
  TEST_CASE("links that come and go leave memory and descriptors as they were") {
    const std::size_t count = links_wanted() / test::transports.size();
    live_beside(transport::tcp, 1);  // once before: what is made at its first use stays
    const auto before = test::allocations().outstanding;
    const auto open = descriptors().size();

    for (const auto over : test::transports) {
      const auto grown = live_beside(over, count);
      std::cout << "  " << test::name_of(over) << ": " << count << " links, " << grown.outstanding
                << " allocations and " << grown.outstanding_bytes << " bytes more\n";
      CHECK(grown.outstanding < (hawser::detail::sanitized ? 20 : 8'000));
      CHECK(grown.outstanding_bytes < bytes_a_thread_keeps);
    }

    CHECK(test::allocations().outstanding == before);
    CHECK(descriptors().size() == open);
  }

  TEST_CASE("a link that has sent much and falls silent keeps little of its memory") {
    const auto lane = hawser::wire::lane_of(1, false);
    hawser::wire::hello greeting;
    greeting.limits.window.fill(1 << 20);
    auto peer = test::raw_peer::of_server({}, greeting);
    for (int i = 0; i < 10; ++i) {
      REQUIRE(peer->send(lane, test::bytes(3000), {}) == hawser::wire::verdict::accepted);
    }
    static_cast<void>(peer.output());
    const auto busy = test::allocations().outstanding_bytes;

    peer.pass(20s);
    peer.tick();
    static_cast<void>(peer.output());

    // Where blocks are pooled it lies with the thread now, which is of use to others.
    if (hawser::detail::sanitized) {
      CHECK(test::allocations().outstanding_bytes < busy - (60 << 10));
    }
    const auto taken = test::allocations().bytes;
    hawser::detail::release(hawser::detail::allocate_block(64 << 10));
    if (!hawser::detail::sanitized) CHECK(test::allocations().bytes == taken);
  }

  TEST_CASE("a thousand idle links cost no more than 32 KiB each, and nobody's time") {
    constexpr std::size_t count = 1'000;
    constexpr std::size_t most_bytes = 32 << 10;
    if (!allow_descriptors(count)) return test::skip("too few descriptors for 1,000 links");
    for (const auto over : {transport::tcp, transport::unix_socket}) {
      test::habits how;
      how.server.max_links_per_user = 10'000;
      linked ends(over, how, 120s);
      std::vector<std::array<hawser::link, 2>> idle(count);
      for (std::size_t i = 0; i < 20; ++i) {
        hawser::link client;
        hawser::link server;
        ends.connect(client, server);
      }
      test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 2; });
      const auto before = test::allocations();
      const auto resident = resident_bytes();

      for (auto& both : idle) ends.connect(both[0], both[1]);

      const auto grown = test::allocations().outstanding_bytes - before.outstanding_bytes;
      const auto each = static_cast<std::size_t>(grown) / count;
      std::cout << "  " << test::name_of(over) << ": " << each << " bytes an idle link, resident "
                << (resident_bytes() - resident) / count << '\n';
      CHECK(each <= most_bytes);

      expect_quiet(ends.runtime);
    }
  }

  // Beside the rings that it has used a link over shared memory costs what any link does: nothing
  // of its arena is there before it is lent.
  TEST_CASE("idle links over shared memory cost no more than 64 KiB each, and nobody's time") {
    constexpr std::size_t count = 50;
    constexpr std::size_t most_bytes = 64 << 10;
    linked ends(transport::shared_memory, sharing());
    std::vector<std::array<hawser::link, 2>> idle(count);
    for (auto& both : idle) {
      connect_and_ask(ends, both);
      both = {};  // what is made at its first use stays
    }
    test::wait_until(ends.runtime, [&] { return ends.runtime.stats().open_links == 2; });
    const auto before = test::allocations();
    const auto resident = resident_bytes();
    const auto rings = test::resident_of_segments(segment_bytes);
    const auto arena = test::resident_of_segments(arena_bytes);

    for (auto& both : idle) connect_and_ask(ends, both);

    const auto in_rings = test::resident_of_segments(segment_bytes) - rings;
    const auto all = resident_bytes() - resident;
    const auto beside = (all - std::min(all, in_rings)) / count;
    const auto grown = test::allocations().outstanding_bytes - before.outstanding_bytes;
    const auto each = static_cast<std::size_t>(grown) / count;
    std::cout << "  shm: " << each << " bytes an idle link, resident " << beside << ", and "
              << in_rings / count << " of its rings\n";
    CHECK(in_rings > 0);
    CHECK(each <= most_bytes);
    CHECK(test::resident_of_segments(arena_bytes) == arena);
    if (!hawser::detail::sanitized) CHECK(beside <= most_bytes);
    expect_quiet(ends.runtime);
  }

  TEST_CASE("an arena that was lent goes back to the system when its link falls silent") {
    test::habits how = sharing();
    how.client.keepalive = how.server.link.keepalive = 100ms;
    linked ends(transport::shared_memory, how);
    hawser::run(ends.runtime, [&]() -> task<void> {
      for (int i = 0; i < 3; ++i) co_await test::ask(ends.client, ends.server);  // both have moved
      for (const auto* const way : {&ends.client, &ends.server}) {
        auto& to = way == &ends.client ? ends.server : ends.client;
        auto lent = co_await way->bulk().loan(600'000);
        std::memset(lent.data(), 7, lent.size());
        co_await way->bulk().send(std::move(lent));
        const auto came = co_await to.bulk().recv();
        CHECK(came->is_borrowed());
        CHECK(came->bytes().back() == std::byte{7});
        CHECK(test::resident_of_segments(arena_bytes) >= 600'000);
      }
    });
    test::wait_until(ends.runtime, [] { return test::resident_of_segments(arena_bytes) == 0; });
  }
}
