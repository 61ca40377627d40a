// SPDX-License-Identifier: Apache-2.0
#include "bench.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <stdexcept>
#include <system_error>

namespace {

// Set once, before there are threads that make sockets.
int imposed_buffer_bytes = 0;

void impose_buffers(int on) noexcept {
  if (on < 0 || imposed_buffer_bytes == 0) return;
  const int error = errno;
  const int bytes = imposed_buffer_bytes;
  static_cast<void>(::setsockopt(on, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes));
  static_cast<void>(::setsockopt(on, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes));
  errno = error;
}

}  // namespace

// These stand in for the C library's functions in every program of this folder, also for what
// shared libraries call, so that the sockets of all peers have the same options, also those of
// peers that cannot be told. bbr paces by the clock and halves what loopback can carry.
extern "C" int socket(int domain, int type, int protocol) noexcept {
  const int made = static_cast<int>(::syscall(SYS_socket, domain, type, protocol));
  impose_buffers(made);
  if (made < 0 || (domain != AF_INET && domain != AF_INET6)) return made;
  const int error = errno;
  std::array<char, 16> name{};
  socklen_t size = name.size() - 1;
  if (::getsockopt(made, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size) == 0 &&
      std::string_view(name.data()) == "bbr") {
    for (const std::string_view better : {"cubic", "reno"}) {
      if (::setsockopt(made, IPPROTO_TCP, TCP_CONGESTION, better.data(), better.size()) == 0) break;
    }
  }
  errno = error;
  return made;
}

extern "C" int accept4(int listener, sockaddr* peer, socklen_t* size, int flags) {
  const int made = static_cast<int>(::syscall(SYS_accept4, listener, peer, size, flags));
  impose_buffers(made);
  return made;
}

extern "C" int accept(int listener, sockaddr* peer, socklen_t* size) {
  return ::accept4(listener, peer, size, 0);
}

namespace bench {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// ---- processes --------------------------------------------------------------------------------

/// This program, executed again in the role of the server; ended with the object.
class server_process {
 public:
  explicit server_process(std::vector<std::string> arguments) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("pipe");
    const int parent = ::getpid();
    pid_ = ::fork();
    if (pid_ < 0) fail("fork");
    if (pid_ == 0) become(arguments, ends[1], parent);
    ::close(ends[1]);
    announced_ = ::fdopen(ends[0], "r");
  }
  ~server_process() {
    std::fclose(announced_);
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  server_process(const server_process&) = delete;
  server_process& operator=(const server_process&) = delete;

  [[nodiscard]] int pid() const noexcept { return pid_; }

  /// Blocks until the server has announced its address.
  [[nodiscard]] std::string address() {
    std::string line;
    for (int c = 0; (c = std::fgetc(announced_)) != EOF && c != '\n';) {
      line += static_cast<char>(c);
    }
    if (line.empty()) throw std::runtime_error("the server ended before it listened");
    return line;
  }

 private:
  [[noreturn]] static void become(std::vector<std::string>& arguments, int output, int parent) {
    std::vector<char*> pointers;
    for (auto& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    // A client that is killed takes its server along.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() == parent && ::dup2(output, STDOUT_FILENO) >= 0) {
      ::execv("/proc/self/exe", pointers.data());
    }
    ::_exit(127);
  }

  int pid_ = -1;
  std::FILE* announced_ = nullptr;
};

/// Others on the machine: threads that only spin, on whatever core they are given.
class neighbours {
 public:
  explicit neighbours(unsigned count) {
    const int parent = ::getpid();
    while (pids_.size() < count) {
      const int pid = ::fork();
      if (pid < 0) fail("fork");
      if (pid == 0) spin(parent);
      pids_.push_back(pid);
    }
  }
  ~neighbours() {
    for (const int pid : pids_) ::kill(pid, SIGKILL);
    for (const int pid : pids_) ::waitpid(pid, nullptr, 0);
  }
  neighbours(const neighbours&) = delete;
  neighbours& operator=(const neighbours&) = delete;

 private:
  [[noreturn]] static void spin(int parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(0);
    for (volatile unsigned turn = 0;;) turn = turn + 1;
  }

  std::vector<int> pids_;
};

// Threads that are started later inherit it. Without permission the run is unpinned.
void pin_to(int core) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(core, &only);
  static_cast<void>(::sched_setaffinity(0, sizeof only, &only));
}

