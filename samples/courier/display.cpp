// SPDX-License-Identifier: Apache-2.0
#include "courier/display.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace courier {
namespace {

using namespace std::chrono_literals;

constexpr auto bar_pace = 100ms;
constexpr auto line_pace = 3s;
constexpr double rate_memory_seconds = 3;

template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 200> text{};
  const int size = std::snprintf(text.data(), text.size(), pattern, values...);
  return {text.data(), std::min(static_cast<std::size_t>(std::max(size, 0)), text.size() - 1)};
}

std::size_t columns() {
  struct ::winsize window {};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
  return known ? window.ws_col : 80;
}

double share(const position& now) {
  if (now.bytes_total > 0) {
    return std::min(1.0, static_cast<double>(now.bytes) / static_cast<double>(now.bytes_total));
  }
  return now.files_total > 0 ? static_cast<double>(now.files) / static_cast<double>(now.files_total)
                             : 1.0;
}

}  // namespace

std::string human_bytes(double bytes) {
  static constexpr std::array<const char*, 6> units = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  const bool whole = unit == 0 || bytes >= 99.5;
  return format(whole ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

std::string human_time(double seconds) {
  const auto whole = static_cast<long long>(std::ceil(std::clamp(seconds, 0.0, 1e7)));
  if (whole >= 3600) return format("%lld h %02lld min", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return format("%lld min %02lld s", whole / 60, whole % 60);
  return format("%lld s", whole);
}

display::display()
    : terminal_(::isatty(STDERR_FILENO) == 1),
      before_(std::chrono::steady_clock::now()),
      last_line_(before_) {}

std::chrono::milliseconds display::pace() const noexcept {
  return bar_pace;
}

// A moving average, so that the time left does not jump.
void display::measure(const position& now) {
  const auto time = std::chrono::steady_clock::now();
  const double passed = std::chrono::duration<double>(time - before_).count();
  if (passed <= 0) return;
  const double rate = static_cast<double>(now.bytes - std::min(now.bytes, bytes_before_)) / passed;
  const double weight = 1 - std::exp(-passed / rate_memory_seconds);
  bytes_per_second_ += (bytes_per_second_ == 0 ? 1 : weight) * (rate - bytes_per_second_);
  bytes_before_ = now.bytes;
  before_ = time;
}

std::string display::figures(const position& now) const {
  if (now.listing) {
    return format("listing: %llu files, %s", static_cast<unsigned long long>(now.files_total),
                  human_bytes(static_cast<double>(now.bytes_total)).c_str());
  }
  auto text = format("%3.0f %%  %s of %s  %llu of %llu files", std::floor(100 * share(now)),
                     human_bytes(static_cast<double>(now.bytes)).c_str(),
                     human_bytes(static_cast<double>(now.bytes_total)).c_str(),
                     static_cast<unsigned long long>(now.files),
                     static_cast<unsigned long long>(now.files_total));
  if (bytes_per_second_ >= 1) {
    const auto left = static_cast<double>(now.bytes_total - std::min(now.bytes, now.bytes_total));
    text += "  " + human_bytes(bytes_per_second_) + "/s  " + human_time(left / bytes_per_second_) +
            " left";
  }
  return text;
}

void display::update(const position& now) {
  measure(now);
  if (terminal_) {
    draw(now);
  } else if (before_ - last_line_ >= line_pace) {
    last_line_ = before_;
    std::fprintf(stderr, "%s\n", figures(now).c_str());
  }
}

void display::draw(const position& now) {
  constexpr std::size_t bar_least = 8;
  auto line = figures(now);
  const auto width = columns() - 1;
  if (!now.listing && width >= line.size() + bar_least + 3) {
    const auto bar = std::min<std::size_t>(width - line.size() - 3, 40);
    const auto full = static_cast<std::size_t>(share(now) * static_cast<double>(bar));
    line = '[' + std::string(full, '=') + std::string(bar - full, ' ') + "] " + line;
  }
  // Back to the start of the line, and what the last one was longer by is erased.
  std::fprintf(stderr, "\r%s\x1b[K", line.substr(0, width).c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void display::end(const position& last) {
  if (terminal_) {
    if (!drawn_) return;
    draw(last);
    std::fprintf(stderr, "\n");
  } else {
    std::fprintf(stderr, "%s\n", figures(last).c_str());
  }
}

}  // namespace courier
