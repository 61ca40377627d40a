// SPDX-License-Identifier: Apache-2.0
// Shared memory between two processes, without links: what a ring costs that can sleep against the
// same that cannot, what shm_stream adds, and the floors of a round trip.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <ctime>
#include <functional>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/spin_pause.hpp"
#include "hawser/shm_stream.hpp"
#include "hawser/shm_workers.hpp"
#include "os/platform.hpp"
#include "program.hpp"
#include "shm/bell.hpp"
#include "shm/ring.hpp"
#ifdef HAWSER_BENCH_BOOST
#include <boost/interprocess/ipc/message_queue.hpp>
#endif

namespace {

using namespace std::chrono_literals;
using bench::clock;
using bench::run_plan;
using bench::sample;
using hawser::detail::spin_pause;

namespace platform = hawser::platform;
namespace shm = hawser::shm;

constexpr std::string_view usage = R"(usage: bench_shm BENCH CASE IMPL [--seconds S | --count N]
       bench_shm --list
       bench_shm --all [--seconds S]

  BENCH CASE IMPL  one run; --list names what there is
  --seconds S      aim at a run of S seconds (default 1)
  --count N        exactly N messages and no warm-up
  --all            every benchmark of this program once
)";

constexpr std::size_t message_bytes = 64;
constexpr std::size_t batch_most = 32;
constexpr std::size_t ring_size = std::size_t{2} << 20;
constexpr unsigned looks_before_sleep = 5000;
constexpr auto a_while = 100ms;

using message = std::array<std::byte, message_bytes>;

message numbered(std::uint64_t number) {
  message made{};
  std::memcpy(made.data(), &number, sizeof number);
  return made;
}

/// What comes must be what went, in order.
struct checker {
  std::uint64_t next = 0;

  void operator()(std::span<const std::byte> record) {
    std::uint64_t number = 0;
    std::memcpy(&number, record.data(), sizeof number);
    if (record.size() != message_bytes || number != next++) {
      throw std::runtime_error("another message came than was sent");
    }
  }
};

// ---- two processes ----------------------------------------------------------------------------

/// Memory that a child has, too.
template <class T>
class shared {
 public:
  shared() {
    void* const at = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    it_ = ::new (at) T;
  }
  ~shared() { ::munmap(it_, sizeof(T)); }
  shared(const shared&) = delete;
  shared& operator=(const shared&) = delete;
  T* operator->() const noexcept { return it_; }
  T& operator*() const noexcept { return *it_; }

 private:
  T* it_;
};

void bind_to(std::size_t which) {
  static const auto cores = bench::allowed_cores();  // before any binding
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cores[which % cores.size()]), &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

/// A process on the second core that runs `body`, and is killed at the end.
class child {
 public:
  explicit child(const std::function<void()>& body) : id_(::fork()) {
    if (id_ < 0) throw std::runtime_error("fork");
    bind_to(id_ == 0 ? 1 : 0);
    if (id_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      body();
    } catch (const std::exception& error) {
      static_cast<void>(!::write(2, error.what(), std::strlen(error.what())));
    }
    ::_exit(0);
  }
  ~child() {
    ::kill(id_, SIGKILL);
    ::waitpid(id_, nullptr, 0);
  }
  child(const child&) = delete;
  child& operator=(const child&) = delete;

  [[nodiscard]] std::chrono::nanoseconds cpu() const {
    clockid_t which{};
    timespec spent{};
    ::clock_getcpuclockid(id_, &which);
    ::clock_gettime(which, &spent);
    return std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
  }
  void expect_alive() const {
    if (::waitpid(id_, nullptr, WNOHANG) != 0) throw std::runtime_error("the peer ended");
  }

 private:
  pid_t id_;
};

