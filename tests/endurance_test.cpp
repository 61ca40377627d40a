// SPDX-License-Identifier: Apache-2.0
// Goal: a long life among faults changes nothing: nothing is lost, grows, or slows down.
// Method: links that survive, through a relay that cuts and parts them again and again, carry
// numbered messages on all channels; one link beside them, which nobody disturbs, is timed.
// HAWSER_ENDURE_MINUTES=60 takes an hour; without it this is a rehearsal.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/relay.hpp"
#include "support/simulated_wire.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::clock;
using hawser::priority;
using hawser::task;

constexpr std::size_t disturbed_links = 6;

std::chrono::seconds length() {
  const auto minutes = test::asked("HAWSER_ENDURE_MINUTES", 0);
  return minutes == 0 ? 2s : std::chrono::seconds(60 * minutes);
}

std::size_t resident_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stoul(line.substr(6));
  }
  return 0;
}

hawser::link_options surviving() {
  hawser::link_options made;
  made.survive = 10s;  // also how long a server holds one whose client gave up while it was cut
  made.backoff = 20ms;
  made.backoff_most = 100ms;
  made.keepalive = 200ms;
  made.keepalive_timeout = 200ms;
  made.handshake_timeout = 500ms;
  made.resend = {true, true, true, true};
  return made;
}

constexpr std::size_t bytes_of(priority over, std::uint64_t number) {
  switch (over) {
    case priority::bulk:
      return 20'000 + number % 7 * 30'000;
    case priority::stream:
      return 1000;
    default:
      return 40;
  }
}

// One way of one link.
struct flow {
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

class life {
 public:
  life()
      : runtime_(test::config(2)),
        listener_(hawser::listen(runtime_, "tcp://127.0.0.1:0", {.link = surviving()})),
        between_(listener_.uri()) {}

  void run() {
    std::thread harm([this] { do_harm(); });
    hawser::run(runtime_, [this](hawser::scope& inside) -> task<void> {
      until_ = clock::now() + length();
      flows_.resize(disturbed_links * 8);
      for (std::size_t i = 0; i < disturbed_links; ++i) {
        auto both = co_await hawser::when_all(hawser::connect(between_.uri(), surviving()),
                                              listener_.accept());
        auto client = std::get<0>(std::move(both));
        auto server = std::get<1>(std::move(both));
        for (std::size_t channel = 0; channel < 4; ++channel) {
          const auto over = static_cast<priority>(channel);
          flow& there = flows_[i * 8 + 2 * channel];
          flow& back = flows_[i * 8 + 2 * channel + 1];
          inside.spawn(send_all(client, over, there));
          inside.spawn(receive_all(server, over, there));
          inside.spawn(send_all(server, over, back));
          inside.spawn(receive_all(client, over, back));
        }
        links_.push_back(client);
        links_.push_back(server);
      }
      auto quiet = co_await hawser::when_all(
          hawser::connect(listener_.uri(), surviving()), listener_.accept());
      auto asking = std::get<0>(std::move(quiet));
      inside.spawn(answer(std::get<1>(std::move(quiet))));
      co_await ask(asking);
    });
    over_ = true;
    harm.join();
  }
  void check() const {
    for (const flow& each : flows_) CHECK(each.received == each.sent);
    for (const auto& link : links_) {
      for (const auto kind : test::kinds) {
        const auto counts = link.at(kind).counts();
        CHECK(counts.lost == 0);
        CHECK(counts.missed == 0);
      }
    }
    std::uint64_t messages = 0;
    for (const flow& each : flows_) messages += each.received;
    const auto connections = between_.connections();
    std::cout << messages << " messages, " << connections << " connections" << std::endl;
    CHECK(connections > disturbed_links);
  }
  void close() {
    hawser::run(runtime_, [this]() -> task<void> {
      for (auto& link : links_) {
        auto status = co_await link.changed();
        while (status.now == hawser::link::condition::offline) {
          status = co_await link.changed(status);
        }
        static_cast<void>(co_await hawser::as_result(link.close()));
      }
      links_.clear();
    });
    test::wait_until(runtime_, [this] { return runtime_.stats().open_links == 0; });
  }

 private:
  task<void> send_all(hawser::link to, priority over, flow& record) {
    for (; clock::now() < until_; ++record.sent) {
      co_await to.at(over).send(test::make_pattern(record.sent, bytes_of(over, record.sent)));
      if (over != priority::bulk && record.sent % 4 != 3) continue;
      co_await hawser::this_task::sleep_for(over == priority::bulk ? 50ms : 20ms);  // sleeps: pace
    }
    co_await to.at(over).finish();
  }
  task<void> receive_all(hawser::link from, priority over, flow& record) {
    for (;;) {
      const auto message = co_await from.at(over).recv();
      if (!message.has_value()) co_return;
      if (!test::is_pattern(*message, record.received, bytes_of(over, record.received))) {
        FAIL_CHECK("message " << record.received << " is another one");
      }
      ++record.received;
    }
  }

  task<void> answer(hawser::link from) {
    while (auto message = co_await from.rpc().recv()) {
      co_await from.rpc().send(std::move(*message));
    }
  }
  // Says every tenth of the time what 99 of 100 answers have taken at most, and what is in use.
  task<void> ask(hawser::link to) {
    std::vector<std::uint32_t> took;
    const auto tenth = std::chrono::milliseconds(length()) / 10;
    for (auto next = until_ - 9 * tenth; next <= until_;) {
      const auto asked = clock::now();
      co_await to.rpc().send("?");
      const auto reply = co_await to.rpc().recv();
      CHECK(reply.has_value());
      took.push_back(static_cast<std::uint32_t>((clock::now() - asked).count()));
      co_await hawser::this_task::sleep_for(1ms);  // sleeps: the pace
      if (clock::now() < next) continue;
      next += tenth;
      std::ranges::sort(took);
      std::cout << took.size() << " answers, p50 " << took[took.size() / 2] / 1000 << " us, p99 "
                << took[took.size() * 99 / 100] / 1000 << " us, " << resident_kib() << " KiB, "
                << test::open_descriptors() << " descriptors" << std::endl;
      resident_.push_back(resident_kib());
      took.clear();
    }
    co_await to.close();
    if (length() >= 1min && resident_.size() > 2) {  // memory is warm by half-time
      const std::size_t warm = resident_[resident_.size() / 2];
      CHECK(resident_.back() <= warm + warm / 20);
    }
  }

  static void rest(std::uint64_t ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));  // sleeps: between two faults
  }
  void do_harm() {
    test::dice dice(test::seed());
    while (!over_) {
      rest(dice.between(50, 1000));
      if (dice.one_in(4)) {
        between_.part();
        rest(dice.between(100, 800));
        between_.heal();
      } else {
        between_.cut();
      }
    }
  }

  hawser::runtime runtime_;
  hawser::listener listener_;
  test::relay between_;
  clock::time_point until_;
  std::vector<flow> flows_;
  std::vector<hawser::link> links_;
  std::vector<std::size_t> resident_;
  std::atomic<bool> over_{false};
};

}  // namespace

TEST_SUITE("endurance") {
  TEST_CASE("links that are cut and parted for a long time lose nothing, and nothing grows") {
    const test::watchdog dog(length() + 60s);
    const auto before = test::open_descriptors();
    {
      life one;
      one.run();
      one.close();
      one.check();
    }
    CHECK(test::open_descriptors() == before);
  }
}
