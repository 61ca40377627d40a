// SPDX-License-Identifier: Apache-2.0
// Shows what a running process does:
//
//   top URI [--interval 1s] [--once] [--json]
//
// The process serves its stats at URI, see stats_service.hpp. Exit codes: 0 done or interrupted,
// 1 the process cannot be reached or has ended, 2 the command line makes no sense.
#include <hawser/hawser.hpp>

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "courier/signals.hpp"
#include "top/table.hpp"

namespace {

using namespace std::chrono_literals;

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;
constexpr auto answer_patience = 10s;

struct options {
  std::string uri;
  std::int64_t interval_ms = 1000;
  bool once = false;
  bool json = false;
};

class ended : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Nothing but what a table needs is sent to a terminal: from the upper left corner, each line and
// then the rest erased.
void draw(const std::vector<std::string>& lines, bool terminal) {
  std::string text = terminal ? "\x1b[H" : "";
  for (const auto& line : lines) text += line + (terminal ? "\x1b[K\n" : "\n");
  text += terminal ? "\x1b[J" : "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

hawser::task<std::string> ask(hawser::link& link) {
  co_await link.rpc().send(std::string_view("stats"));
  auto answer = co_await link.rpc().recv();
  if (!answer) throw ended("the process has ended, or let go of the link");
  if (answer->encoding() != hawser::codec::json) {
    throw ended("the answer is no JSON: this is not where a process serves its stats");
  }
  co_return std::string(answer->text());
}

hawser::task<std::string> ask_in_time(hawser::link& link) {
  auto answer = co_await hawser::as_result(hawser::timeout(answer_patience, ask(link)));
  if (answer) co_return std::move(*answer);
  const auto why = answer.error();
  if (why.code() == hawser::errc::cancelled) why.raise();
  if (why.code() == hawser::errc::timed_out) {
    throw ended("no answer for 10 s: the worker that would give it is held by a task");
  }
  throw ended("the process has ended");
}

hawser::task<void> show(const options& wanted, bool terminal) {
  auto link = co_await hawser::timeout(answer_patience, hawser::connect(wanted.uri));
  std::optional<top::snapshot> before;
  for (;;) {
    const auto text = co_await ask_in_time(link);
    if (wanted.json) {
      std::puts(text.c_str());
      std::fflush(stdout);
      if (wanted.once) co_return;
    } else {
      auto now = top::parse_snapshot(text);
      if (before) draw(top::table_of(*before, now), terminal);
      if (before && wanted.once) co_return;
      before = std::move(now);
    }
    co_await hawser::this_task::sleep_for(std::chrono::milliseconds(wanted.interval_ms));
  }
}

// Who watches does not take part: one worker that never spins, whatever the environment says.
int run(const options& wanted) {
  hawser::runtime runtime({.threads = 1, .spin = {.how = hawser::spin_policy::mode::off}});
  const courier::signal_watch signals([&runtime](int) { runtime.request_stop(); });
  const bool terminal = ::isatty(STDOUT_FILENO) == 1 && !wanted.once;
  hawser::sync_wait(runtime, show(wanted, terminal));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Shows what the workers of a running process do.");
  options wanted;
  app.add_option("URI", wanted.uri, "where the process serves its stats")->required();
  const std::map<std::string, std::int64_t> units = {{"ms", 1}, {"s", 1000}};
  app.add_option("--interval", wanted.interval_ms, "between two looks, 10ms to 3600s (default 1s)")
      ->transform(CLI::AsNumberWithUnit(units, CLI::AsNumberWithUnit::UNIT_REQUIRED))
      ->check(CLI::Range(10, 3'600'000))
      ->option_text("TIME");
  app.add_flag("--once", wanted.once, "one table, of one interval");
  app.add_flag("--json", wanted.json, "the answers as they come, a line each, without a table");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;
  }
  courier::block_signals();
  try {
    return run(wanted);
  } catch (const std::system_error& error) {
    if (error.code() == hawser::errc::cancelled) return 0;
    std::fprintf(stderr, "top: %s\n", error.what());
    return error.code() == hawser::errc::bad_uri ? exit_usage : exit_failed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "top: %s: %s\n", wanted.uri.c_str(), error.what());
    return exit_failed;
  }
}
