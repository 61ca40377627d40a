// SPDX-License-Identifier: Apache-2.0
#include "top/table.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>

#include "hawser/hawser.hpp"
#include "stats_service.hpp"

namespace {

using namespace std::chrono_literals;

hawser::wait_histogram waits(std::uint64_t count, std::uint64_t nanoseconds) {
  hawser::wait_histogram all;
  all.counts[hawser::wait_histogram::bucket_of(nanoseconds)] = count;
  return all;
}

// One worker; rpc has run so many tasks, which have waited for so long.
top::snapshot snapshot_of(std::chrono::nanoseconds time, std::uint64_t executed,
                          const hawser::wait_histogram& waited) {
  top::snapshot made;
  made.pid = 4711;
  made.backend = "io_uring";
  made.time = time;
  made.stats.workers.resize(1);
  auto& rpc = made.stats.workers[0].priorities[1];
  rpc.executed = executed;
  rpc.queue_wait = waited;
  return made;
}

std::string text_of(const std::vector<std::string>& lines) {
  std::string all;
  for (const auto& line : lines) all += line + '\n';
  return all;
}

std::string failure_of(std::string_view text) {
  try {
    static_cast<void>(top::parse_snapshot(text));
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

TEST_SUITE("top_table") {
  TEST_CASE("a count has three digits and a unit") {
    CHECK(top::short_count(0) == "0");
    CHECK(top::short_count(7.3) == "7.3");
    CHECK(top::short_count(42) == "42");
    CHECK(top::short_count(999) == "999");
    CHECK(top::short_count(999.7) == "1.00k");
    CHECK(top::short_count(12'345) == "12.3k");
    CHECK(top::short_count(999'600) == "1.00M");
    CHECK(top::short_count(123e9) == "123G");
  }

  TEST_CASE("a time has three digits and a unit") {
    CHECK(top::short_time(64ns) == "64 ns");
    CHECK(top::short_time(1024ns) == "1.02 us");
    CHECK(top::short_time(65'536ns) == "65.5 us");
    CHECK(top::short_time(250ms) == "250 ms");
    CHECK(top::short_time(90s) == "90.0 s");
  }

  TEST_CASE("percentiles are those of the interval, by the difference of the histograms") {
    auto later = waits(1000, 100);  // from before: short
    later += waits(10, 1'000'000);  // of the interval: long
    const auto before = snapshot_of(1s, 1000, waits(1000, 100));
    const auto now = snapshot_of(2s, 1010, later);

    const auto gone = top::difference(before.stats, now.stats);

    CHECK(gone.workers[0].priorities[1].executed == 10);
    CHECK(gone.workers[0].priorities[1].queue_wait.total() == 10);
    CHECK(gone.workers[0].priorities[1].queue_wait.percentile(0.01) == 1'048'576ns);
  }

  TEST_CASE("the longest gap and what is queued are as they are, not differences") {
    auto before = snapshot_of(1s, 0, {});
    before.stats.workers[0].longest_gap_ns = 5000;
    before.stats.workers[0].priorities[3].queued = 7;
    auto now = before;
    now.time = 2s;

    const auto gone = top::difference(before.stats, now.stats);

    CHECK(gone.workers[0].longest_gap_ns == 5000);
    CHECK(gone.workers[0].priorities[3].queued == 7);
  }

  TEST_CASE("rates are by the clock of the process, shares of what is spun by its workers") {
    const auto before = snapshot_of(1s, 0, {});
    auto now = snapshot_of(3s, 50'000, {});
    now.cpu = 3s;
    now.stats.workers[0].spins = 100;
    now.stats.workers[0].spins_paid = 75;
    now.stats.workers[0].spin_ns = 500'000'000;

    const auto text = text_of(top::table_of(before, now));

    CHECK(text.find("of the last 2.0 s: CPU 150 %") != std::string::npos);
    CHECK(text.find("25.0k") != std::string::npos);
    CHECK(text.find("75 %") != std::string::npos);
    CHECK(text.find("25 %") != std::string::npos);
  }

  TEST_CASE("each priority has a line of its own, with its waits on all workers") {
    auto now = snapshot_of(2s, 10, waits(10, 1'000'000));
    now.stats.workers.resize(2);
    now.stats.workers[1].priorities[1].queue_wait = waits(10, 2'000'000);

    const auto lines = top::table_of(snapshot_of(1s, 0, {}), now);

    CHECK(std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
            return line == "     rpc       10        0        0  1.05 ms  2.10 ms";
          }) == 1);
  }

  TEST_CASE("no line is wider than 110 columns, whatever the figures") {
    auto now = snapshot_of(2s, 0, waits(1, 1'000'000));
    now.stats.workers.resize(16);
    for (auto& each : now.stats.workers) {
      each.turns = each.parks = each.spins = each.spin_ns = 999'499'999'999'999;
      each.bytes_read = each.bytes_written = each.system_calls = 999'499'999'999'999;
      each.longest_gap_ns = 999'499'999'999'999;
    }

    for (const auto& line : top::table_of(snapshot_of(1s, 0, {}), now)) CHECK(line.size() <= 110);
  }

  TEST_CASE("what a runtime says of itself is read back") {
    hawser::runtime runtime({.threads = 2});

    const auto now = top::parse_snapshot(samples::stats_as_json(runtime));

    CHECK(now.pid > 0);
    CHECK(now.time > 0ns);
    CHECK(now.backend == runtime.report().mechanism);
    CHECK(now.stats.workers.size() == 2);
  }

  TEST_CASE("what is no answer is refused in words") {
    CHECK(failure_of("") != "none");
    CHECK(failure_of("[]") != "none");
    CHECK(failure_of(R"({"format": 2})") == "a format of another time");
    CHECK(failure_of(R"({"format": 1, "pid": -3})") == "pid is no count");
    hawser::runtime runtime({.threads = 1});
    auto text = samples::stats_as_json(runtime);
    const std::string_view field = "\"queue_wait\":[";
    std::string many;
    for (std::size_t i = 0; i <= hawser::wait_histogram::buckets; ++i) many += "1,";
    text.insert(text.find(field) + field.size(), many + "1,1,");
    CHECK(failure_of(text) != "none");
  }
}
