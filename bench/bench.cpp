// SPDX-License-Identifier: Apache-2.0
#include "bench.hpp"

#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
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
#include <filesystem>
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

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using seconds = std::chrono::duration<double>;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// ---- processes --------------------------------------------------------------------------------

/// A folder for the socket files of one run; gone with the object.
class scratch_folder {
 public:
  scratch_folder() : path_(fs::temp_directory_path() / "hawser-bench-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) fail(path_);
  }
  ~scratch_folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

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

std::vector<int> allowed_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) fail("sched_getaffinity");
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  return cores;
}

// Threads that are started later inherit it. Without permission the run is unpinned.
void pin_to(int core) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(core, &only);
  static_cast<void>(::sched_setaffinity(0, sizeof only, &only));
}

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

enum class action : std::uint8_t { run, serve, list, all, help };

struct command {
  action what = action::run;
  client_seat::plan plan;
  std::string folder;              // of the server's socket file
  std::vector<std::string> words;  // BENCH CASE IMPL
};

double positive_number(const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0)) {
    throw std::invalid_argument("'" + std::string(text) + "' is not a positive number");
  }
  return value;
}

command parse(int argc, char** argv) {
  static const std::array<option, 8> known{{{"seconds", required_argument, nullptr, 's'},
                                            {"count", required_argument, nullptr, 'c'},
                                            {"rate", required_argument, nullptr, 'r'},
                                            {"serve", required_argument, nullptr, 'S'},
                                            {"list", no_argument, nullptr, 'l'},
                                            {"all", no_argument, nullptr, 'a'},
                                            {"help", no_argument, nullptr, 'h'},
                                            {nullptr, 0, nullptr, 0}}};
  command parsed;
  for (int found = 0; (found = ::getopt_long(argc, argv, "h", known.data(), nullptr)) != -1;) {
    switch (found) {
      case 's':
        parsed.plan.wanted = seconds(positive_number(optarg));
        break;
      case 'c':
        parsed.plan.fixed_count = static_cast<std::uint64_t>(positive_number(optarg));
        break;
      case 'r':
        parsed.plan.rate = positive_number(optarg);
        break;
      case 'S':
        parsed.what = action::serve;
        parsed.folder = optarg;
        break;
      case 'l':
        parsed.what = action::list;
        break;
      case 'a':
        parsed.what = action::all;
        break;
      case 'h':
        parsed.what = action::help;
        break;
      default:
        throw std::invalid_argument("try --help");
    }
  }
  parsed.words.assign(argv + optind, argv + argc);
  const bool named = parsed.what == action::run || parsed.what == action::serve;
  if (parsed.words.size() != (named ? 3 : 0)) throw std::invalid_argument("try --help");
  return parsed;
}

// ---- roads and entries ------------------------------------------------------------------------

constexpr std::array roads{road::tcp, road::unix_socket};

std::string_view name_of(road via) {
  return via == road::tcp ? "tcp" : "unix";
}

std::string title_of(const entry& asked, road via) {
  return std::string(asked.asked->name) + " " + std::string(name_of(via)) + " " +
         std::string(asked.impl);
}

struct choice {
  const entry* chosen;
  road via;
};

choice choose(std::span<const entry> entries, const std::vector<std::string>& words) {
  for (const auto& candidate : entries) {
    for (const auto via : roads) {
      const std::array<std::string_view, 3> key{candidate.asked->name, name_of(via),
                                                candidate.impl};
      if (std::equal(key.begin(), key.end(), words.begin())) return {&candidate, via};
    }
  }
  throw std::invalid_argument("no benchmark '" + words[0] + " " + words[1] + " " + words[2] +
                              "' here: --list names them");
}

void print_list(std::span<const entry> entries) {
  const auto cores = allowed_cores().size();
  for (const auto& one : entries) {
    if (one.cores > cores) continue;
    for (const auto via : roads) std::printf("%s\n", title_of(one, via).c_str());
  }
}

// ---- the two roles ----------------------------------------------------------------------------

void serve(const choice& what, const std::string& folder) {
  if (const auto cores = allowed_cores(); cores.size() > 1) pin_to(cores[0]);
  server_seat seat(*what.chosen->asked, what.via, folder + "/socket");
  what.chosen->serve(seat);
}

void print_sample(const choice& what, const client_seat::sample& one) {
  const std::string bench(what.chosen->asked->name);
  const std::string impl(what.chosen->impl);
  const std::string via(name_of(what.via));
  std::printf(R"({"bench":"%s","case":"%s","impl":"%s","metric":"%s","unit":"%s","value":%.6g})"
              "\n",
              bench.c_str(), via.c_str(), impl.c_str(), one.metric.c_str(), one.unit.c_str(),
              one.value);
}

// Only this process is pinned to the client's core, and only after the others were started.
void measure(const choice& what, const char* program, client_seat::plan plan) {
  const scratch_folder folder;
  const neighbours others(what.chosen->asked->neighbours);
  const auto cores = allowed_cores();
  server_process server({program, std::string(what.chosen->asked->name),
                         std::string(name_of(what.via)), std::string(what.chosen->impl), "--serve",
                         folder.path()});
  if (cores.size() > 1) pin_to(cores[what.chosen->asked->one_core ? 0 : 1]);
  client_seat seat(*what.chosen->asked, what.via, server.address(), server.pid(), plan);
  what.chosen->call(seat);
  for (const auto& one : seat.samples()) print_sample(what, one);
}