/// Once it ends, this thread may run again where it might before.
class kept_affinity {
 public:
  kept_affinity() noexcept {
    CPU_ZERO(&before_);
    static_cast<void>(::sched_getaffinity(0, sizeof before_, &before_));
  }
  ~kept_affinity() { static_cast<void>(::sched_setaffinity(0, sizeof before_, &before_)); }
  kept_affinity(const kept_affinity&) = delete;
  kept_affinity& operator=(const kept_affinity&) = delete;

 private:
  cpu_set_t before_;
};

// Of the whole process and up to now, also while it runs elsewhere.
std::chrono::nanoseconds cpu_time_of(int pid) {
  clockid_t which{};
  timespec spent{};
  if (::clock_getcpuclockid(pid, &which) != 0 || ::clock_gettime(which, &spent) != 0) {
    throw std::runtime_error("the server ended too early");
  }
  return std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
}

// ---- the command line -------------------------------------------------------------------------

constexpr std::string_view usage =
    R"(usage: PROGRAM BENCH CASE IMPL [--seconds S | --count N] [--rate R]
       PROGRAM --list
       PROGRAM --all [--seconds S]

  BENCH CASE IMPL  one run, server and client; --list names what there is
  --seconds S      aim at a run of S seconds (default 1)
  --count N        exactly N messages and no warm-up, for counting system calls
  --rate R         offer R messages a second (default 10000), in the benchmark `load`
  --all            every benchmark of this program once
)";

// What only these programs are told.
struct told {
  double rate = 10'000;
  std::string folder;  // of the server's socket file; empty in a client
};

// ---- the two roles ----------------------------------------------------------------------------

constexpr std::array roads{road::tcp, road::unix_socket, road::shared_memory};

std::string name_of(road via) {
  constexpr std::array names{"tcp", "unix", "shm"};
  return names[static_cast<std::size_t>(via)];
}

struct run {
  const entry* of;
  road via;

  [[nodiscard]] std::array<std::string, 3> name() const {
    return {std::string(of->asked->name), name_of(via), std::string(of->impl)};
  }
};

void serve(const run& what, const std::string& folder) {
  if (const auto cores = allowed_cores(); cores.size() > 1) pin_to(cores[0]);
  server_seat seat(*what.of->asked, what.via, folder + "/socket");
  what.of->serve(seat);
}

// Only this process is pinned to the client's core, and only after the others were started.
std::vector<sample> measure(const run& what, const char* program, const client_seat::plan& plan) {
  const kept_affinity everywhere;
  const scratch_folder folder;
  const auto& asked = *what.of->asked;
  const neighbours others(asked.neighbours);
  const auto cores = allowed_cores();
  const auto [bench, via, impl] = what.name();
  server_process server({program, bench, via, impl, "--serve", folder.path()});
  if (cores.size() > 1) pin_to(cores[asked.one_core ? 0 : 1]);
  client_seat seat(asked, what.via, server.address(), server.pid(), plan);
  what.of->call(seat);
  return seat.samples();
}

std::vector<sample> play(const run& what, const char* program, const run_plan& plan,
                         const told& more) {
  if (more.folder.empty()) return measure(what, program, {plan, more.rate});
  serve(what, more.folder);
  return {};
}

// ---- figures ----------------------------------------------------------------------------------

bool records_times(figure asked) noexcept {
  return asked == figure::round_trip || asked == figure::offered_load ||
         asked == figure::interference;
}

// Many connections need more descriptors than a shell gives.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
}

void set_alarm(int descriptor, std::chrono::nanoseconds since_boot) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(since_boot);
  itimerspec at{};
  at.it_value.tv_sec = static_cast<std::time_t>(whole.count());
  at.it_value.tv_nsec = static_cast<long>((since_boot - whole).count());
  if (::timerfd_settime(descriptor, TFD_TIMER_ABSTIME, &at, nullptr) != 0) fail("timerfd_settime");
}

}  // namespace

alarm::alarm() : descriptor_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
  if (descriptor_ < 0) fail("timerfd_create");
}

alarm::~alarm() {
  ::close(descriptor_);
}

void alarm::set(clock::time_point when) {
  set_alarm(descriptor_, std::max(when.time_since_epoch(), clock::duration(1)));
}

void alarm::clear() {
  set_alarm(descriptor_, {});
}

void impose_socket_buffers(int bytes) noexcept {
  imposed_buffer_bytes = bytes;
}

