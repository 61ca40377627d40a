// SPDX-License-Identifier: Apache-2.0
#include "top/table.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace top {
namespace {

using hawser::priority_count;
using hawser::worker_stats;

template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 256> text{};
  const int size = std::snprintf(text.data(), text.size(), pattern, values...);
  return {text.data(), std::min(static_cast<std::size_t>(std::max(size, 0)), text.size() - 1)};
}

// Three digits that count, and the unit that fits.
template <std::size_t Units>
std::string scaled(double value, const char* gap, const std::array<const char*, Units>& units) {
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  const int digits = value >= 99.95 || (unit == 0 && value >= 9.95) ? 0 : (value >= 9.995 ? 1 : 2);
  return format("%.*f%s%s", unit == 0 && digits > 1 ? 1 : digits, value, gap, units[unit]);
}

// Counters never go back; a worker of another process would.
std::uint64_t less(std::uint64_t now, std::uint64_t before) {
  return now - std::min(now, before);
}

worker_stats difference(const worker_stats& before, const worker_stats& now) {
  worker_stats gone = now;
  for (std::size_t at = 0; at < priority_count; ++at) {
    auto& one = gone.priorities[at];
    const auto& was = before.priorities[at];
    one.executed = less(one.executed, was.executed);
    one.stolen = less(one.stolen, was.stolen);
    for (std::size_t i = 0; i < one.queue_wait.counts.size(); ++i) {
      one.queue_wait.counts[i] = less(one.queue_wait.counts[i], was.queue_wait.counts[i]);
    }
  }
  static constexpr std::array counters{
      &worker_stats::turns,        &worker_stats::executed,       &worker_stats::posts_received,
      &worker_stats::parks,        &worker_stats::spins,          &worker_stats::spins_paid,
      &worker_stats::spin_ns,      &worker_stats::wakeups_sent,   &worker_stats::wakeups_spared,
      &worker_stats::timers_fired, &worker_stats::stalls,         &worker_stats::system_calls,
      &worker_stats::completions,  &worker_stats::multishot,      &worker_stats::inline_reads,
      &worker_stats::bytes_read,   &worker_stats::bytes_written};
  for (const auto each : counters) gone.*each = less(now.*each, before.*each);
  return gone;
}

// All workers together, as one.
worker_stats sum_of(const std::vector<worker_stats>& workers) {
  static constexpr std::array counters{
      &worker_stats::turns,        &worker_stats::parks,          &worker_stats::spins,
      &worker_stats::spins_paid,   &worker_stats::spin_ns,        &worker_stats::wakeups_sent,
      &worker_stats::stalls,       &worker_stats::wakeups_spared, &worker_stats::system_calls,
      &worker_stats::bytes_read,   &worker_stats::bytes_written};
  worker_stats all;
  for (const auto& each : workers) {
    for (const auto counter : counters) all.*counter += each.*counter;
    all.longest_gap_ns = std::max(all.longest_gap_ns, each.longest_gap_ns);
    for (std::size_t at = 0; at < priority_count; ++at) {
      all.priorities[at].executed += each.priorities[at].executed;
      all.priorities[at].stolen += each.priorities[at].stolen;
      all.priorities[at].queued += each.priorities[at].queued;
      all.priorities[at].queue_wait += each.priorities[at].queue_wait;
    }
  }
  return all;
}

std::string share(double part, double whole) {
  return whole > 0 ? format("%.0f %%", 100 * part / whole) : "-";
}

std::string wait(const hawser::wait_histogram& all, double percentile) {
  if (all.total() == 0) return "-";
  const auto found = all.percentile(percentile);
  return found == std::chrono::nanoseconds::max() ? "> 4 s" : short_time(found);
}

std::string work_line(const std::string& name, const worker_stats& one, double seconds) {
  std::uint64_t stolen = 0;
  std::uint64_t queued = 0;
  hawser::wait_histogram waits;
  for (const auto& each : one.priorities) {
    stolen += each.stolen;
    queued += each.queued;
    waits += each.queue_wait;
  }
  const auto rate = [seconds](std::uint64_t count) {
    return short_count(static_cast<double>(count) / seconds);
  };
  const auto& by = one.priorities;
  return format("%6s %8s %8s %8s %8s %8s %8s %7s %8s %8s %8s %7s", name.c_str(),
                rate(one.turns).c_str(), rate(by[0].executed).c_str(), rate(by[1].executed).c_str(),
                rate(by[2].executed).c_str(), rate(by[3].executed).c_str(), rate(stolen).c_str(),
                short_count(static_cast<double>(queued)).c_str(), wait(waits, 0.5).c_str(),
                wait(waits, 0.99).c_str(),
                short_time(std::chrono::nanoseconds(one.longest_gap_ns)).c_str(),
                short_count(static_cast<double>(one.stalls)).c_str());
}

