// SPDX-License-Identifier: Apache-2.0
// An Asio server that also speaks hawser: one process, one thread, one io_context. It has echoed
// lines over TCP all along; now it echoes the messages of hawser's links too, and both are
// coroutines of Asio.
//
//   embed_asio unix:/tmp/e.sock 7000        serves links there, and lines on 127.0.0.1:7000
//   embed_asio call unix:/tmp/e.sock 1000   calls it 1000 times beside a timer of Asio, and ends
#include <hawser/asio.hpp>
#include <hawser/hawser.hpp>

#include <asio/awaitable.hpp>
#include <asio/buffer.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read_until.hpp>
#include <asio/signal_set.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace {

using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;
using hawser::asio_runtime;
using hawser::async_start;
using namespace std::chrono_literals;

/// What both halves of the server count: they share a thread, so nothing is locked.
struct counts {
  unsigned long lines = 0;
  unsigned long messages = 0;
};

// ---- the server that was there before -----------------------------------------------------------

awaitable<void> echo_lines(tcp::socket client, counts& seen) try {
  std::string text;
  for (;;) {
    const auto length = co_await asio::async_read_until(
        client, asio::dynamic_buffer(text, 4096), '\n', use_awaitable);
    ++seen.lines;
    co_await asio::async_write(client, asio::buffer(text, length), use_awaitable);
    text.erase(0, length);
  }
} catch (const std::system_error&) {
  // The client has left.
}

awaitable<void> serve_lines(tcp::acceptor& acceptor, counts& seen) {
  for (;;) {
    auto client = co_await acceptor.async_accept(use_awaitable);
    const auto executor = client.get_executor();
    asio::co_spawn(executor, echo_lines(std::move(client), seen), asio::detached);
  }
}

// ---- what hawser adds ---------------------------------------------------------------------------

awaitable<void> echo_messages(asio_runtime& runtime, hawser::link link, counts& seen) try {
  for (;;) {
    auto message = co_await async_start(runtime, link.rpc().recv(), use_awaitable);
    if (!message) break;
    ++seen.messages;
    co_await async_start(runtime, link.rpc().send(std::move(*message)), use_awaitable);
  }
} catch (const std::system_error& why) {
  std::fprintf(stderr, "a link ended: %s\n", why.what());
}

awaitable<void> serve_links(asio_runtime& runtime, hawser::listener listener, counts& seen) {
  for (;;) {
    auto link = co_await async_start(runtime, listener.accept(), use_awaitable);
    asio::co_spawn(runtime.get_executor(), echo_messages(runtime, std::move(link), seen),
                   asio::detached);
  }
}

void serve(const std::string& uri, unsigned short port) {
  asio::io_context io(1);
  asio_runtime runtime(io, hawser::executor_config::from_environment({.threads = 1}));
  counts seen;

  tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), port});
  asio::co_spawn(io, serve_lines(acceptor, seen), asio::detached);
  auto listener = hawser::listen(runtime, uri);
  std::printf("listening on %s\nlines on port %u\n", listener.uri().c_str(),
              static_cast<unsigned>(acceptor.local_endpoint().port()));
  std::fflush(stdout);
  asio::co_spawn(io, serve_links(runtime, std::move(listener), seen), asio::detached);

  asio::signal_set ends(io, SIGINT, SIGTERM);
  ends.async_wait([&](std::error_code, int) { io.stop(); });
  io.run();
  std::printf("%lu lines, %lu messages\n", seen.lines, seen.messages);
}

// ---- a client -----------------------------------------------------------------------------------

// A cancel that finds the timer expired already cancels nothing: so it is told to end, too.
awaitable<void> tick(asio::steady_timer& timer, const bool& over, unsigned& ticks) try {
  while (!over) {
    timer.expires_after(1ms);
    co_await timer.async_wait(use_awaitable);
    ++ticks;
  }
} catch (const std::system_error&) {
  // The calls are done.
}

awaitable<void> call(asio_runtime& runtime, std::string uri, unsigned long count,
                     unsigned long& answers) {
  // A timeout is hawser's own, around any of its operations.
  const auto link = co_await async_start(
      runtime, hawser::timeout(5s, hawser::connect(std::move(uri))), use_awaitable);
  for (; answers < count; ++answers) {
    co_await async_start(runtime, link.rpc().send("ping"), use_awaitable);
    const auto answer = co_await async_start(runtime, link.rpc().recv(), use_awaitable);
    if (!answer) break;
  }
  co_await async_start(runtime, link.close(), use_awaitable);
}

void run_client(const std::string& uri, unsigned long count) {
  asio::io_context io(1);
  asio_runtime runtime(io, hawser::executor_config::from_environment({.threads = 1}));
  asio::steady_timer timer(io);
  bool over = false;
  unsigned ticks = 0;
  unsigned long answers = 0;
  std::exception_ptr failure;
  asio::co_spawn(io, tick(timer, over, ticks), asio::detached);
  asio::co_spawn(io, call(runtime, uri, count, answers), [&](std::exception_ptr why) {
    failure = why;
    over = true;
    timer.cancel();
  });
  io.run();  // returns: nothing is left, neither of Asio nor of hawser
  if (failure) std::rethrow_exception(failure);
  std::printf("%lu answers, and %u ticks of Asio meanwhile\n", answers, ticks);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 4 && std::string_view(argv[1]) == "call") {
    run_client(argv[2], std::strtoul(argv[3], nullptr, 10));
  } else if (argc == 3) {
    serve(argv[1], static_cast<unsigned short>(std::strtoul(argv[2], nullptr, 10)));
  } else {
    std::fprintf(stderr, "usage: embed_asio URI PORT | embed_asio call URI COUNT\n");
    return 2;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "embed_asio: %s\n", error.what());
  return 1;
}
