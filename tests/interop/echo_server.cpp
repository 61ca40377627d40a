// SPDX-License-Identifier: Apache-2.0
// Echoes every channel of every link, each message with its id, codec and lane.
//
// usage: echo_server BACKEND URI      BACKEND: io_uring, asio or automatic
//
// Prints the address it listens at, one line a link that has ended, and ends with its input.
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>

#include "hawser/hawser.hpp"

namespace {

hawser::backend backend_of(std::string_view name) {
  if (name == "io_uring") return hawser::backend::io_uring;
  if (name == "asio") return hawser::backend::asio;
  return hawser::backend::automatic;
}

hawser::task<void> echo(hawser::link link, hawser::priority which) {
  hawser::channel& channel = link.at(which);
  while (auto message = co_await channel.recv()) {
    const hawser::lane via = message->via();
    co_await channel.send(std::move(*message), via);
  }
  co_await channel.finish();
}

hawser::task<void> echo_all(hawser::scope& channels, hawser::link link) {
  for (const auto which : {hawser::priority::control, hawser::priority::rpc,
                           hawser::priority::stream, hawser::priority::bulk}) {
    channels.serve(echo(link, which));
  }
  const hawser::failure why = co_await link.ended();
  std::cout << "ended: " << why.text() << std::endl;
}

hawser::task<void> one_client(hawser::link link) {
  co_await hawser::with_scope(echo_all, std::move(link));
}

hawser::task<void> serve(hawser::scope& clients, hawser::listener listener) {
  for (;;) {
    auto link = co_await listener.accept();
    clients.serve(one_client(std::move(link)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: echo_server BACKEND URI\n";
    return 2;
  }
  try {
    hawser::runtime runtime({.threads = 2, .backend = backend_of(argv[1])});
    hawser::listener listener = hawser::listen(runtime, argv[2]);
    std::cout << listener.uri() << std::endl;
    std::thread watch([&runtime] {
      while (std::getchar() != EOF) {
      }
      runtime.request_stop();
    });
    try {
      hawser::run(runtime, serve, std::move(listener));
    } catch (const std::system_error& error) {
      watch.join();
      if (error.code() == hawser::errc::cancelled) return 0;
      throw;
    }
    watch.join();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "echo_server: " << error.what() << '\n';
    return 1;
  }
}