std::chrono::nanoseconds own_cpu() {
  timespec spent{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
  return std::chrono::seconds(spent.tv_sec) + std::chrono::nanoseconds(spent.tv_nsec);
}

struct alignas(128) arrivals {
  std::atomic<std::uint64_t> count{0};
};

/// Sends rounds of messages until one was long enough. The clock stops when all have arrived.
template <class Send>
std::vector<sample> time_sending(const run_plan& plan, const child& peer, const arrivals& arrived,
                                 Send send) {
  bench::rounds rounds(plan, {.smallest = 4096});
  std::uint64_t sent = 0;
  bench::seconds taken{};
  std::chrono::nanoseconds cpu{};
  std::uint64_t last = 0;
  for (auto count = rounds.next({}); count != 0; count = rounds.next(taken)) {
    const auto cpu_before = own_cpu() + peer.cpu();
    const auto begin = clock::now();
    send(sent, count);
    sent += last = count;
    while (arrived.count.load(std::memory_order_acquire) != sent) {
      std::this_thread::sleep_for(20us);
      peer.expect_alive();
    }
    taken = clock::now() - begin;
    cpu = own_cpu() + peer.cpu() - cpu_before;
  }
  const auto messages = static_cast<double>(last);
  return {{"throughput", "messages/s", messages / taken.count()},
          {"cpu_ns_per_message", "ns", static_cast<double>(cpu.count()) / messages}};
}

/// `ask` sends one message and waits for it to come back.
template <class Ask>
std::vector<sample> time_round_trips(const run_plan& plan, const child& peer, Ask ask) {
  bench::rounds rounds(plan, {.smallest = 256});
  std::vector<clock::duration> times;
  std::chrono::nanoseconds cpu{};
  bench::seconds taken{};
  std::uint64_t number = 0;
  for (auto count = rounds.next({}); count != 0; count = rounds.next(taken)) {
    times.clear();
    times.reserve(count);
    const auto cpu_before = own_cpu() + peer.cpu();
    const auto begin = clock::now();
    auto before = begin;
    for (std::uint64_t i = 0; i < count; ++i) {
      ask(number++);
      const auto now = clock::now();
      times.push_back(now - before);
      before = now;
    }
    taken = before - begin;
    cpu = own_cpu() + peer.cpu() - cpu_before;
  }
  return {{"p50", "us", bench::percentile_us(times, 0.50)},
          {"p99", "us", bench::percentile_us(times, 0.99)},
          {"p99.9", "us", bench::percentile_us(times, 0.999)},
          {"cpu_ns_per_message", "ns",
           static_cast<double>(cpu.count()) / static_cast<double>(times.size())}};
}

// ---- a ring, by hand --------------------------------------------------------------------------

struct ring_memory {
  shm::ring_state<> state;
  shm::bell_state<> bell;
  alignas(128) std::array<std::byte, ring_size> bytes{};
};

enum class rest : std::uint8_t { never, sleeps };

/// The writing end. One that can sleep does so when the ring is full, and wakes its reader.
template <rest How>
class writing {
 public:
  explicit writing(ring_memory& at) : memory_(at), ring_(at.state, shm::ring_bytes(at.bytes)) {
    fences_.full = !platform::join_barriers();
  }

  void append(const message& from) {
    std::size_t at = ring_.claim(from.size());
    while (at == shm::ring_writer<>::no_room) {
      publish();
      wait();
      at = ring_.claim(from.size());
    }
    std::memcpy(ring_.memory().at(at), from.data(), from.size());
    ring_.commit(from.size());
  }
  void publish() {
    if (!ring_.publish()) return;
    if constexpr (How == rest::sleeps) {
      fences_.between_publish_and_look();
      shm::bell<> bell(memory_.bell);
      if (bell.ring()) platform::wake_one(bell.word());
    }
  }

 private:
  void wait() {
    for (unsigned i = 0; How == rest::never || i < looks_before_sleep; ++i) {
      if (ring_.has_room(message_bytes)) return;
      spin_pause();
    }
    ring_.wait_for_room();
    fences_.full ? std::atomic_thread_fence(std::memory_order_seq_cst) : platform::pass_barrier();
    if (!ring_.has_room(message_bytes)) {
      platform::sleep_on(memory_.state.writer_waits, 1, a_while);
    }
    ring_.stop_waiting();
  }

  ring_memory& memory_;
  shm::ring_writer<> ring_;
  shm::barriers fences_;
};

template <rest How>
class reading {
 public:
  explicit reading(ring_memory& at) : memory_(at), ring_(at.state, shm::ring_bytes(at.bytes)) {
    fences_.full = !platform::join_barriers();
  }

  void take(message& into) {
    while (ring_.look() != shm::ring_reader<>::found::record) wait();
    std::memcpy(into.data(), ring_.memory().at(ring_.offset()), into.size());
    if (ring_.pop()) wake();
  }

 private:
  void wake() {
    if constexpr (How == rest::sleeps) {
      fences_.between_publish_and_look();
      if (ring_.take_waiting()) platform::wake_one(memory_.state.writer_waits);
    }
  }
  void wait() {
    if (ring_.give_back()) wake();
    for (unsigned i = 0; How == rest::never || i < looks_before_sleep; ++i) {
      if (ring_.look() != shm::ring_reader<>::found::nothing) return;
      spin_pause();
    }
    shm::bell<> bell(memory_.bell);
    bell.announce();
    fences_.full ? std::atomic_thread_fence(std::memory_order_seq_cst) : platform::pass_barrier();
    if (ring_.look() == shm::ring_reader<>::found::nothing) {
      platform::sleep_on(bell.word(), 1, a_while);
    }
    bell.answer();
  }

  ring_memory& memory_;
  shm::ring_reader<> ring_;
  shm::barriers fences_;
};

template <rest How>
std::vector<sample> ring_oneway(const run_plan& plan, std::size_t batch) {
  const shared<ring_memory> ring;
  const shared<arrivals> arrived;
  const child peer([&] {
    reading<How> from(*ring);
    checker check;
    message got{};
    for (;;) {
      from.take(got);
      check(got);
      arrived->count.store(check.next, std::memory_order_release);
    }
  });
  writing<How> to(*ring);
  return time_sending(plan, peer, *arrived, [&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = 1; i <= count; ++i) {
      to.append(numbered(first + i - 1));
      if (i % batch == 0) to.publish();
    }
    to.publish();
  });
}

