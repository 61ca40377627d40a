// SPDX-License-Identifier: Apache-2.0
// What every benchmark shares. A program of this folder is one peer (hawser, raw sockets, Asio,
// ...) and answers the questions below, each as two processes on two cores: the client measures,
// and starts the server by executing itself again.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "program.hpp"

namespace bench {

/// What is asked of a peer.
enum class figure : std::uint8_t {
  round_trip,    ///< p50 and p99 of record()ed times
  rate,          ///< messages a second
  bandwidth,     ///< payload bytes a second
  offered_load,  ///< p50 and p99 of record()ed times while messages fall due by a schedule
  interference,  ///< p50 and p99 of record()ed times, and the bandwidth of what runs beside
};

struct question {
  std::string_view name;
  figure asked;
  std::size_t message_bytes;
  std::uint64_t smallest_round;  ///< messages: enough to be timed at all
  std::uint64_t connections = 1;
  std::uint64_t in_flight = 1;      ///< messages a connection, where it is an echo
  bool one_core = false;            ///< server and client share a core
  unsigned neighbours = 0;          ///< threads of others that spin meanwhile, on all cores
  std::uint64_t largest_round = 0;  ///< 0: as long as wanted
};

inline constexpr std::size_t small_bytes = 64;
inline constexpr std::size_t bulk_bytes = 1 << 20;
inline constexpr std::uint64_t window = 256;  ///< messages in flight on a busy connection

inline constexpr question echo_rtt{"echo_rtt", figure::round_trip, small_bytes, 64};
/// The same where nobody spins.
inline constexpr question echo_rtt_sleeping{"echo_rtt_sleeping", figure::round_trip, small_bytes,
                                            64};
inline constexpr question echo_rtt_one_core{
    .name = "echo_rtt_one_core",
    .asked = figure::round_trip,
    .message_bytes = small_bytes,
    .smallest_round = 64,
    .one_core = true,
};
inline constexpr question echo_throughput{
    .name = "echo_throughput",
    .asked = figure::rate,
    .message_bytes = small_bytes,
    .smallest_round = window,
    .in_flight = window,
};
inline constexpr question echo_32{
    .name = "echo_32",
    .asked = figure::rate,
    .message_bytes = small_bytes,
    .smallest_round = 32 * window,
    .connections = 32,
    .in_flight = window,
};
inline constexpr question echo_256{
    .name = "echo_256",
    .asked = figure::rate,
    .message_bytes = small_bytes,
    .smallest_round = 256,
    .connections = 256,
};
inline constexpr question echo_busy{
    .name = "echo_busy",
    .asked = figure::rate,
    .message_bytes = small_bytes,
    .smallest_round = window,
    .in_flight = window,
    .neighbours = 4,
};
inline constexpr question oneway_throughput{"oneway_throughput", figure::rate, small_bytes, 1024};
inline constexpr question bulk_1mib{"bulk_1mib", figure::bandwidth, bulk_bytes, 16};
/// One message is one connection: connect, first reply, close. Few enough for the ports there are.
inline constexpr question connect_reply{
    .name = "connect_reply",
    .asked = figure::round_trip,
    .message_bytes = small_bytes,
    .smallest_round = 16,
    .largest_round = 2000,
};
/// A round counts messages of 1 MiB; what is recorded are small ones that go there and back beside.
inline constexpr question ping_beside_bulk{"ping_beside_bulk", figure::interference, bulk_bytes,
                                           16};
/// What goes there and back on one connection, while `sockets_beside` others have messages too.
inline constexpr question echo_rtt_beside_sockets{"echo_rtt_beside_sockets", figure::round_trip,
                                                  small_bytes, 64};
inline constexpr std::size_t sockets_beside = 100;
inline constexpr std::chrono::milliseconds period_beside{1};  ///< from message to message of one
/// An echo on one connection at the rate of `--rate`: see client_seat::schedule().
inline constexpr question load{"load", figure::offered_load, small_bytes, 1};

/// What crosses between the processes: the `case` of a result.
enum class road : std::uint8_t { tcp, unix_socket, shared_memory };

/// A bit for each road.
using road_set = unsigned;
[[nodiscard]] constexpr road_set only(road via) noexcept {
  return 1U << static_cast<unsigned>(via);
}
inline constexpr road_set sockets = only(road::tcp) | only(road::unix_socket);
/// Beside shared memory a peer that has none is asked over its Unix sockets.
inline constexpr road_set all_roads = sockets | only(road::shared_memory);

/// How every message begins; what follows is padding.
struct note {
  std::uint64_t number = 0;  ///< counts up from 0 in an echo, so that a lost message shows
  std::uint64_t last = 0;    ///< one way: not 0 asks for an answer: how many came
};

[[nodiscard]] inline note note_in(std::span<const std::byte> message) noexcept {
  note read;
  std::memcpy(&read, message.data(), sizeof read);
  return read;
}
// Each number by itself: both at once would wait until the processor has stored both.
inline void write_note(std::span<std::byte> message, note written) noexcept {
  std::memcpy(message.data(), &written.number, sizeof written.number);
  std::memcpy(message.data() + offsetof(note, last), &written.last, sizeof written.last);
}

/// Counts what comes one way, and answers the sender who asks for it.
class tally {
 public:
  /// The note to answer with, if `received` asks for an answer; counting begins anew then.
  [[nodiscard]] std::optional<note> add(note received) noexcept {
    ++count_;
    if (received.last == 0) return {};
    return note{std::exchange(count_, 0), 0};
  }

