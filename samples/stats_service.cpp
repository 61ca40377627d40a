// SPDX-License-Identifier: Apache-2.0
#include "stats_service.hpp"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <ctime>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

namespace samples {
namespace {

using json = nlohmann::ordered_json;

constexpr std::array<const char*, hawser::priority_count> priority_names{"control", "rpc", "stream",
                                                                         "bulk"};

std::int64_t process_cpu_ns() {
  timespec spent{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return std::int64_t{spent.tv_sec} * 1'000'000'000 + spent.tv_nsec;
}

json as_json(const hawser::priority_stats& one) {
  std::span<const std::uint64_t> waits(one.queue_wait.counts);
  while (!waits.empty() && waits.back() == 0) waits = waits.first(waits.size() - 1);
  return {{"executed", one.executed},
          {"stolen", one.stolen},
          {"queued", one.queued},
          {"queue_wait", json(std::vector(waits.begin(), waits.end()))}};
}

json as_json(const hawser::worker_stats& one) {
  json priorities;
  for (std::size_t at = 0; at < hawser::priority_count; ++at) {
    priorities[priority_names[at]] = as_json(one.priorities[at]);
  }
  return {{"turns", one.turns},
          {"executed", one.executed},
          {"posts_received", one.posts_received},
          {"parks", one.parks},
          {"spins", one.spins},
          {"spins_paid", one.spins_paid},
          {"spin_ns", one.spin_ns},
          {"wakeups_sent", one.wakeups_sent},
          {"wakeups_spared", one.wakeups_spared},
          {"timers_fired", one.timers_fired},
          {"longest_gap_ns", one.longest_gap_ns},
          {"stalls", one.stalls},
          {"system_calls", one.system_calls},
          {"completions", one.completions},
          {"multishot", one.multishot},
          {"inline_reads", one.inline_reads},
          {"bytes_read", one.bytes_read},
          {"bytes_written", one.bytes_written},
          {"priorities", std::move(priorities)}};
}

hawser::task<void> answer_one(hawser::link link, const hawser::runtime& watched) {
  while (auto question = co_await link.rpc().recv()) {
    const auto text = stats_as_json(watched);
    co_await link.rpc().send(std::as_bytes(std::span(text)),
                             {.id = question->id(), .encoding = hawser::codec::json});
  }
}

}  // namespace

std::string stats_as_json(const hawser::runtime& watched) {
  const auto stats = watched.stats();
  json all = {{"format", 1},
              {"pid", ::getpid()},
              {"backend", watched.report().mechanism},
              {"time_ns", hawser::clock::now().time_since_epoch().count()},
              {"cpu_ns", process_cpu_ns()},
              {"open_links", stats.open_links},
              {"failed_tasks", stats.failed_tasks},
              {"injected", stats.injected},
              {"rejected", stats.rejected},
              {"workers", json::array()}};
  for (const auto& each : stats.workers) all["workers"].push_back(as_json(each));
  return all.dump();
}

hawser::task<void> serve_stats(hawser::scope& clients, hawser::listener listener,
                               const hawser::runtime& watched) {
  for (;;) {
    auto link = co_await listener.accept();
    clients.serve(answer_one(std::move(link), watched));
  }
}

}  // namespace samples
