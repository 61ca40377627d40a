// SPDX-License-Identifier: Apache-2.0
#include "os/platform.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>
#include <string_view>

#include "../io_uring/cgroup.hpp"
#include "hawser/errc.hpp"
#include "support/environment.hpp"
#include "support/folder.hpp"

namespace {

namespace fs = std::filesystem;
namespace platform = hawser::platform;
using platform::io_slice;
using platform::native_handle;

std::error_code code_of(const auto& action) {
  try {
    action();
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

bool closes_on_exec(native_handle handle) {
  return (::fcntl(static_cast<int>(handle), F_GETFD) & FD_CLOEXEC) != 0;
}

bool never_blocks(native_handle handle) {
  return (::fcntl(static_cast<int>(handle), F_GETFL) & O_NONBLOCK) != 0;
}

unsigned mode_of(const std::string& path) {
  struct stat found {};
  REQUIRE(::lstat(path.c_str(), &found) == 0);
  return found.st_mode & 0777;
}

native_handle connect(const platform::socket_address& address) {
  bool pending = false;
  std::error_code error;
  const auto socket = platform::start_connect(address, pending, error);
  CHECK_FALSE(error);
  return socket;
}

// Loopback completes in the kernel, so one look is enough.
native_handle accept_one(native_handle listener) {
  std::error_code error;
  const auto accepted = platform::accept(listener, error);
  CHECK_FALSE(error);
  REQUIRE(accepted != platform::no_handle);
  return accepted;
}

// A folder with the files of a system that say which control groups a process is in.
class fake_system {
 public:
  void write(const std::string& path, const std::string& text) const {
    const fs::path file = root_.path() / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  [[nodiscard]] std::optional<double> quota() const {
    return platform::cgroup_quota(root_.path().string() + "/");
  }

 private:
  test::folder root_;
};

}  // namespace

TEST_SUITE("platform") {
  TEST_CASE("a tcp connection: listen, connect, accept, addresses, options") {
    const auto wanted = platform::resolve("127.0.0.1", "0");
    REQUIRE(wanted.size() == 1);
    const auto listener = platform::open_listener(wanted.front(), 4);
    const auto address = platform::local_address(listener);
    std::error_code error;
    CHECK(platform::accept(listener, error) == platform::no_handle);
    CHECK_FALSE(error);

    const auto client = connect(address);
    const auto server = accept_one(listener);

    CHECK_FALSE(platform::finish_connect(client));
    CHECK(platform::to_string(platform::remote_address(client)) == platform::to_string(address));
    CHECK(platform::to_string(address).starts_with("tcp://127.0.0.1:"));
    for (const auto each : {listener, client, server}) {
      CHECK(closes_on_exec(each));
      CHECK(never_blocks(each));
    }
    platform::apply(client, {.send_buffer_bytes = 100'000, .receive_buffer_bytes = 100'000});
    CHECK_FALSE(platform::peer_of(client).has_value());
    for (const auto each : {client, server, listener}) platform::close(each);
  }

  TEST_CASE("a host in numbers needs no resolving, a name does") {
    for (const auto* const host : {"127.0.0.1", "::1"}) {
      const auto address = platform::numeric_address(host, "4711");
      REQUIRE(address.has_value());
      const auto resolved = platform::resolve(host, "4711").front();
      CHECK(platform::to_string(*address) == platform::to_string(resolved));
    }
    CHECK_FALSE(platform::numeric_address("localhost", "4711").has_value());
  }

  TEST_CASE("between two ends on one host no socket is paced, and little waits unsent") {
    const auto listener = platform::open_listener(platform::resolve("127.0.0.1", "0").front(), 4);
    const auto client = connect(platform::local_address(listener));
    const int descriptor = static_cast<int>(client);

    platform::apply(client, {.unsent_bytes = 70'000});
    int unsent = 0;
    socklen_t size = sizeof unsent;
    REQUIRE(::getsockopt(descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, &size) == 0);
    CHECK(unsent == 70'000);

    constexpr std::string_view paced = "bbr";
    const bool there =
        ::setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, paced.data(), paced.size()) == 0;
    platform::apply(client, {.fast_when_local = true});
    std::array<char, 16> name{};
    size = name.size();
    REQUIRE(::getsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size) == 0);
    CHECK(std::string_view(name.data()) != paced);
    for (const auto each : {client, listener}) platform::close(each);
    if (!there) test::skip("the system has no bbr");
  }

  TEST_CASE("a port that is listened on is in use; one without a listener refuses") {
    const auto listener = platform::open_listener(platform::resolve("127.0.0.1", "0").front(), 4);
    const auto address = platform::local_address(listener);

    const auto again = code_of([&] { static_cast<void>(platform::open_listener(address, 4)); });
    CHECK(again == hawser::errc::address_in_use);
    platform::close(listener);

    bool pending = false;
    std::error_code error;
    const auto client = platform::start_connect(address, pending, error);
    if (client != platform::no_handle) error = platform::finish_connect(client);
    CHECK(error == std::errc::connection_refused);
    platform::close(client);
  }

  TEST_CASE("ipv6 addresses are written in brackets") {
    const auto address = platform::resolve("::1", "4711").front();
    CHECK(platform::to_string(address) == "tcp://[::1]:4711");
  }

  TEST_CASE("a name that does not exist is an error that names it") {
    try {
      static_cast<void>(platform::resolve("no-such-host.invalid", "1"));
      FAIL("resolved");
    } catch (const std::system_error& error) {
      CHECK(std::string(error.what()).find("no-such-host.invalid:1") != std::string::npos);
      CHECK(error.code() == hawser::errc::unreachable);
    }
  }

  TEST_CASE("reads and writes move what is possible and tell the end from nothing now") {
    const auto [left, right] = platform::socket_pair();
    std::array<std::byte, 16> space{};
    std::error_code error;

    CHECK(platform::read_some(right, space, error) == 0);
    CHECK(platform::would_block(error));
    const std::array<io_slice, 2> pieces{io_slice{reinterpret_cast<const std::byte*>("abc"), 3},
                                         io_slice{reinterpret_cast<const std::byte*>("de"), 2}};
    CHECK(platform::write_some(left, pieces, error) == 5);
    CHECK_FALSE(error);
    CHECK(platform::read_some(right, space, error) == 5);
    CHECK(space[4] == std::byte{'e'});
    while (platform::write_some(left, pieces, error) != 0) {
    }
    CHECK(platform::would_block(error));
    CHECK_FALSE(platform::is_exhaustion(error));
    platform::shut_down_writing(right);
    CHECK(platform::read_some(left, space, error) == 0);
    CHECK_FALSE(error);
    platform::close(right);
    CHECK(platform::write_some(left, pieces, error) == 0);
    CHECK(error == std::errc::broken_pipe);
    platform::close(left);
  }

  TEST_CASE("a unix listener: only its owner may enter, and peers say who they are") {
    const test::folder here;
    const auto path = here / "s";
    const auto listener = platform::open_unix_listener(path, 4, false);
    CHECK(mode_of(path) == 0600);
    CHECK(closes_on_exec(listener));
    CHECK(platform::inspect_socket_file(path, platform::current_user()) ==
          platform::socket_file::socket);

    const auto client = connect(platform::unix_address(path));
    const auto server = accept_one(listener);

    CHECK(platform::to_string(platform::remote_address(client)) == "unix:" + path);
    const auto who = platform::peer_of(server);
    REQUIRE(who.has_value());
    CHECK(who->user == platform::current_user());
    CHECK(who->process == ::getpid());
    for (const auto each : {client, server, listener}) platform::close(each);
  }

  TEST_CASE("a unix listener for any user has a mode that says so, whatever the umask") {
    const test::folder here;
    const auto before = ::umask(0077);
    const auto listener = platform::open_unix_listener(here / "s", 4, true);
    ::umask(before);

    CHECK(mode_of(here / "s") == 0666);
    platform::close(listener);
  }

  TEST_CASE("a live socket file is in use, a stale one is replaced") {
    const test::folder here;
    const auto path = here / "s";
    const auto first = platform::open_unix_listener(path, 4, false);

    const auto open = [&] { return platform::open_unix_listener(path, 4, false); };
    CHECK(code_of([&] { platform::close(open()); }) == hawser::errc::address_in_use);
    platform::close(first);
    const auto second = open();
    platform::close(connect(platform::unix_address(path)));

    platform::close(second);
    platform::remove_file(path);
    CHECK(platform::inspect_socket_file(path, 0) == platform::socket_file::none);
  }

  TEST_CASE("what is no socket of ours is left alone") {
    const test::folder here;
    std::ofstream(here / "file") << "precious";
    fs::create_symlink(here / "real", here / "link");
    const auto real = platform::open_unix_listener(here / "real", 4, false);

    for (const char* name : {"file", "link"}) {
      CHECK(platform::inspect_socket_file(here / name, platform::current_user()) ==
            platform::socket_file::not_a_socket);
      CHECK(code_of([&] {
              platform::close(platform::open_unix_listener(here / name, 4, false));
            }) == hawser::errc::unauthorized);
    }
    if (platform::current_user() != 0) {
      CHECK(platform::inspect_socket_file(here / "real", platform::current_user() + 1) ==
            platform::socket_file::foreign_owner);
    }
    CHECK(fs::file_size(here / "file") == 8);
    platform::close(real);
  }

  TEST_CASE("a unix path that does not fit is a bad uri") {
    for (const auto& path : {std::string(), std::string(108, 'x'), std::string("a\0b", 3)}) {
      const auto code = code_of([&] { static_cast<void>(platform::unix_address(path)); });
      CHECK(code == hawser::errc::bad_uri);
    }
    CHECK(platform::unix_address(std::string(107, 'x')).size > 0);
  }

  TEST_CASE("a unix listener in a folder that does not exist names the path") {
    try {
      static_cast<void>(platform::open_unix_listener("/nonexistent/s", 4, false));
      FAIL("opened");
    } catch (const std::system_error& error) {
      CHECK(std::string(error.what()).find("/nonexistent/s") != std::string::npos);
    }
  }

  TEST_CASE("exhaustion is told from other errors") {
    CHECK(platform::is_exhaustion(std::make_error_code(std::errc::too_many_files_open)));
    CHECK(platform::is_exhaustion(std::make_error_code(std::errc::not_enough_memory)));
    CHECK_FALSE(platform::is_exhaustion(std::make_error_code(std::errc::connection_reset)));
  }

  TEST_CASE("cores, randomness and names") {
    const auto cores = platform::usable_core_list();
    CHECK(platform::usable_cores() == cores.size());
    CHECK(cores.size() >= 1);
    CHECK(std::is_sorted(cores.begin(), cores.end()));
    const auto quota = platform::cpu_quota();
    if (quota) CHECK(*quota > 0);
    std::array<std::byte, 64> one{}, two{};
    platform::fill_random(one.data(), one.size());
    platform::fill_random(two.data(), two.size());
    CHECK(one != two);
    CHECK_FALSE(std::string(platform::portable_mechanism()).empty());
  }

  TEST_CASE("a thread of ours has a name, and leaves signals to those of the application") {
    sigset_t before, during, after;
    REQUIRE(::pthread_sigmask(SIG_BLOCK, nullptr, &before) == 0);
    std::array<char, 16> name{};
    platform::start_thread("a name that is longer than systems take", [&] {
      static_cast<void>(::pthread_getname_np(::pthread_self(), name.data(), name.size()));
      static_cast<void>(::pthread_sigmask(SIG_BLOCK, nullptr, &during));
    }).join();
    REQUIRE(::pthread_sigmask(SIG_BLOCK, nullptr, &after) == 0);
    CHECK(std::string(name.data()) == "a name that is ");
    for (const int each : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGALRM, SIGCHLD, SIGPIPE}) {
      CHECK(sigismember(&during, each) == 1);
      CHECK(sigismember(&after, each) == sigismember(&before, each));
    }
    for (const int each : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGPROF}) {
      CHECK(sigismember(&during, each) == 0);
    }
  }

  TEST_CASE("a thread that is bound to a core may use that one alone") {
    const auto cores = platform::usable_core_list();
    std::thread([&] {
      CHECK(platform::pin_thread(cores.back()));
      CHECK(platform::usable_core_list() == std::vector<unsigned>{cores.back()});
      CHECK_FALSE(platform::pin_thread(60'000));
      CHECK_FALSE(platform::pin_thread(~0U));
      CHECK(platform::usable_cores() == 1);
    }).join();
    CHECK(platform::usable_core_list() == cores);
  }

  TEST_CASE("a cpu quota: version 2 of control groups, the least on the way up") {
    const fake_system system;
    system.write("proc/self/cgroup", "0::/work.slice/one\n");
    CHECK_FALSE(system.quota().has_value());
    system.write("sys/fs/cgroup/work.slice/one/cpu.max", "max 100000\n");
    CHECK_FALSE(system.quota().has_value());
    system.write("sys/fs/cgroup/work.slice/cpu.max", "150000 100000\n");
    CHECK(system.quota() == 1.5);
    system.write("sys/fs/cgroup/work.slice/one/cpu.max", "400000 100000\n");
    CHECK(system.quota() == 1.5);
    system.write("sys/fs/cgroup/cpu.max", "5000 10000\n");
    CHECK(system.quota() == 0.5);
  }

  TEST_CASE("a cpu quota: version 1, under either name, also with version 2 beside it") {
    const fake_system system;
    system.write("proc/self/cgroup", "9:name=systemd:/\n4:cpuset:/a\n2:cpu,cpuacct:/a/b\n0::/c\n");
    system.write("sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us", "1");
    system.write("sys/fs/cgroup/cpuset/a/cpu.cfs_period_us", "100000");
    CHECK_FALSE(system.quota().has_value());
    system.write("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
    system.write("sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n");
    CHECK_FALSE(system.quota().has_value());
    system.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n");
    system.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    CHECK(system.quota() == 3.0);
    system.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "250000\n");
    system.write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    CHECK(system.quota() == 2.5);
    system.write("sys/fs/cgroup/unified/c/cpu.max", "75000 50000\n");
    CHECK(system.quota() == 1.5);
  }

  TEST_CASE("a cpu quota: the path of the host inside a container, and nonsense") {
    const fake_system system;
    CHECK_FALSE(system.quota().has_value());
    system.write("sys/fs/cgroup/cpu.max", "200000 100000\n");
    for (const char* group : {"0::/docker/0123456789abcdef\n", "0::/../other\n", "0::/\n"}) {
      system.write("proc/self/cgroup", group);
      CHECK(system.quota() == 2.0);
    }
    for (const char* group : {"", "\n", "0\n", "0:\n", "0:cpu\n"}) {
      system.write("proc/self/cgroup", group);
      CHECK_FALSE(system.quota().has_value());
    }
    system.write("proc/self/cgroup", "0::/\n");
    for (const char* quota :
         {"", "max", "max 100000", "1", "0 100000", "-5 100000", "5 0", "x y"}) {
      system.write("sys/fs/cgroup/cpu.max", quota);
      CHECK_FALSE(system.quota().has_value());
    }
  }
}
