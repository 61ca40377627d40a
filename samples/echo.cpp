// SPDX-License-Identifier: Apache-2.0
#include <hawser/hawser.hpp>
using namespace std::chrono_literals;

hawser::task<void> echo(hawser::link link) {
  while (auto message = co_await link.stream().recv())  // empty once the peer has finished
    co_await link.stream().send(std::move(*message));
}

hawser::task<void> serve(hawser::scope& clients, hawser::listener listener) {
  for (;;) {
    auto link = co_await listener.accept();
    clients.serve(echo(std::move(link)));  // one client's failure is its own
  }
}

int main() {
  hawser::runtime runtime(hawser::executor_config::from_environment());
  hawser::run(runtime, serve, hawser::listen(runtime, "unix:/tmp/echo.sock"));
}