std::string idle_line(const std::string& name, const worker_stats& one, double seconds,
                      std::size_t workers) {
  const auto rate = [seconds](std::uint64_t count) {
    return short_count(static_cast<double>(count) / seconds);
  };
  const auto spun = static_cast<double>(one.spin_ns) / 1e9;
  return format("%6s %8s %8s %8s %8s %8s %8s %8s %9s %9s", name.c_str(), rate(one.parks).c_str(),
                rate(one.spins).c_str(),
                share(static_cast<double>(one.spins_paid), static_cast<double>(one.spins)).c_str(),
                share(spun, seconds * static_cast<double>(workers)).c_str(),
                rate(one.wakeups_sent).c_str(), rate(one.wakeups_spared).c_str(),
                rate(one.system_calls).c_str(), rate(one.bytes_read).c_str(),
                rate(one.bytes_written).c_str());
}

// Of one priority on all workers: bulk that waits must not hide that rpc does not, or does.
std::string priority_line(const char* name, const hawser::priority_stats& one, double seconds) {
  return format("%8s %8s %8s %8s %8s %8s", name,
                short_count(static_cast<double>(one.executed) / seconds).c_str(),
                short_count(static_cast<double>(one.stolen) / seconds).c_str(),
                short_count(static_cast<double>(one.queued)).c_str(),
                wait(one.queue_wait, 0.5).c_str(), wait(one.queue_wait, 0.99).c_str());
}

std::string heading(const snapshot& now, double seconds, double cpu_seconds) {
  return format("pid %llu, %s, %zu workers; of the last %.1f s: CPU %s",
                static_cast<unsigned long long>(now.pid), now.backend.c_str(),
                now.stats.workers.size(), seconds, share(cpu_seconds, seconds).c_str());
}

}  // namespace

std::string short_count(double value) {
  static constexpr std::array units{"", "k", "M", "G", "T"};
  if (value < 999.5 && value == std::floor(value)) return format("%.0f", value);
  return scaled(value, "", units);
}

std::string short_time(std::chrono::nanoseconds value) {
  static constexpr std::array units{"ns", "us", "ms", "s"};
  const auto count = static_cast<double>(value.count());
  return count < 999.5 ? format("%.0f ns", count) : scaled(count, " ", units);
}

hawser::runtime_stats difference(const hawser::runtime_stats& before,
                                 const hawser::runtime_stats& now) {
  hawser::runtime_stats gone = now;
  gone.injected = less(now.injected, before.injected);
  gone.rejected = less(now.rejected, before.rejected);
  gone.failed_tasks = less(now.failed_tasks, before.failed_tasks);
  const auto both = std::min(before.workers.size(), now.workers.size());
  for (std::size_t i = 0; i < both; ++i) {
    gone.workers[i] = difference(before.workers[i], now.workers[i]);
  }
  return gone;
}

std::vector<std::string> table_of(const snapshot& before, const snapshot& now) {
  constexpr double least_seconds = 1e-6;
  const auto seconds =
      std::max(std::chrono::duration<double>(now.time - before.time).count(), least_seconds);
  const auto cpu = std::chrono::duration<double>(now.cpu - before.cpu).count();
  const auto gone = difference(before.stats, now.stats);
  const auto all = sum_of(gone.workers);

  std::vector<std::string> lines;
  lines.push_back(heading(now, seconds, cpu));
  lines.push_back(format("links %s   injected/s %s   rejected %s (+%s)   failed tasks %s (+%s)",
                         short_count(static_cast<double>(now.stats.open_links)).c_str(),
                         short_count(static_cast<double>(gone.injected) / seconds).c_str(),
                         short_count(static_cast<double>(now.stats.rejected)).c_str(),
                         short_count(static_cast<double>(gone.rejected)).c_str(),
                         short_count(static_cast<double>(now.stats.failed_tasks)).c_str(),
                         short_count(static_cast<double>(gone.failed_tasks)).c_str()));
  lines.emplace_back();
  lines.push_back(format("%6s %8s %8s %8s %8s %8s %8s %7s %8s %8s %8s %7s", "worker", "turns/s",
                         "control", "rpc", "stream", "bulk/s", "stolen/s", "queued", "wait p50",
                         "wait p99", "max gap", "stalls"));
  for (std::size_t i = 0; i < gone.workers.size(); ++i) {
    lines.push_back(work_line(std::to_string(i), gone.workers[i], seconds));
  }
  lines.push_back(work_line("all", all, seconds));
  lines.emplace_back();
  lines.push_back(format("%6s %8s %8s %8s %8s %8s %8s %8s %9s %9s", "worker", "parks/s", "spins/s",
                         "paid", "spinning", "wakes/s", "spared/s", "calls/s", "bytes in/s",
                         "out/s"));
  for (std::size_t i = 0; i < gone.workers.size(); ++i) {
    lines.push_back(idle_line(std::to_string(i), gone.workers[i], seconds, 1));
  }
  lines.push_back(idle_line("all", all, seconds, gone.workers.size()));
  lines.emplace_back();
  lines.push_back(format("%8s %8s %8s %8s %8s %8s", "priority", "tasks/s", "stolen/s", "queued",
                         "wait p50", "wait p99"));
  for (std::size_t at = 0; at < priority_count; ++at) {
    lines.push_back(priority_line(priority_names[at], all.priorities[at], seconds));
  }
  return lines;
}

}  // namespace top
