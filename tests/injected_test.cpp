// SPDX-License-Identifier: Apache-2.0
// Goal: a failure of a call that is not ours to intercept, because Asio makes it, ends in an error
// that has a name or is made again, never in a hang or a crash. Likewise the calls of liburing.
// Method: a child makes a runtime and links in it, while strace lets the n-th call of a kind fail.
// What the library calls itself is failed in turn by faults/faults_test.cpp.
#include <doctest/doctest.h>

#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/child.hpp"
#include "support/environment.hpp"
#include "support/folder.hpp"
#include "support/links.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::task;

struct injection {
  std::string_view call;
  std::vector<std::string_view> errors;
  unsigned first;  // call to fail
  unsigned last;
};

task<void> greet(hawser::listener& listener) {
  const hawser::link_options brisk{.handshake_timeout = 500ms, .close_timeout = 500ms};
  const auto ends =
      co_await hawser::when_all(hawser::connect(listener.uri(), brisk), listener.accept());
  const auto& [client, server] = ends;
  co_await client.rpc().send("question");
  const auto question = co_await server.rpc().recv();
  if (!question.has_value()) hawser::failure(hawser::errc::closed, "no question").raise();
  co_await client.close();
}

// A link in a runtime of its own, from beginning to end.
void live(const std::string& uri) {
  test::log_book log;
  hawser::runtime runtime(test::config(1, log));
  auto listener = hawser::listen(runtime, uri);
  hawser::run(runtime, [&] { return greet(listener); });
}

void live_among_failures(const std::string& uri) {
  const test::watchdog guard(5s);
  const auto first = test::outcome_of([&] { live(uri); });
  if (!first.has_value()) CHECK(first.error().code().value() != 0);
  // strace fails a call of each thread: those of the next runtime are others.
  unsigned attempts = 0;
  while (!test::outcome_of([&] { live(uri); }).has_value() && attempts < 3) ++attempts;
  std::cout << "first=" << (first.has_value() ? "done" : first.error().text())
            << " attempts=" << attempts << std::endl;
}

void expect_ends(const std::string& road, const injection& with) {
  for (const auto error : with.errors) {
    for (unsigned n = with.first; n <= with.last; ++n) {
      const std::string call(with.call);
      const auto child =
          test::run_child("strace -f -qq -o /dev/null -e trace=" + call + " -e inject=" + call +
                              ":error=" + std::string(error) + ":when=" + std::to_string(n),
                          "links over " + road + " while calls fail");
      INFO(road << ", " << call << " no. " << n << ", " << std::string(error) << ": "
                << child.output);
      CHECK(child.status == 0);
      CHECK(child.output.find("first=") != std::string::npos);
    }
  }
}

}  // namespace

TEST_SUITE("injected") {
  TEST_CASE("child: links over tcp while calls fail" * doctest::skip()) {
    live_among_failures("tcp://:0");
  }
  TEST_CASE("child: links over shared memory while calls fail" * doctest::skip()) {
    const test::folder here;
    live_among_failures("shm:" + (here / "s"));
  }

  TEST_CASE("calls that Asio and liburing make may fail") {
    if (!test::can_trace()) return;
    const bool portable = test::backend() == "asio";
    // Not the first of epoll_ctl: Asio does not look whether its own wake-up could be registered.
    const std::vector<injection> for_asio{
        {"epoll_create1", {"EMFILE", "ENOMEM"}, 1, 1},
        {"eventfd2", {"EMFILE", "ENOMEM"}, 1, 1},
        {"timerfd_create", {"EMFILE", "ENOMEM"}, 1, 1},
        {"epoll_ctl", {"ENOMEM", "ENOSPC"}, 2, 6},
        {"epoll_wait", {"EINTR"}, 1, 4},
        {"timerfd_settime", {"EINVAL"}, 1, 2},
    };
    const std::vector<injection> for_ring{
        {"io_uring_enter", {"EINTR", "EAGAIN", "ENOMEM"}, 1, 5},
        {"io_uring_register", {"ENOMEM", "EINVAL"}, 1, 3},
    };
    for (const injection& each : portable ? for_asio : for_ring) {
      expect_ends("tcp", each);
      expect_ends("shared memory", each);
    }
  }
}
