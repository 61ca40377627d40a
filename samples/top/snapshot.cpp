// SPDX-License-Identifier: Apache-2.0
#include "top/snapshot.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace top {
namespace {

using nlohmann::json;

constexpr int known_format = 1;
constexpr std::size_t text_most = 64;  // of a name from outside

std::uint64_t count(const json& from, const char* name) {
  const auto& value = from.at(name);
  if (!value.is_number_unsigned()) throw std::runtime_error(std::string(name) + " is no count");
  return value.get<std::uint64_t>();
}

std::chrono::nanoseconds nanoseconds(const json& from, const char* name) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(count(from, name)));
}

// It goes to a terminal.
std::string printable(std::string text) {
  text.resize(std::min(text.size(), text_most));
  std::replace_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

hawser::priority_stats parse_priority(const json& from) {
  hawser::priority_stats one;
  one.executed = count(from, "executed");
  one.stolen = count(from, "stolen");
  one.queued = count(from, "queued");
  const auto& waits = from.at("queue_wait");
  if (waits.size() > one.queue_wait.counts.size()) throw std::runtime_error("too many waits");
  std::size_t at = 0;
  for (const auto& each : waits) one.queue_wait.counts[at++] = each.get<std::uint64_t>();
  return one;
}

hawser::worker_stats parse_worker(const json& from) {
  hawser::worker_stats one;
  for (std::size_t at = 0; at < hawser::priority_count; ++at) {
    one.priorities[at] = parse_priority(from.at("priorities").at(priority_names[at]));
  }
  one.turns = count(from, "turns");
  one.executed = count(from, "executed");
  one.posts_received = count(from, "posts_received");
  one.parks = count(from, "parks");
  one.spins = count(from, "spins");
  one.spins_paid = count(from, "spins_paid");
  one.spin_ns = count(from, "spin_ns");
  one.wakeups_sent = count(from, "wakeups_sent");
  one.wakeups_spared = count(from, "wakeups_spared");
  one.timers_fired = count(from, "timers_fired");
  one.longest_gap_ns = count(from, "longest_gap_ns");
  one.stalls = count(from, "stalls");
  one.system_calls = count(from, "system_calls");
  one.completions = count(from, "completions");
  one.multishot = count(from, "multishot");
  one.inline_reads = count(from, "inline_reads");
  one.bytes_read = count(from, "bytes_read");
  one.bytes_written = count(from, "bytes_written");
  return one;
}

snapshot parse(const json& from) {
  if (count(from, "format") != known_format) throw std::runtime_error("a format of another time");
  snapshot all;
  all.pid = count(from, "pid");
  all.backend = printable(from.at("backend").get<std::string>());
  all.time = nanoseconds(from, "time_ns");
  all.cpu = nanoseconds(from, "cpu_ns");
  all.stats.open_links = count(from, "open_links");
  all.stats.failed_tasks = count(from, "failed_tasks");
  all.stats.injected = count(from, "injected");
  all.stats.rejected = count(from, "rejected");
  for (const auto& each : from.at("workers")) all.stats.workers.push_back(parse_worker(each));
  return all;
}

}  // namespace

snapshot parse_snapshot(std::string_view text) {
  try {
    return parse(json::parse(text));
  } catch (const json::exception& error) {
    throw std::runtime_error(error.what());
  }
}

}  // namespace top
