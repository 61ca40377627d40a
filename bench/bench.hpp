// SPDX-License-Identifier: Apache-2.0
// What every benchmark shares. A program of this folder is one peer (hawser, raw sockets, Asio,
// ...) and answers the questions below, each as two processes on two cores: the client measures,
// and starts the server by executing itself again. One execution is one run and prints its
// figures as JSON, a line a figure; `run` repeats, interleaves and compares.
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

namespace bench {

using clock = std::chrono::steady_clock;

/// What is asked of a peer.
enum class figure : std::uint8_t {
  round_trip,  ///< p50 and p99 of record()ed times
  rate,        ///< messages a second
  bandwidth,   ///< payload bytes a second
};

struct question {
  std::string_view name;
  figure asked;
  std::size_t message_bytes;
  std::uint64_t smallest_round;  ///< messages: enough to be timed at all
};

inline constexpr std::size_t small_bytes = 64;
inline constexpr std::size_t bulk_bytes = 1 << 20;
inline constexpr std::uint64_t window = 256;  ///< messages in flight in echo_throughput

inline constexpr question echo_rtt{"echo_rtt", figure::round_trip, small_bytes, 64};
inline constexpr question echo_throughput{"echo_throughput", figure::rate, small_bytes, window};
inline constexpr question oneway_throughput{"oneway_throughput", figure::rate, small_bytes, 1024};
inline constexpr question bulk_1mib{"bulk_1mib", figure::bandwidth, bulk_bytes, 16};

/// What crosses between the processes: the `case` of a result.
enum class road : std::uint8_t { tcp, unix_socket };

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
inline void write_note(std::span<std::byte> message, note written) noexcept {
  std::memcpy(message.data(), &written, sizeof written);
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

/// What a peer's server is told.
class server_seat {
 public:
  server_seat(const question& asked, road via, std::string unix_path)
      : asked_(&asked), road_(via), unix_path_(std::move(unix_path)) {}

  [[nodiscard]] const question& asked() const noexcept { return *asked_; }
  [[nodiscard]] road via() const noexcept { return road_; }
  /// Where to listen when via() is unix_socket: the folder exists, the file does not.
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
  struct plan {
    std::chrono::duration<double> wanted{1.0};  ///< for the round that counts
    std::uint64_t fixed_count = 0;              ///< not 0: a single round of so many
  };

  client_seat(const question& asked, road via, std::string address, int server_pid, plan planned);

  [[nodiscard]] const question& asked() const noexcept { return *asked_; }
  [[nodiscard]] road via() const noexcept { return road_; }
  [[nodiscard]] const std::string& address() const noexcept { return address_; }

  /// Ends a round, if one runs, and begins the next. 0: that was the last.
  [[nodiscard]] std::uint64_t next_round();
  /// Notes one round trip of this round.
  void record(clock::duration taken) { times_.push_back(taken); }

  struct sample {
    std::string metric;
    std::string unit;
    double value;
  };
  /// The figures of the round that counted.
  [[nodiscard]] std::vector<sample> samples();

 private:
  struct instant {
    clock::time_point time;
    std::chrono::nanoseconds client_cpu;
    std::chrono::nanoseconds server_cpu;
  };
  [[nodiscard]] instant look() const;
  [[nodiscard]] std::uint64_t count_after(std::chrono::duration<double> taken) const;

  const question* asked_;
  road road_;
  std::string address_;
  int server_pid_;
  plan plan_;
  std::uint64_t count_ = 0;
  bool counts_ = false;  // the running round is the one to report
  instant begin_{};
  instant end_{};
  std::vector<clock::duration> times_;
};

/// One peer's answer to one question.
struct entry {
  const question* asked;
  std::string_view impl;
  void (*serve)(server_seat&);  ///< one client, until it leaves or the process is ended
  void (*call)(client_seat&);
  unsigned cores = 1;  ///< the fewest on which it makes sense
};

/// The main function of a peer's program; `--help` says how it is used.
[[nodiscard]] int main_of(int argc, char** argv, std::span<const entry> entries);

}  // namespace bench