void expect_number(std::uint64_t expected, std::uint64_t got) {
  if (expected == got) return;
  throw std::runtime_error("message " + std::to_string(expected) + " was expected and " +
                           std::to_string(got) + " came");
}

bulk_file::bulk_file()
    : descriptor_(::memfd_create("hawser-bench", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  for (const auto& [at, asks] : {std::pair(first, 0U), std::pair(last, 1U)}) {
    std::vector<std::byte> message(bulk_bytes);
    write_note(message, {0, asks});
    const auto written = ::pwrite(descriptor_, message.data(), bulk_bytes, static_cast<off_t>(at));
    if (written != static_cast<ssize_t>(bulk_bytes)) throw std::runtime_error("memfd_create");
  }
  if (::fcntl(descriptor_, F_ADD_SEALS, F_SEAL_SHRINK) != 0)
    throw std::runtime_error("F_ADD_SEALS");
}

bulk_file::~bulk_file() {
  ::close(descriptor_);
}

void server_seat::announce(std::string_view address) const {
  std::printf("%.*s\n", static_cast<int>(address.size()), address.data());
  std::fflush(stdout);
}

client_seat::client_seat(const question& asked, road via, std::string address, int server_pid,
                         const plan& planned)
    : asked_(&asked),
      road_(via),
      address_(std::move(address)),
      server_pid_(server_pid),
      rate_(planned.rate),
      rounds_(planned, {asked.smallest_round, asked.largest_round,
                        asked.asked == figure::offered_load ? planned.rate : 0}) {}

client_seat::instant client_seat::look() const {
  return {clock::now(), cpu_time_of(::getpid()), cpu_time_of(server_pid_)};
}

std::uint64_t client_seat::next_round() {
  end_ = look();
  const auto count = rounds_.next(end_.time - begin_.time);
  if (count == 0) return 0;
  times_.clear();
  if (records_times(asked_->asked)) times_.reserve(count);
  begin_ = look();
  return count;
}

double client_seat::messages_per_second() const noexcept {
  return static_cast<double>(rounds_.count()) / seconds(end_.time - begin_.time).count();
}

std::vector<sample> client_seat::samples() {
  if (!rounds_.counts()) throw std::logic_error("the client left before its last round");
  std::vector<sample> all;
  if (records_times(asked_->asked)) {
    all.push_back({"p50", "us", percentile_us(times_, 0.50)});
    all.push_back({"p99", "us", percentile_us(times_, 0.99)});
    all.push_back({"p99.9", "us", percentile_us(times_, 0.999)});
  }
  switch (asked_->asked) {
    case figure::round_trip:
      break;
    case figure::rate:
      all.push_back({"throughput", "messages/s", messages_per_second()});
      break;
    case figure::offered_load:
      all.push_back({"offered", "messages/s", rate_});
      all.push_back({"achieved", "messages/s", messages_per_second()});
      break;
    case figure::bandwidth:
    case figure::interference:
      const auto bytes = static_cast<double>(asked_->message_bytes);
      all.push_back({"bandwidth", "GB/s", messages_per_second() * bytes / 1e9});
      break;
  }
  const auto messages = static_cast<double>(rounds_.count());
  const auto client = static_cast<double>((end_.client_cpu - begin_.client_cpu).count()) / messages;
  const auto server = static_cast<double>((end_.server_cpu - begin_.server_cpu).count()) / messages;
  all.push_back({"cpu_ns_per_message", "ns", client + server});
  all.push_back({"cpu_ns_per_message_client", "ns", client});
  all.push_back({"cpu_ns_per_message_server", "ns", server});
  all.insert(all.end(), reported_.begin(), reported_.end());
  return all;
}

int main_of(int argc, char** argv, std::span<const entry> entries) {
  // What a peer does about a client that has left, when it writes to it, is not the question.
  std::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  // Timers of all peers are as exact as the system can: an offered load is paced by them.
  ::prctl(PR_SET_TIMERSLACK, 1);
  told more;
  std::vector<choice> choices;
  for (const auto& one : entries) {
    for (const auto via : roads) {
      if ((one.roads & only(via)) == 0) continue;
      const run what{&one, via};
      choices.push_back(
          {what.name(),
           [&more, what, argv](const run_plan& plan) { return play(what, argv[0], plan, more); },
           one.cores});
    }
  }
  return run_program(argc, argv, usage, choices,
                     {{"rate", [&](const char* text) { more.rate = positive_number(text); }},
                      {"serve", [&](const char* text) { more.folder = text; }}});
}

}  // namespace bench
