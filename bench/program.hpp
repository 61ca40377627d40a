// SPDX-License-Identifier: Apache-2.0
// What all programs of this folder share: the command line, the rows, and how the rounds of a run
// grow. One execution is one run and prints its figures as JSON, a line a figure; `run` repeats,
// interleaves and compares.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

using clock = std::chrono::steady_clock;
using seconds = std::chrono::duration<double>;

/// One figure: the end of a row.
struct sample {
  std::string metric;
  std::string unit;
  double value;
};

/// The smallest that `share` of all do not exceed, in microseconds.
///
/// Errors: throws if there is none.
[[nodiscard]] double percentile_us(std::vector<clock::duration> times, double share);

// ---- rounds -----------------------------------------------------------------------------------

/// How long a run is to be.
struct run_plan {
  seconds wanted{1.0};            ///< for the round that counts
  std::uint64_t fixed_count = 0;  ///< not 0: a single round of so many
};

/// What is known of a run's rounds before it begins; they count messages or operations.
struct round_limits {
  std::uint64_t smallest = 1;  ///< enough to be timed at all
  std::uint64_t largest = 0;   ///< 0: as long as wanted
  double rate = 0;             ///< not 0: so many a second, so that nothing has to be tried
};

/// The rounds of a run: they grow until one takes a good part of the wanted time; then comes the
/// one that counts.
class rounds {
 public:
  rounds(const run_plan& planned, const round_limits& limits) noexcept
      : plan_(planned), limits_(limits) {}

  /// The size of the next round, when the last one has taken so long. 0: that was the last.
  [[nodiscard]] std::uint64_t next(seconds taken);
  /// Of the running round.
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// The running round is the one to report.
  [[nodiscard]] bool counts() const noexcept { return counts_; }
  [[nodiscard]] const run_plan& planned() const noexcept { return plan_; }

 private:
  [[nodiscard]] std::uint64_t at_rate() const;
  [[nodiscard]] std::uint64_t grown(seconds taken) const;

  run_plan plan_;
  round_limits limits_;
  std::uint64_t count_ = 0;
  bool counts_ = false;
};

// ---- the command line -------------------------------------------------------------------------

/// The cores on which this thread may run.
[[nodiscard]] std::vector<int> allowed_cores();

/// A folder for the socket files of one run; gone with the object.
class scratch_folder {
 public:
  scratch_folder();
  ~scratch_folder();
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// Errors: throws if it is none.
[[nodiscard]] double positive_number(const char* text);

/// One thing to run.
struct choice {
  std::array<std::string, 3> name;  ///< BENCH CASE IMPL
  std::function<std::vector<sample>(const run_plan&)> run;
  unsigned cores = 1;  ///< with fewer it runs only when it is named
};

/// An option with a value, beside those that all programs have.
struct own_option {
  const char* name;
  std::function<void(const char*)> take;
};

/// The main function of a program that has these choices; `usage` is what `--help` says.
[[nodiscard]] int run_program(int argc, char** argv, std::string_view usage,
                              const std::vector<choice>& choices,
                              const std::vector<own_option>& own = {});

}  // namespace bench
