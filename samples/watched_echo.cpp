// SPDX-License-Identifier: Apache-2.0
// The echo server of the front page, to be tuned by HAWSER_* variables and watched with `top`:
//
//   watched_echo URI [--stats URI]
#include <hawser/hawser.hpp>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "courier/signals.hpp"
#include "stats_service.hpp"

namespace {

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

hawser::task<void> echo(hawser::channel& channel) {
  while (auto message = co_await channel.recv()) co_await channel.send(std::move(*message));
}

hawser::task<void> echo_all(hawser::scope& channels, hawser::link link) {
  channels.spawn(echo(link.control()), hawser::priority::control);
  channels.spawn(echo(link.rpc()), hawser::priority::rpc);
  channels.spawn(echo(link.stream()), hawser::priority::stream);
  co_await echo(link.bulk());
}

hawser::task<void> serve(hawser::scope& clients, hawser::listener listener,
                         std::optional<hawser::listener> stats, const hawser::runtime& runtime) {
  if (stats) clients.serve(samples::serve_stats(clients, std::move(*stats), runtime));
  for (;;) {
    auto link = co_await listener.accept();
    clients.serve(hawser::with_scope(echo_all, std::move(link)));
  }
}

void run(const std::string& uri, const std::string& stats_uri) {
  hawser::runtime runtime(hawser::executor_config::from_environment());
  const courier::signal_watch signals([&runtime](int) { runtime.request_stop(); });
  std::optional<hawser::listener> stats;
  if (!stats_uri.empty()) {
    stats = hawser::listen(runtime, stats_uri);
    std::printf("stats at %s\n", stats->uri().c_str());
  }
  auto listener = hawser::listen(runtime, uri);
  std::printf("listening on %s\n", listener.uri().c_str());
  std::fflush(stdout);
  hawser::run(runtime, serve, std::move(listener), std::move(stats), std::cref(runtime));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Sends back what it gets. HAWSER_* variables configure it, see src/exec/README.md.");
  std::string uri;
  std::string stats;
  app.add_option("URI", uri, "tcp://host:port or unix:/path to listen at")->required();
  app.add_option("--stats", stats, "where `top` can ask for its figures")->option_text("URI");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;
  }
  courier::block_signals();
  try {
    run(uri, stats);
  } catch (const std::system_error& error) {
    if (error.code() == hawser::errc::cancelled) return 0;
    std::fprintf(stderr, "watched_echo: %s\n", error.what());
    const bool usage =
        error.code() == hawser::errc::bad_uri || error.code() == hawser::errc::bad_config;
    return usage ? exit_usage : exit_failed;
  }
}
