// SPDX-License-Identifier: Apache-2.0
#include <hawser/asio.hpp>

hawser::task<int> answer() { co_return 42; }

int main() {
  asio::io_context io(1);
  hawser::asio_runtime runtime(io);
  int got = 0;
  hawser::async_start(runtime, answer(), [&](std::exception_ptr, int value) { got = value; });
  io.run();
  return got == 42 ? 0 : 1;
}
