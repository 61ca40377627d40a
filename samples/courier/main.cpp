// SPDX-License-Identifier: Apache-2.0
// Copies a directory tree to another process:
//
//   courier serve URI DIR     courier send DIR URI
//
// Exit codes: 0 done, 1 something failed, 2 the command line makes no sense.
#include <hawser/hawser.hpp>

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "courier/files.hpp"
#include "courier/send.hpp"
#include "courier/serve.hpp"
#include "courier/signals.hpp"
#include "stats_service.hpp"

namespace {

constexpr int exit_failed = 1;
constexpr int exit_usage = 2;

struct common_options {
  hawser::backend backend = hawser::backend::automatic;
  bool verbose = false;
};

hawser::task<void> serve_all(hawser::scope& scope, hawser::listener listener,
                             courier::server& shared, std::optional<hawser::listener> stats,
                             const hawser::runtime& runtime) {
  if (stats) scope.serve(samples::serve_stats(scope, std::move(*stats), runtime));
  co_await courier::serve_trees(scope, std::move(listener), shared);
}

hawser::executor_config config_of(const common_options& common) {
  auto config = hawser::executor_config::from_environment();
  config.threads = 1;  // the link's worker; the disk has the pool of blocking threads
  if (common.backend != hawser::backend::automatic) config.backend = common.backend;
  config.log = [verbose = common.verbose](const hawser::log_event& event) {
    if (!verbose && event.level < hawser::log_level::error) return;
    std::fprintf(stderr, "courier: %.*s: %.*s\n", static_cast<int>(event.area.size()),
                 event.area.data(), static_cast<int>(event.text.size()), event.text.data());
  };
  return config;
}

void say_backend(const hawser::runtime& runtime, const common_options& common) {
  if (!common.verbose) return;
  std::fprintf(stderr, "courier: %s\n", to_string(runtime.report()).c_str());
}

int run_serve(const std::string& uri, const std::string& stats_uri, courier::server& shared,
              const common_options& common) {
  const auto folder = courier::open_folder(shared.options.folder);
  hawser::runtime runtime(config_of(common));
  const courier::signal_watch signals([&runtime](int count) {
    if (count > 1) ::_exit(exit_failed);
    runtime.request_stop();
  });
  say_backend(runtime, common);
  shared.request_stop = [&runtime] { runtime.request_stop(); };

  std::optional<hawser::listener> stats;
  if (!stats_uri.empty()) {
    stats = hawser::listen(runtime, stats_uri);
    std::fprintf(stderr, "courier: stats at %s\n", stats->uri().c_str());
  }
  auto listener = hawser::listen(runtime, uri);
  std::printf("listening on %s\n", listener.uri().c_str());
  std::fflush(stdout);
  try {
    hawser::run(runtime, serve_all, std::move(listener), std::ref(shared), std::move(stats),
                std::cref(runtime));
  } catch (const std::system_error& error) {
    if (error.code() != hawser::errc::cancelled) throw;
  }
  if (shared.interrupted > 0) {
    std::fprintf(stderr, "courier: stopped; %llu transfers can be resumed\n",
                 static_cast<unsigned long long>(shared.interrupted));
    return exit_failed;
  }
  return 0;
}

int run_send(const courier::send_options& options, const common_options& common) {
  courier::cancel_flag cancelled{false};
  hawser::runtime runtime(config_of(common));
  const courier::signal_watch signals([&cancelled](int count) {
    if (count > 1) ::_exit(exit_failed);  // the user insists; the receiver notices by itself
    cancelled.store(true);
  });
  say_backend(runtime, common);
  return hawser::sync_wait(runtime, courier::send_tree(options, cancelled));
}

bool is_usage(const std::error_code& code) {
  return code == hawser::errc::bad_uri || code == hawser::errc::bad_config;
}

void add_common(CLI::App& command, common_options& common) {
  static const std::map<std::string, hawser::backend> backends = {
      {"automatic", hawser::backend::automatic},
      {"io_uring", hawser::backend::io_uring},
      {"asio", hawser::backend::asio}};
  command.add_option("--backend", common.backend, "automatic, io_uring or asio")
      ->transform(CLI::CheckedTransformer(backends))
      ->option_text("NAME");
  command.add_flag("-v,--verbose", common.verbose, "show what the library logs");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Copies a directory tree to another process, and resumes where it was interrupted.");
  app.require_subcommand(1);
  common_options common;
  std::string uri;

  courier::server shared;
  auto* serve = app.add_subcommand("serve", "receive trees into DIR until stopped");
  serve->add_option("URI", uri, "tcp://host:port or unix:/path to listen at")->required();
  serve->add_option("DIR", shared.options.folder, "where trees go")->required();
  serve->add_flag("--once", shared.options.once, "end after the first complete transfer");
  serve->add_flag("--sync", shared.options.target.sync, "write each file through to the device");
  serve->add_flag("!--drop-set-id", shared.options.target.keep_set_id,
                  "never keep set-user-id and set-group-id bits of files");
  std::string stats_uri;
  serve->add_option("--stats", stats_uri, "where `top` can ask what it does")->option_text("URI");
  add_common(*serve, common);

  courier::send_options options;
  auto* send = app.add_subcommand("send", "send what is in DIR");
  send->add_option("DIR", options.folder, "the tree to send")->required();
  send->add_option("URI", options.uri, "where the receiver listens")->required();
  send->add_option("--lanes", options.lanes, "files that are read at the same time")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  send->add_flag("--keep-partial", options.keep_partial,
                 "when cancelled, leave what is not whole for the next time");
  send->add_flag("-q,--quiet", options.quiet, "no progress");
  send->add_flag("--json", options.json, "print the figures as a line of JSON too");
  add_common(*send, common);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;
  }
  courier::block_signals();
  try {
    return *serve ? run_serve(uri, stats_uri, shared, common) : run_send(options, common);
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "courier: %s\n", error.what());
    return is_usage(error.code()) ? exit_usage : exit_failed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "courier: %s\n", error.what());
    return exit_failed;
  }
}
