// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace courier {

/// "1.2 GiB"
[[nodiscard]] std::string human_bytes(double bytes);
/// "1 h 05 min", "12 s"
[[nodiscard]] std::string human_time(double seconds);

/// How far a transfer has come.
struct position {
  std::uint64_t files = 0;
  std::uint64_t files_total = 0;
  std::uint64_t bytes = 0;
  std::uint64_t bytes_total = 0;
  bool listing = false;  ///< the totals still grow
};

/// Shows progress on the standard error: a bar that is redrawn on a terminal, a line every few
/// seconds elsewhere. May block.
class display {
 public:
  display();

  /// How often update() should be called.
  [[nodiscard]] std::chrono::milliseconds pace() const noexcept;
  void update(const position& now);
  /// Leaves the terminal ready for other output.
  void end(const position& last);

 private:
  [[nodiscard]] std::string figures(const position& now) const;
  void measure(const position& now);
  void draw(const position& now);

  bool terminal_;
  bool drawn_ = false;
  double bytes_per_second_ = 0;
  std::uint64_t bytes_before_ = 0;
  std::chrono::steady_clock::time_point before_;
  std::chrono::steady_clock::time_point last_line_;
};

}  // namespace courier