void measure_all(std::span<const entry> entries, const char* program, client_seat::plan plan) {
  const auto cores = allowed_cores().size();
  cpu_set_t everywhere;
  ::sched_getaffinity(0, sizeof everywhere, &everywhere);
  for (const auto& one : entries) {
    if (one.cores > cores) continue;
    for (const auto via : roads) {
      ::sched_setaffinity(0, sizeof everywhere, &everywhere);
      measure({&one, via}, program, plan);
    }
  }
}

// ---- figures ----------------------------------------------------------------------------------

double microseconds(clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

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

double percentile_us(std::vector<clock::duration> times, double share) {
  if (times.empty()) throw std::logic_error("no round trip was recorded");
  const auto rank = static_cast<std::size_t>(share * static_cast<double>(times.size() - 1));
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(times.begin(), at, times.end());
  return microseconds(*at);
}

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

void server_seat::announce(std::string_view address) const {
  std::printf("%.*s\n", static_cast<int>(address.size()), address.data());
  std::fflush(stdout);
}

client_seat::client_seat(const question& asked, road via, std::string address, int server_pid,
                         plan planned)
    : asked_(&asked),
      road_(via),
      address_(std::move(address)),
      server_pid_(server_pid),
      plan_(planned) {}

client_seat::instant client_seat::look() const {
  return {clock::now(), cpu_time_of(::getpid()), cpu_time_of(server_pid_)};
}

std::uint64_t client_seat::next_round() {
  end_ = look();
  if (counts_) return 0;
  if (plan_.fixed_count != 0) {
    counts_ = true;
    count_ = plan_.fixed_count;
  } else if (asked_->asked == figure::offered_load) {
    counts_ = count_ != 0;
    const double messages = plan_.rate * plan_.wanted.count() / (counts_ ? 1 : 8);
    count_ = std::max(static_cast<std::uint64_t>(messages), asked_->smallest_round);
  } else if (count_ == 0) {
    count_ = asked_->smallest_round;
  } else {
    const seconds taken = end_.time - begin_.time;
    const auto next = count_after(taken);
    counts_ = taken > plan_.wanted / 8 || next == asked_->largest_round;
    count_ = next;
  }
  times_.clear();
  if (records_times(asked_->asked)) times_.reserve(count_);
  begin_ = look();
  return count_;
}

// At most 16 times the last round: the first ones are slower than what follows.
std::uint64_t client_seat::count_after(seconds taken) const {
  const double factor = std::clamp(plan_.wanted / std::max(taken, seconds(1us)), 0.01, 16.0);
  const auto count = static_cast<std::uint64_t>(factor * static_cast<double>(count_));
  const auto most = asked_->largest_round == 0 ? count : asked_->largest_round;
  return std::clamp(count, asked_->smallest_round, std::max(most, asked_->smallest_round));
}

double client_seat::messages_per_second() const noexcept {
  return static_cast<double>(count_) / seconds(end_.time - begin_.time).count();
}

std::vector<client_seat::sample> client_seat::samples() {
  if (!counts_) throw std::logic_error("the client left before its last round");
  std::vector<sample> all;
  if (records_times(asked_->asked)) {
    all.push_back({"p50", "us", percentile_us(times_, 0.50)});
    all.push_back({"p99", "us", percentile_us(times_, 0.99)});
  }
  switch (asked_->asked) {
    case figure::round_trip:
      break;
    case figure::rate:
      all.push_back({"throughput", "messages/s", messages_per_second()});
      break;
    case figure::offered_load:
      all.push_back({"offered", "messages/s", plan_.rate});
      all.push_back({"achieved", "messages/s", messages_per_second()});
      break;
    case figure::bandwidth:
    case figure::interference:
      const auto bytes = static_cast<double>(asked_->message_bytes);
      all.push_back({"bandwidth", "GB/s", messages_per_second() * bytes / 1e9});
      break;
  }
  const auto messages = static_cast<double>(count_);
  const auto client = static_cast<double>((end_.client_cpu - begin_.client_cpu).count()) / messages;
  const auto server = static_cast<double>((end_.server_cpu - begin_.server_cpu).count()) / messages;
  all.push_back({"cpu_ns_per_message", "ns", client + server});
  all.push_back({"cpu_ns_per_message_client", "ns", client});
  all.push_back({"cpu_ns_per_message_server", "ns", server});
  all.insert(all.end(), reported_.begin(), reported_.end());
  return all;
}

int main_of(int argc, char** argv, std::span<const entry> entries) try {
  // What a peer does about a client that has left, when it writes to it, is not the question.
  std::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  // Timers of all peers are as exact as the system can: an offered load is paced by them.
  ::prctl(PR_SET_TIMERSLACK, 1);
  const auto asked = parse(argc, argv);
  switch (asked.what) {
    case action::help:
      std::fputs(usage.data(), stdout);
      break;
    case action::list:
      print_list(entries);
      break;
    case action::all:
      measure_all(entries, argv[0], asked.plan);
      break;
    case action::serve:
      serve(choose(entries, asked.words), asked.folder);
      break;
    case action::run:
      measure(choose(entries, asked.words), argv[0], asked.plan);
      break;
  }
  return 0;
} catch (const std::exception& problem) {
  std::fprintf(stderr, "%s:", argv[0]);
  for (int i = 1; i < argc; ++i) std::fprintf(stderr, " %s", argv[i]);
  std::fprintf(stderr, ": %s\n", problem.what());
  return 1;
}

}  // namespace bench