std::vector<sample> ring_rtt(const run_plan& plan) {
  const shared<ring_memory> there;
  const shared<ring_memory> back;
  const child peer([&] {
    reading<rest::never> from(*there);
    writing<rest::never> to(*back);
    message got{};
    for (;;) {
      from.take(got);
      to.append(got);
      to.publish();
    }
  });
  writing<rest::never> to(*there);
  reading<rest::never> from(*back);
  message got{};
  checker check;
  return time_round_trips(plan, peer, [&](std::uint64_t number) {
    to.append(numbered(number));
    to.publish();
    from.take(got);
    check(got);
  });
}

// ---- shm_stream -------------------------------------------------------------------------------

std::string stream_name() {
  return "bench." + std::to_string(::getpid());
}

void count_stream(hawser::shm_stream from, arrivals& arrived, std::size_t batch) {
  checker check;
  message got{};
  hawser::shm_batch many;
  for (;;) {
    if (batch == 1) {
      if (from.read(std::span(got)).value() != message_bytes) return;
      check(got);
    } else {
      if (!from.read_batch(many, batch).value().has_value()) return;
      for (std::size_t i = 0; i < many.size(); ++i) check(many[i]);
    }
    arrived.count.store(check.next, std::memory_order_release);
  }
}

std::vector<sample> stream_oneway(const run_plan& plan, std::size_t batch, bool metrics) {
  const shared<arrivals> arrived;
  hawser::shm_stream_options options;
  options.metrics = metrics;
  const std::string name = stream_name();
  auto to = hawser::shm_stream::create(name, options);
  const child peer([&] { count_stream(hawser::shm_stream::open(name, options), *arrived, batch); });
  to.wait_for_peer().value();
  std::array<message, batch_most> messages;
  std::array<std::span<const std::byte>, batch_most> records;
  for (std::size_t i = 0; i < batch_most; ++i) records[i] = messages[i];
  return time_sending(plan, peer, *arrived, [&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; i += batch) {
      const std::size_t now = std::min<std::uint64_t>(batch, count - i);
      for (std::size_t each = 0; each < now; ++each) messages[each] = numbered(first + i + each);
      if (batch == 1) {
        to.write(messages[0]).value();
      } else if (to.write_batch(std::span(records).first(now)).value() != now) {
        throw std::runtime_error("the peer left");
      }
    }
  });
}

