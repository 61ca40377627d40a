// SPDX-License-Identifier: Apache-2.0
// A libuv program that also speaks hawser: one thread, one loop. libuv waits for the runtime's
// descriptor and its next deadline, and the tasks run between libuv's own callbacks.
//
//   embed_libuv unix:/tmp/e.sock        serves an echo, and says every second what it has done
//   embed_libuv unix:/tmp/e.sock 1000   calls it 1000 times beside a timer of libuv, and ends
#include <hawser/driven_runtime.hpp>
#include <hawser/hawser.hpp>
#include <uv.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

namespace {

using hawser::task;

/// Runs a driven runtime inside a libuv loop.
class hawser_in_uv {
 public:
  hawser_in_uv(uv_loop_t& loop, hawser::driven_runtime& guest) : guest_(guest) {
    uv_poll_init(&loop, &readable_, static_cast<int>(guest.poll_handle()));
    uv_timer_init(&loop, &deadline_);
    uv_idle_init(&loop, &more_);
    readable_.data = deadline_.data = more_.data = this;
    uv_poll_start(&readable_, UV_READABLE, [](uv_poll_t* handle, int, int) { of(handle).run(); });
    run();
  }
  /// The loop has nothing to wait for any more.
  void close() {
    for (auto* each : {reinterpret_cast<uv_handle_t*>(&readable_),
                       reinterpret_cast<uv_handle_t*>(&deadline_),
                       reinterpret_cast<uv_handle_t*>(&more_)}) {
      uv_close(each, nullptr);
    }
  }

 private:
  template <class Handle>
  static hawser_in_uv& of(Handle* handle) {
    return *static_cast<hawser_in_uv*>(handle->data);
  }

  // An idle handle keeps libuv from sleeping, and lets its other callbacks have their turn.
  void run() {
    if (guest_.run_ready()) {
      uv_idle_start(&more_, [](uv_idle_t* handle) { of(handle).run(); });
      return;
    }
    uv_idle_stop(&more_);
    const auto deadline = guest_.next_deadline();
    if (!deadline) {
      uv_timer_stop(&deadline_);
      return;
    }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(*deadline - hawser::clock::now()).count();
    uv_update_time(readable_.loop);
    uv_timer_start(&deadline_, [](uv_timer_t* handle) { of(handle).run(); },
                   static_cast<std::uint64_t>(std::max<long>(left, 0)), 0);
  }

  hawser::driven_runtime& guest_;
  uv_poll_t readable_{};
  uv_timer_t deadline_{};
  uv_idle_t more_{};
};

struct counts {
  unsigned long messages = 0;
  unsigned ticks = 0;
  bool done = false;
  std::string failed;
};

task<void> echo(hawser::link link, counts& seen) {
  while (auto message = co_await link.rpc().recv()) {
    ++seen.messages;
    co_await link.rpc().send(std::move(*message));
  }
}

task<void> serve(hawser::scope& clients, hawser::listener listener, counts& seen) {
  for (;;) {
    auto link = co_await listener.accept();
    clients.serve(echo(std::move(link), seen));
  }
}

task<void> serve_all(hawser::listener listener, counts& seen) {
  co_await hawser::with_scope(serve, std::move(listener), std::ref(seen));
}

task<void> call(std::string uri, unsigned long count, counts& seen) {
  const auto connected = co_await hawser::as_result(hawser::connect(std::move(uri)));
  if (!connected.has_value()) {
    seen.failed = connected.error().text();
    seen.done = true;
    co_return;
  }
  const hawser::link link = *connected;
  for (; seen.messages < count; ++seen.messages) {
    co_await link.rpc().send(hawser::buffer::copy_of("ping"));
    const auto answer = co_await link.rpc().recv();
    if (!answer) break;
  }
  co_await link.close();
  seen.done = true;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    std::fprintf(stderr, "usage: embed_libuv URI [COUNT]\n");
    return 2;
  }
  const unsigned long count = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 0;
  uv_loop_t* const loop = uv_default_loop();
  counts seen;
  hawser::driven_runtime runtime(hawser::executor_config::from_environment({.threads = 1}));

  // The program's own business: a timer of libuv.
  uv_timer_t tick{};
  uv_timer_init(loop, &tick);
  tick.data = &seen;
  const std::uint64_t pace = count != 0 ? 1 : 1000;
  uv_timer_start(
      &tick,
      [](uv_timer_t* handle) {
        auto& now = *static_cast<counts*>(handle->data);
        ++now.ticks;
        if (uv_timer_get_repeat(handle) == 1000) {
          std::printf("%lu messages\n", now.messages);
          std::fflush(stdout);
        }
        if (now.done) uv_stop(handle->loop);
      },
      pace, pace);

  uv_signal_t interrupted{};
  uv_signal_t terminated{};
  for (const auto& [handle, number] : {std::pair(&interrupted, SIGINT), {&terminated, SIGTERM}}) {
    uv_signal_init(loop, handle);
    uv_signal_start(handle, [](uv_signal_t* of, int) { uv_stop(of->loop); }, number);
  }

  if (count != 0) {
    hawser::start(runtime, call(argv[1], count, seen));
  } else {
    auto listener = hawser::listen(runtime, argv[1]);
    std::printf("listening on %s\n", listener.uri().c_str());
    std::fflush(stdout);
    hawser::start(runtime, serve_all(std::move(listener), seen));
  }
  hawser_in_uv guest(*loop, runtime);
  uv_run(loop, UV_RUN_DEFAULT);

  std::printf("%lu answers, and %u ticks of libuv meanwhile\n", seen.messages, seen.ticks);
  for (auto* each : {reinterpret_cast<uv_handle_t*>(&tick),
                     reinterpret_cast<uv_handle_t*>(&interrupted),
                     reinterpret_cast<uv_handle_t*>(&terminated)}) {
    uv_close(each, nullptr);
  }
  guest.close();
  uv_run(loop, UV_RUN_DEFAULT);
  uv_loop_close(loop);
  if (!seen.failed.empty()) throw std::runtime_error(seen.failed);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "embed_libuv: %s\n", error.what());
  return 1;
}
