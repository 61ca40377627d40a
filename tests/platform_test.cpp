// SPDX-License-Identifier: Apache-2.0
#include "os/platform.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
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
#include "support/links.hpp"
#include "support/watchdog.hpp"

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
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

bool is_readable(native_handle handle) {
  pollfd one{static_cast<int>(handle), POLLIN, 0};
  return ::poll(&one, 1, 0) == 1;
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

  TEST_CASE("memory can be shared, is full of zeros, and keeps its size") {
    const std::size_t bytes = 4 * platform::page_bytes();
    const native_handle memory = platform::create_memory(bytes);
    CHECK(closes_on_exec(memory));
    CHECK(platform::inspect_memory(memory) == bytes);
    CHECK(::ftruncate(static_cast<int>(memory), 0) == -1);
    CHECK(::ftruncate(static_cast<int>(memory), static_cast<off_t>(2 * bytes)) == -1);

    CHECK_FALSE(platform::reserve_memory(memory, 0, bytes));
    std::byte* const one = platform::map_memory(memory, bytes);
    std::byte* const other = platform::map_memory(memory, bytes);
    platform::release_handle(memory);
    platform::touch_memory(one, bytes);
    CHECK(std::all_of(one, one + bytes, [](std::byte each) { return each == std::byte{0}; }));
    one[bytes - 1] = std::byte{7};
    CHECK(other[bytes - 1] == std::byte{7});
    platform::unmap_memory(one, bytes);
    platform::unmap_memory(other, bytes);
  }

  TEST_CASE("memory that is given back reads as zeros") {
    const std::size_t bytes = 2 * platform::page_bytes();
    const native_handle memory = platform::create_memory(bytes);
    std::byte* const first = platform::map_memory(memory, bytes);
    first[0] = first[bytes - 1] = std::byte{1};
    platform::unreserve_memory(memory, platform::page_bytes(), platform::page_bytes());
    CHECK(first[0] == std::byte{1});
    CHECK(first[bytes - 1] == std::byte{0});
    platform::unmap_memory(first, bytes);
    platform::release_handle(memory);
  }

  TEST_CASE("what is not memory of ours is told from it") {
    const test::folder at;
    const auto is_unsuitable = [](int handle) {
      const auto code = code_of([&] { static_cast<void>(platform::inspect_memory(handle)); });
      ::close(handle);
      return code == hawser::errc::unsupported;
    };
    const auto sealed = [](int seals, off_t bytes) {
      const int made = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
      REQUIRE(::ftruncate(made, bytes) == 0);
      REQUIRE(::fcntl(made, F_ADD_SEALS, seals) == 0);
      return made;
    };
    constexpr int size = F_SEAL_SHRINK | F_SEAL_GROW;
    const std::string path = at / "file";
    std::ofstream(path) << "no memory";
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    ::close(ends[1]);
    CHECK(is_unsuitable(::open(path.c_str(), O_RDWR)));
    CHECK(is_unsuitable(ends[0]));
    CHECK(is_unsuitable(sealed(0, 4096)));
    CHECK(is_unsuitable(sealed(F_SEAL_SHRINK | F_SEAL_SEAL, 4096)));
    CHECK(is_unsuitable(sealed(size, 4096)));
    CHECK(is_unsuitable(sealed(size | F_SEAL_SEAL | F_SEAL_WRITE, 4096)));
    CHECK(is_unsuitable(sealed(size | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE, 4096)));
    CHECK(is_unsuitable(sealed(size | F_SEAL_SEAL, 0)));
    CHECK(code_of([] { static_cast<void>(platform::inspect_memory(platform::no_handle)); }));
  }

  TEST_CASE("memory that cannot be had is an error") {
    CHECK(code_of([] {
      static_cast<void>(platform::create_memory(std::size_t{1} << 63));
    }));
    CHECK(code_of([] { static_cast<void>(platform::map_memory(platform::no_handle, 4096)); }));
    CHECK(platform::reserve_memory(platform::no_handle, 0, 4096));
  }

  TEST_CASE("handles travel with bytes, as many as there is room for") {
    const auto [one, other] = platform::socket_pair();
    const native_handle memory = platform::create_memory(4096);
    std::vector<native_handle> many(platform::handle_list::most, memory);
    const std::byte word{5};
    const std::size_t open = test::open_descriptors();
    std::error_code error;
    for (int i = 0; i < 2; ++i) {
      CHECK(platform::write_with_handles(one, {&word, 1}, many, error) == 1);
    }
    platform::handle_list came;
    std::array<std::byte, 8> room{};
    CHECK(platform::read_with_handles(other, room, came, error) == 1);
    CHECK(came.count == platform::handle_list::most);
    CHECK(room[0] == word);
    CHECK(platform::inspect_memory(came.handles[0]) == 4096);
    CHECK(closes_on_exec(came.handles[0]));
    CHECK(platform::read_with_handles(other, room, came, error) == 1);  // no room for more
    CHECK(came.count == platform::handle_list::most);
    CHECK(test::open_descriptors() == open + came.count);

    CHECK(platform::read_with_handles(other, room, came, error) == 0);
    CHECK(platform::would_block(error));
    CHECK(platform::write_with_handles(one, {&word, 1}, {}, error) == 1);
    platform::handle_list none;
    CHECK(platform::read_with_handles(other, room, none, error) == 1);
    CHECK(none.count == 0);
    for (const native_handle each : came.handles) platform::release_handle(each);
    for (const native_handle each : {one, other}) platform::close(each);
    platform::release_handle(memory);
  }

  TEST_CASE("who watches a socket sees what comes, and does not keep it open") {
    const auto [ours, peers] = platform::socket_pair();
    const native_handle watched = platform::watch_socket(ours);
    CHECK(closes_on_exec(watched));
    CHECK_FALSE(is_readable(watched));

    std::error_code error;
    std::array<std::byte, 4> bytes{};
    const io_slice once{bytes.data(), 1};
    CHECK(platform::write_some(peers, {&once, 1}, error) == 1);
    CHECK(is_readable(watched));
    CHECK(platform::read_some(ours, bytes, error) == 1);
    CHECK_FALSE(is_readable(watched));

    ::close(static_cast<int>(ours));  // without an end of the stream: as when a process dies
    CHECK(platform::read_some(peers, bytes, error) == 0);
    CHECK_FALSE(error);
    platform::close(peers);
    platform::release_handle(watched);
  }

  TEST_CASE("a word is slept on until it is woken, in another process as well") {
    const native_handle memory = platform::create_memory(platform::page_bytes());
    std::byte* const first = platform::map_memory(memory, platform::page_bytes());
    auto& word = *new (first) std::atomic<std::uint32_t>(1);
    auto& answered = *new (first + 64) std::atomic<std::uint32_t>(0);
    platform::sleep_on(word, 0, 1h);   // it is not 0
    platform::sleep_on(word, 1, 1ms);  // nobody wakes us

    const pid_t child = ::fork();
    if (child == 0) {
      while (word.load() == 1) platform::sleep_on(word, 1, 10s);
      answered.store(1);
      platform::wake_all(answered);
      ::_exit(0);
    }
    word.store(2);
    platform::wake_one(word);
    const test::watchdog guard(30s);
    while (answered.load() == 0) platform::sleep_on(answered, 0, 10s);
    int status = 0;
    CHECK(::waitpid(child, &status, 0) == child);
    platform::unmap_memory(first, platform::page_bytes());
    platform::release_handle(memory);
  }

  TEST_CASE("a barrier can be passed by all") {
    if (!platform::join_barriers()) return test::skip("the system has no membarrier");
    platform::pass_barrier();
  }
}