std::vector<sample> stream_rtt(const run_plan& plan, bool spins) {
  hawser::shm_stream_options options;
  if (!spins) options.spin.how = hawser::spin_policy::mode::off;
  const std::string name = stream_name();
  auto own = hawser::shm_stream::create(name, options);
  const child peer([&] {
    auto other = hawser::shm_stream::open(name, options);
    message got{};
    while (other.read(std::span(got)).value().has_value()) other.write(got).value();
  });
  own.wait_for_peer().value();
  message got{};
  checker check;
  return time_round_trips(plan, peer, [&](std::uint64_t number) {
    own.write(numbered(number)).value();
    if (own.read(std::span(got)).value() != message_bytes) throw std::runtime_error("short");
    check(got);
  });
}

// ---- others -----------------------------------------------------------------------------------

/// One way, blocking: a pipe, or a pair of sockets that is used like one.
struct pipe_pair {
  explicit pipe_pair(bool sockets) {
    const int made =
        sockets ? ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) : ::pipe(ends.data());
    if (made != 0) throw std::runtime_error("pipe");
  }
  ~pipe_pair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  pipe_pair(const pipe_pair&) = delete;
  pipe_pair& operator=(const pipe_pair&) = delete;

  void send(std::span<const std::byte> bytes) const {
    const auto wanted = static_cast<ssize_t>(bytes.size());
    if (::write(ends[1], bytes.data(), bytes.size()) != wanted) throw std::runtime_error("write");
  }
  [[nodiscard]] std::size_t receive(std::span<std::byte> into) const {
    const auto got = ::read(ends[0], into.data(), into.size());
    if (got <= 0) throw std::runtime_error("read");
    return static_cast<std::size_t>(got);
  }

  std::array<int, 2> ends{};
};

// Writes of up to 4 KiB are whole, and so are reads of multiples of what was written.
template <bool Sockets>
std::vector<sample> pipe_oneway(const run_plan& plan, std::size_t batch) {
  const pipe_pair pipe(Sockets);
  const shared<arrivals> arrived;
  const child peer([&] {
    checker check;
    std::vector<message> got(batch);
    for (;;) {
      const auto bytes = pipe.receive(std::as_writable_bytes(std::span(got)));
      for (std::size_t i = 0; i < bytes / message_bytes; ++i) check(got[i]);
      arrived->count.store(check.next, std::memory_order_release);
    }
  });
  std::vector<message> messages(batch);
  return time_sending(plan, peer, *arrived, [&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; i += batch) {
      const std::size_t now = std::min<std::uint64_t>(batch, count - i);
      for (std::size_t each = 0; each < now; ++each) messages[each] = numbered(first + i + each);
      pipe.send(std::as_bytes(std::span(messages).first(now)));
    }
  });
}

template <bool Sockets>
std::vector<sample> pipe_rtt(const run_plan& plan) {
  const pipe_pair there(Sockets);
  const pipe_pair back(Sockets);
  const child peer([&] {
    message got{};
    for (;;) {
      static_cast<void>(there.receive(got));
      back.send(got);
    }
  });
  message got{};
  checker check;
  return time_round_trips(plan, peer, [&](std::uint64_t number) {
    there.send(numbered(number));
    static_cast<void>(back.receive(got));
    check(got);
  });
}

// Two words, and nothing but sleep and wake.
std::vector<sample> futex_rtt(const run_plan& plan, bool one_core) {
  struct words {
    alignas(128) std::atomic<std::uint32_t> there{0};
    alignas(128) std::atomic<std::uint32_t> back{0};
  };
  const shared<words> both;
  const auto await = [](std::atomic<std::uint32_t>& word, std::uint32_t seen) {
    while (word.load(std::memory_order_acquire) == seen) platform::sleep_on(word, seen, a_while);
  };
  const auto bump = [](std::atomic<std::uint32_t>& word) {
    word.fetch_add(1, std::memory_order_release);
    platform::wake_one(word);
  };
  const child peer([&] {
    if (one_core) bind_to(0);
    for (std::uint32_t seen = 0;; ++seen) {
      await(both->there, seen);
      bump(both->back);
    }
  });
  return time_round_trips(plan, peer, [&](std::uint64_t number) {
    bump(both->there);
    await(both->back, static_cast<std::uint32_t>(number));
  });
}

