// SPDX-License-Identifier: Apache-2.0
// Cores, threads, randomness.
#include <cxxabi.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "calls.hpp"
#include "cgroup.hpp"
#include "os/platform.hpp"

namespace hawser::platform {
namespace {

// Several times what kernels are built for.
constexpr std::size_t most_cores = std::size_t{1} << 16;

// A set of cores of any size, unlike a cpu_set_t, which ends at 1024.
class core_set {
 public:
  explicit core_set(std::size_t cores)
      : cores_(cores), bytes_(CPU_ALLOC_SIZE(cores)), set_(CPU_ALLOC(cores)) {
    if (set_ == nullptr) throw std::bad_alloc();
    CPU_ZERO_S(bytes_, set_);
  }
  ~core_set() { CPU_FREE(set_); }
  core_set(const core_set&) = delete;
  core_set& operator=(const core_set&) = delete;

  void add(unsigned core) noexcept { CPU_SET_S(core, bytes_, set_); }
  /// False: there are more cores than fit, or the system does not say.
  [[nodiscard]] bool read() noexcept { return calls::sched_getaffinity(bytes_, set_) == 0; }
  [[nodiscard]] bool apply() const noexcept { return calls::sched_setaffinity(bytes_, set_) == 0; }
  [[nodiscard]] std::vector<unsigned> list() const {
    std::vector<unsigned> found;
    for (std::size_t core = 0; core < cores_; ++core) {
      if (CPU_ISSET_S(core, bytes_, set_)) found.push_back(static_cast<unsigned>(core));
    }
    return found;
  }

 private:
  std::size_t cores_;
  std::size_t bytes_;
  cpu_set_t* set_;
};

}  // namespace

// The affinity mask is what a container or taskset leaves us.
std::vector<unsigned> usable_core_list() {
  for (std::size_t cores = CPU_SETSIZE; cores <= most_cores; cores *= 2) {
    core_set allowed(cores);
    if (allowed.read()) return allowed.list();
  }
  std::vector<unsigned> assumed(std::max(std::thread::hardware_concurrency(), 1U));
  std::iota(assumed.begin(), assumed.end(), 0U);
  return assumed;
}

unsigned usable_cores() {
  return static_cast<unsigned>(usable_core_list().size());
}

std::optional<double> cpu_quota() {
  return cgroup_quota("/");
}

bool pin_thread(unsigned core) {
  if (core >= most_cores) return false;
  core_set only(std::max<std::size_t>(core + 1, CPU_SETSIZE));
  only.add(core);
  return only.apply();
}

namespace {

std::atomic<unsigned> forks{0};

}  // namespace

unsigned generation() noexcept {
  static const int counting = ::pthread_atfork(
      nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(counting);
  return forks.load(std::memory_order_relaxed);
}

void fill_random(std::byte* bytes, std::size_t count) noexcept {
  while (count != 0) {
    const auto got = calls::getrandom(bytes, count);
    if (got < 0) {
      if (errno == EINTR) continue;
      std::terminate();
    }
    bytes += got;
    count -= static_cast<std::size_t>(got);
  }
}

std::string describe_code(const void* address) {
  Dl_info found{};
  if (address == nullptr || ::dladdr(address, &found) == 0) return "unknown code";
  if (found.dli_sname != nullptr) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> readable(
        abi::__cxa_demangle(found.dli_sname, nullptr, nullptr, &status), &std::free);
    return status == 0 ? readable.get() : found.dli_sname;
  }
  std::ostringstream text;
  text << (found.dli_fname == nullptr ? "?" : found.dli_fname) << "+0x" << std::hex
       << static_cast<const char*>(address) - static_cast<const char*>(found.dli_fbase);
  return text.str();
}

namespace {

// Threads inherit the mask of the one that starts them.
class signals_blocked {
 public:
  signals_blocked() noexcept {
    sigset_t most;
    sigfillset(&most);
    for (const int each : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP}) {
      sigdelset(&most, each);
    }
    ::pthread_sigmask(SIG_BLOCK, &most, &before_);
  }
  ~signals_blocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  signals_blocked(const signals_blocked&) = delete;
  signals_blocked& operator=(const signals_blocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

// Linux takes 15 characters of a name and refuses more.
std::thread start_thread(std::string name, std::function<void()> body) {
  name.resize(std::min<std::size_t>(name.size(), 15));
  const signals_blocked while_it_starts;
  return std::thread([name = std::move(name), body = std::move(body)] {
    ::pthread_setname_np(::pthread_self(), name.c_str());
    body();
  });
}

const char* portable_mechanism() noexcept {
  return "epoll";
}

}  // namespace hawser::platform