 private:
  std::uint64_t count_ = 0;
};

/// Errors: throws unless both are the same: a peer that loses messages has no figures.
void expect_number(std::uint64_t expected, std::uint64_t got);

/// A file of two messages of bulk_bytes, in memory that cannot get smaller.
class bulk_file {
 public:
  static constexpr std::uint64_t first = 0;
  static constexpr std::uint64_t last = bulk_bytes;  ///< where the one is that asks for an answer

  bulk_file();
  bulk_file(const bulk_file&) = delete;
  bulk_file& operator=(const bulk_file&) = delete;
  ~bulk_file();
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

/// From here on every socket that this process makes or accepts gets buffers of so many bytes each
/// way: for a library that cannot be told. See imposed_entry() in sockets.hpp.
void impose_socket_buffers(int bytes) noexcept;

/// The messages of connection `index`, when `count` are dealt to `connections`.
[[nodiscard]] constexpr std::uint64_t share_of(std::uint64_t count, std::uint64_t connections,
                                               std::uint64_t index) noexcept {
  return count / connections + (index < count % connections ? 1 : 0);
}

/// When the messages of an offered load fall due: `rate` a second, whatever became of those before.
///
/// A client sends all that is due and not sent, by plain sends, then waits for the next due time
/// or an answer, whichever comes first: with a timer that sleeps, because who spins between
/// messages hides what a message costs. Latency is counted from due(), so that a client that is
/// late pays for it.
///
/// Due times lie on a grid of 2^18 ns of the steady clock. A sleeping timer is hardly finer, and
/// the timers of all peers can hit it exactly, also wheels whose ticks are 2^17 ns: so it is
/// messages that are compared and not timers. At high rates several fall due together.
class schedule {
 public:
  static constexpr std::chrono::nanoseconds grid{1 << 18};

  schedule(double rate, clock::time_point begin) noexcept : rate_(rate), begin_(begin) {}

  [[nodiscard]] clock::time_point due(std::uint64_t number) const noexcept {
    const std::chrono::duration<double, std::nano> after(static_cast<double>(number) / rate_ * 1e9);
    const auto exact =
        begin_ + std::chrono::duration_cast<clock::duration>(after) + grid - clock::duration(1);
    return clock::time_point(exact.time_since_epoch() / grid * grid);
  }

 private:
  double rate_;
  clock::time_point begin_;
};

/// A timer as a descriptor, for peers that wait for descriptors: readable once the time has come.
class alarm {
 public:
  alarm();
  ~alarm();
  alarm(const alarm&) = delete;
  alarm& operator=(const alarm&) = delete;

  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  /// Anew; until then it is not readable.
  void set(clock::time_point when);
  void clear();

 private:
  int descriptor_;
};

/// What a peer's server is told.
class server_seat {
 public:
  server_seat(const question& asked, road via, std::string unix_path)
      : asked_(&asked), road_(via), unix_path_(std::move(unix_path)) {}

  [[nodiscard]] const question& asked() const noexcept { return *asked_; }
  [[nodiscard]] road via() const noexcept { return road_; }
  /// Where to listen, unless via() is tcp: the folder exists, the file does not.
  [[nodiscard]] const std::string& unix_path() const noexcept { return unix_path_; }
  /// Lets the client begin.
  ///
  /// Shape: one line; the client's address() is this text.
  void announce(std::string_view address) const;

 private:
  const question* asked_;
  road road_;
  std::string unix_path_;
};

/// What a peer's client is told, and its stopwatch.
///
/// A client is `while (const auto count = seat.next_round()) { send `count` messages, await all
/// answers }`. Rounds grow until one takes a good part of the wanted time; then comes the one that
/// counts.
class client_seat {
 public:
  struct plan : run_plan {
    double rate;  ///< of an offered load, messages a second
  };

  client_seat(const question& asked, road via, std::string address, int server_pid,
              const plan& planned);

  [[nodiscard]] const question& asked() const noexcept { return *asked_; }
  [[nodiscard]] road via() const noexcept { return road_; }
  [[nodiscard]] const std::string& address() const noexcept { return address_; }

  /// Ends a round, if one runs, and begins the next. 0: that was the last.
  [[nodiscard]] std::uint64_t next_round();
  /// Notes one round trip of this round.
  void record(clock::duration taken) { times_.push_back(taken); }
  /// Of an offered load, from now: one a round.
  [[nodiscard]] bench::schedule schedule() const noexcept { return {rate_, clock::now()}; }
  /// How long the round that counts is to be.
  [[nodiscard]] seconds wanted() const noexcept { return rounds_.planned().wanted; }

  /// A figure that the client has found by itself, beside those of the round that counted.
  void report(sample one) { reported_.push_back(std::move(one)); }
  /// Of the last round, once next_round() has ended it.
  [[nodiscard]] double messages_per_second() const noexcept;
  [[nodiscard]] const std::vector<clock::duration>& recorded() const noexcept { return times_; }
  /// The figures of the round that counted.
  [[nodiscard]] std::vector<sample> samples();

 private:
  struct instant {
    clock::time_point time;
    std::chrono::nanoseconds client_cpu;
    std::chrono::nanoseconds server_cpu;
  };
  [[nodiscard]] instant look() const;

  const question* asked_;
  road road_;
  std::string address_;
  int server_pid_;
  double rate_;
  rounds rounds_;
  instant begin_{};
  instant end_{};
  std::vector<clock::duration> times_;
  std::vector<sample> reported_;
};

/// One peer's answer to one question.
struct entry {
  const question* asked;
  std::string_view impl;
  void (*serve)(server_seat&);  ///< one client, until it leaves or the process is ended
  void (*call)(client_seat&);
  unsigned cores = 1;  ///< the fewest on which it makes sense
  road_set roads = sockets;
};

/// The main function of a peer's program; `--help` says how it is used.
[[nodiscard]] int main_of(int argc, char** argv, std::span<const entry> entries);

}  // namespace bench