#ifdef HAWSER_BENCH_BOOST
std::vector<sample> boost_oneway(const run_plan& plan) {
  namespace ipc = boost::interprocess;
  const std::string name = "hawser.bench." + std::to_string(::getpid());
  ipc::message_queue::remove(name.c_str());
  ipc::message_queue queue(ipc::create_only, name.c_str(), ring_size / message_bytes,
                           message_bytes);
  ipc::message_queue::remove(name.c_str());
  const shared<arrivals> arrived;
  const child peer([&] {
    checker check;
    message got{};
    for (;;) {
      ipc::message_queue::size_type bytes = 0;
      unsigned priority = 0;
      queue.receive(got.data(), got.size(), bytes, priority);
      check(std::span(got).first(bytes));
      arrived->count.store(check.next, std::memory_order_release);
    }
  });
  return time_sending(plan, peer, *arrived, [&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const message next = numbered(first + i);
      queue.send(next.data(), next.size(), 0);
    }
  });
}
#endif

// ---- a copy, as fast as it gets ---------------------------------------------------------------

// 1 MiB in pieces that stay in the cache: into the ring, and out of it, by two that never sleep.
std::vector<sample> copy_in_chunks(const run_plan& plan) {
  constexpr std::size_t whole = std::size_t{1} << 20;
  constexpr std::size_t chunk = 64 << 10;
  const shared<ring_memory> ring;
  const shared<arrivals> arrived;
  const child peer([&] {
    shm::ring_reader<> from(ring->state, shm::ring_bytes(ring->bytes));
    std::vector<std::byte> into(whole);
    for (std::uint64_t count = 0;;) {
      for (std::size_t at = 0; at < whole; at += chunk) {
        while (from.look() != shm::ring_reader<>::found::record) spin_pause();
        std::memcpy(into.data() + at, from.memory().at(from.offset()), chunk);
        static_cast<void>(from.pop());
        static_cast<void>(from.give_back());
      }
      arrived->count.store(++count, std::memory_order_release);
    }
  });
  shm::ring_writer<> to(ring->state, shm::ring_bytes(ring->bytes));
  const std::vector<std::byte> out(whole, std::byte{1});
  auto samples =
      time_sending(plan, peer, *arrived, [&](std::uint64_t /*first*/, std::uint64_t count) {
        for (std::uint64_t i = 0; i < count; ++i) {
          for (std::size_t at = 0; at < whole; at += chunk) {
            std::size_t place = to.claim(chunk);
            for (; place == shm::ring_writer<>::no_room; place = to.claim(chunk)) spin_pause();
            std::memcpy(to.memory().at(place), out.data() + at, chunk);
            to.commit(chunk);
            to.publish();
          }
        }
      });
  samples[0] = {"bandwidth", "GB/s", samples[0].value * whole / 1e9};
  return samples;
}

// ---- shutting down ----------------------------------------------------------------------------

// Two threads, of which one waits in a full ring and the other for records.
std::vector<sample> stop_pool(const run_plan& /*plan*/) {
  std::vector<clock::duration> times;
  for (int i = 0; i < 20; ++i) {
    const std::string name = stream_name();
    hawser::shm_stream_options options;
    options.ring_bytes = 4096;
    auto full = hawser::shm_stream::create(name, options);
    auto peer = hawser::shm_stream::open(name, options);
    auto idle = hawser::shm_stream::create(name, options);
    hawser::shm_workers workers({.threads = 2});
    workers.serve(full, [](hawser::shm_stream& from, const hawser::shm_batch&) {
      while (from.write(message{}).has_value()) continue;
    });
    workers.serve(idle, [](hawser::shm_stream&, const hawser::shm_batch&) {});
    peer.write(message{}).value();
    while (full.stats().sleeps == 0) std::this_thread::sleep_for(100us);
    const auto begin = clock::now();
    workers.stop();
    times.push_back(clock::now() - begin);
  }
  return {{"p50", "us", bench::percentile_us(times, 0.5)},
          {"max", "us", bench::percentile_us(times, 1.0)}};
}

// ---- instructions -----------------------------------------------------------------------------

