// SPDX-License-Identifier: Apache-2.0
// How long a process takes to learn that the one at the other end of its link was killed: from just
// before `kill -9` to the failure of the receive that waits. Each death is of a new process, which
// has answered a message and sleeps.
#include <hawser/hawser.hpp>

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "program.hpp"

extern char** environ;

namespace {

using namespace std::chrono_literals;
using bench::clock;
using bench::run_plan;
using bench::sample;
using hawser::task;

constexpr std::string_view usage = R"(usage: bench_death BENCH CASE IMPL [--seconds S | --count N]
       bench_death --list
       bench_death --all [--seconds S]

  BENCH CASE IMPL  one run; --list names what there is
  --seconds S      kill for S seconds (default 1)
  --count N        kill N times
  --all            every benchmark of this program once
)";

/// A process that is killed at the latest with this object.
class victim {
 public:
  explicit victim(pid_t id) noexcept : id_(id) {}
  ~victim() {
    kill();
    ::waitpid(id_, nullptr, 0);
  }
  victim(const victim&) = delete;
  victim& operator=(const victim&) = delete;

  void kill() const noexcept { ::kill(id_, SIGKILL); }

 private:
  pid_t id_;
};

/// This program once more, told what to connect to: a copy of a process that has a runtime would
/// keep its sockets open.
pid_t start_peer(const char* program, const std::array<std::string, 3>& name,
                 const std::string& address) {
  std::vector<std::string> words{program, name[0], name[1], name[2], "--peer", address};
  std::vector<char*> pointers;
  for (auto& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  pid_t id = 0;
  const int error =
      ::posix_spawn(&id, "/proc/self/exe", nullptr, nullptr, pointers.data(), environ);
  if (error != 0) throw std::system_error(error, std::generic_category(), "posix_spawn");
  return id;
}

/// Kills until there was enough: `die_once` says how long it took to be noticed.
template <class DieOnce>
std::vector<sample> time_deaths(const run_plan& plan, DieOnce die_once) {
  constexpr std::size_t fewest = 3;
  std::vector<clock::duration> times;
  const auto begin = clock::now();
  const auto enough = [&] {
    if (plan.fixed_count != 0) return times.size() >= plan.fixed_count;
    return times.size() >= fewest && clock::now() - begin >= plan.wanted;
  };
  while (!enough()) times.push_back(die_once());
  return {{"p50", "us", bench::percentile_us(times, 0.50)},
          {"p99", "us", bench::percentile_us(times, 0.99)},
          {"max", "us", bench::percentile_us(times, 1.0)}};
}

/// Not always at the same moment of what the victim still has to do.
clock::duration a_moment() {
  static std::minstd_rand random(1);
  return std::chrono::microseconds(std::uniform_int_distribution(1'000, 3'000)(random));
}

// ---- a link -----------------------------------------------------------------------------------

hawser::executor_config config_of(hawser::backend how) {
  hawser::executor_config config{.threads = 1};
  config.backend = how;
  return config;
}

task<void> answer(const std::string& address) {
  const auto link = co_await hawser::connect(address);
  co_await link.rpc().send("here");
  while (auto message = co_await link.rpc().recv()) co_await link.rpc().send(std::move(*message));
}

task<clock::duration> outlive(hawser::listener& listener, const victim& peer) {
  const auto link = co_await listener.accept();
  static_cast<void>(co_await link.rpc().recv());
  co_await link.rpc().send("ping");
  static_cast<void>(co_await link.rpc().recv());
  co_await hawser::this_task::sleep_for(a_moment());
  const auto begin = clock::now();
  peer.kill();
  const auto got = co_await hawser::as_result(link.rpc().recv());
  const auto taken = clock::now() - begin;
  if (got.has_value() || got.error().code() != hawser::errc::link_lost) {
    throw std::runtime_error("the link was not lost");
  }
  co_return taken;
}

struct of_link {
  const char* scheme;
  const char* query;
  hawser::backend backend;
};

std::vector<sample> kill_links(const run_plan& plan, const char* program,
                               const std::array<std::string, 3>& name, const of_link& what) {
  const bench::scratch_folder folder;
  hawser::runtime runtime(config_of(what.backend));
  auto listener =
      hawser::listen(runtime, what.scheme + (":" + folder.path() + "/socket") + what.query);
  return time_deaths(plan, [&] {
    const victim peer(start_peer(program, name, listener.uri()));
    return hawser::run(runtime, [&] { return outlive(listener, peer); });
  });
}

void live(const std::string& address, hawser::backend backend) {
  hawser::runtime runtime(config_of(backend));
  hawser::run(runtime, [&] { return answer(address); });
}

// ---- a socket ---------------------------------------------------------------------------------

clock::duration outlive_socket() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw std::runtime_error("socketpair");
  }
  const pid_t id = ::fork();
  if (id < 0) throw std::runtime_error("fork");
  if (id == 0) {
    ::close(ends[0]);
    for (char byte = 0; ::read(ends[1], &byte, 1) == 1;) continue;
    ::_exit(0);
  }
  ::close(ends[1]);
  const victim peer(id);
  ::usleep(static_cast<useconds_t>(a_moment() / 1us));
  const auto begin = clock::now();
  peer.kill();
  pollfd until{ends[0], POLLIN, 0};
  static_cast<void>(::poll(&until, 1, -1));
  const auto taken = clock::now() - begin;
  ::close(ends[0]);
  return taken;
}

}  // namespace

int main(int argc, char** argv) {
  std::string address;  // in a victim
  std::vector<bench::choice> all;
  const auto add = [&](const char* kind, const char* impl, of_link what) {
    const std::array<std::string, 3> name{"death", kind, impl};
    all.push_back({name, [&address, argv, name, what](const run_plan& plan) {
                     if (address.empty()) return kill_links(plan, argv[0], name, what);
                     live(address, what.backend);
                     return std::vector<sample>{};
                   }});
  };
  for (const auto& [impl, backend] : {std::pair{"hawser", hawser::backend::automatic},
                                      std::pair{"hawser_epoll", hawser::backend::asio}}) {
    add("shm", impl, {"shm", "", backend});
    add("unix", impl, {"unix", "?share_memory=0", backend});
  }
  all.push_back({{"death", "unix", "floor"},
                 [](const run_plan& plan) { return time_deaths(plan, outlive_socket); }});
  return bench::run_program(argc, argv, usage, all,
                            {{"peer", [&](const char* text) { address = text; }}});
}