/// Instructions that a child makes between its two stops by itself. A figure that no neighbour
/// moves; a call to the system counts as one.
std::uint64_t count_instructions(const std::function<void()>& prepare,
                                 const std::function<void()>& counted) {
  const pid_t id = ::fork();
  if (id < 0) throw std::runtime_error("fork");
  if (id == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(1);
    prepare();
    ::raise(SIGSTOP);
    counted();
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  const auto stopped_by = [id] {
    int status = 0;
    const bool stopped = ::waitpid(id, &status, 0) == id && WIFSTOPPED(status);
    return stopped ? WSTOPSIG(status) : 0;
  };
  int why = stopped_by();
  std::uint64_t count = 0;
  for (; count == 0 ? why == SIGSTOP : why == SIGTRAP; ++count) {
    if (::ptrace(PTRACE_SINGLESTEP, id, nullptr, nullptr) != 0) break;
    why = stopped_by();
  }
  ::kill(id, SIGKILL);
  ::waitpid(id, nullptr, 0);
  if (count == 0) throw std::runtime_error("no child may be traced here");
  return count;
}

// Both ends in one thread: what is written is there, so that nobody looks in vain or sleeps.
std::vector<sample> stream_instructions(std::size_t batch, bool metrics) {
  constexpr std::size_t messages = 4 * batch_most;
  hawser::shm_stream_options options;
  options.metrics = metrics;
  auto to = hawser::shm_stream::create(stream_name(), options);
  auto from = hawser::shm_stream::open(stream_name(), options);
  const message content{};
  message got{};
  hawser::shm_batch many;
  std::array<std::span<const std::byte>, batch_most> records;
  records.fill(content);
  const auto pass = [&] {
    std::uint64_t came = 0;
    for (std::size_t i = 0; i < messages; i += batch) {
      if (batch == 1) {
        to.write(content).value();
        came += from.read(std::span(got)).value().has_value() ? 1 : 0;
      } else {
        static_cast<void>(to.write_batch(std::span(records).first(batch)).value());
        came += from.read_batch(many, batch).value().value_or(0);
      }
    }
    if (came != messages) throw std::runtime_error("not all came");
  };
  const auto all = count_instructions(pass, pass);
  return {{"instructions_per_message", "instructions",
           static_cast<double>(all) / static_cast<double>(messages)}};
}

using run = std::function<std::vector<sample>(const run_plan&)>;

void add(std::vector<bench::choice>& to, const char* bench, const char* name, const char* impl,
         run body) {
  to.push_back({{bench, name, impl}, std::move(body), 2});
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<bench::choice> all;
  for (const std::size_t batch : {std::size_t{1}, batch_most}) {
    const char* const name = batch == 1 ? "single" : "batch32";
    const auto with = [batch](auto body) {
      return [batch, body](const run_plan& plan) { return body(plan, batch); };
    };
    add(all, "shm_oneway", name, "bare", with(ring_oneway<rest::never>));
    add(all, "shm_oneway", name, "ring", with(ring_oneway<rest::sleeps>));
    add(all, "shm_oneway", name, "pipe", with(pipe_oneway<false>));
    add(all, "shm_oneway", name, "socket", with(pipe_oneway<true>));
    add(all, "shm_oneway", name, "stream",
        [batch](const run_plan& plan) { return stream_oneway(plan, batch, true); });
    add(all, "shm_oneway", name, "stream_uncounted",
        [batch](const run_plan& plan) { return stream_oneway(plan, batch, false); });
    add(all, "shm_instructions", name, "stream",
        [batch](const run_plan&) { return stream_instructions(batch, true); });
    add(all, "shm_instructions", name, "stream_uncounted",
        [batch](const run_plan&) { return stream_instructions(batch, false); });
  }
#ifdef HAWSER_BENCH_BOOST
  add(all, "shm_oneway", "single", "boost", boost_oneway);
#endif
  add(all, "shm_rtt", "two_cores", "bare", ring_rtt);
  add(all, "shm_rtt", "two_cores", "stream", [](const run_plan& p) { return stream_rtt(p, true); });
  add(all, "shm_rtt", "two_cores", "stream_sleeping",
      [](const run_plan& p) { return stream_rtt(p, false); });
  add(all, "shm_rtt", "two_cores", "futex", [](const run_plan& p) { return futex_rtt(p, false); });
  add(all, "shm_rtt", "one_core", "futex", [](const run_plan& p) { return futex_rtt(p, true); });
  add(all, "shm_rtt", "two_cores", "pipe", pipe_rtt<false>);
  add(all, "shm_rtt", "two_cores", "socket", pipe_rtt<true>);
  add(all, "shm_copy_1mib", "chunks64k", "bare", copy_in_chunks);
  add(all, "shm_stop", "pool", "stream", stop_pool);
  return bench::run_program(argc, argv, usage, all);
}
