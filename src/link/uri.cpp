// SPDX-License-Identifier: Apache-2.0
#include "link/uri.hpp"

#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

#include "shm/arena.hpp"
#include "shm/segment.hpp"
#include "wire/frame.hpp"

namespace hawser::detail {
namespace {

[[noreturn]] void bad_uri(std::string_view uri, std::string_view why) {
  failure(errc::bad_uri, "'" + std::string(uri) + "': " + std::string(why)).raise();
}

int hex_digit(char digit) noexcept {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

std::string decode(std::string_view text, std::string_view uri) {
  if (text.find('\0') != std::string_view::npos) bad_uri(uri, "a zero byte is not allowed");
  std::string plain;
  plain.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      plain.push_back(text[i]);
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0) bad_uri(uri, "'%' must be followed by two hexadecimal digits");
    if (high == 0 && low == 0) bad_uri(uri, "a zero byte is not allowed");
    plain.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return plain;
}

std::string encode(std::string_view plain) {
  static constexpr std::string_view digits = "0123456789ABCDEF";
  std::string text;
  for (const char each : plain) {
    const auto byte = static_cast<unsigned char>(each);
    if (each == '?' || each == '%' || byte <= ' ' || byte >= 0x7f) {
      text.append({'%', digits[byte / 16], digits[byte % 16]});
    } else {
      text.push_back(each);
    }
  }
  return text;
}

// One field of link_options: where it is, and what it may be.
struct field {
  std::string_view name;
  std::uint64_t lowest;
  std::uint64_t highest;
  std::size_t count;
  std::uint64_t (*get)(const link_options&, std::size_t);
  void (*set)(link_options&, std::size_t, std::uint64_t);
};

template <auto Member>
constexpr field number(std::string_view name, std::uint64_t lowest, std::uint64_t highest) {
  using type = std::remove_cvref_t<decltype(std::declval<link_options>().*Member)>;
  return {name, lowest, highest, 1,
          [](const link_options& from, std::size_t) {
            return static_cast<std::uint64_t>(from.*Member);
          },
          [](link_options& to, std::size_t, std::uint64_t value) {
            to.*Member = static_cast<type>(value);
          }};
}

template <auto Member>
constexpr field numbers(std::string_view name, std::uint64_t lowest, std::uint64_t highest) {
  using type = std::remove_cvref_t<decltype((std::declval<link_options>().*Member)[0])>;
  return {name, lowest, highest, 4,
          [](const link_options& from, std::size_t i) {
            return static_cast<std::uint64_t>((from.*Member)[i]);
          },
          [](link_options& to, std::size_t i, std::uint64_t value) {
            (to.*Member)[i] = static_cast<type>(value);
          }};
}

// A negative duration reads as a huge number here, and so as out of range.
template <auto Member>
constexpr field duration(std::string_view name, std::uint64_t lowest, std::uint64_t highest) {
  return {name, lowest, highest, 1,
          [](const link_options& from, std::size_t) {
            return static_cast<std::uint64_t>((from.*Member).count());
          },
          [](link_options& to, std::size_t, std::uint64_t value) {
            to.*Member = std::chrono::milliseconds(static_cast<std::int64_t>(value));
          }};
}

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t mib = 1024 * kib;
constexpr std::uint64_t day_ms = 86'400'000;

constexpr std::array fields{
    number<&link_options::channels>("channels", 1, 4),
    numbers<&link_options::max_message_bytes>("max_message_bytes", kib, 1024 * mib),
    numbers<&link_options::window_bytes>("window_bytes", 64 * kib, 1024 * mib),
    number<&link_options::urgent_window_bytes>("urgent_window_bytes", 4 * kib, 64 * kib),
    number<&link_options::queue_bytes>("queue_bytes", 64 * kib, 4096 * mib),
    number<&link_options::reassembly_bytes>("reassembly_bytes", mib, 16'384 * mib),
    number<&link_options::pinned_bytes>("pinned_bytes", 0, 4096 * mib),
    number<&link_options::socket_buffer_bytes>("socket_buffer_bytes", 0, 256 * mib),
    number<&link_options::share_memory>("share_memory", 0, 1),
    numbers<&link_options::ring_bytes>("ring_bytes", shm::ring_size_min, shm::ring_size_max),
    number<&link_options::shared_bytes>("shared_bytes", 64 * kib, 1024 * mib),
    number<&link_options::arena_bytes>("arena_bytes", 0, shm::arena_bytes_max),
    number<&link_options::lend_from_bytes>("lend_from_bytes", 4 * kib, 1024 * mib),
    number<&link_options::pass_files>("pass_files", 0, 2),
    number<&link_options::huge_pages>("huge_pages", 0, 1),
    number<&link_options::early>("early", 0, 1),
    duration<&link_options::handshake_timeout>("handshake_timeout", 1, day_ms),
    duration<&link_options::close_timeout>("close_timeout", 1, day_ms),
    duration<&link_options::keepalive>("keepalive", 10, day_ms),
    duration<&link_options::keepalive_timeout>("keepalive_timeout", 10, day_ms),
    duration<&link_options::survive>("survive", 0, day_ms),
    duration<&link_options::backoff>("backoff", 1, day_ms),
    duration<&link_options::backoff_most>("backoff_most", 1, day_ms),
    numbers<&link_options::resend>("resend", 0, 1),
};

[[noreturn]] void bad_value(const field& which, std::string_view value) {
  failure(errc::bad_config, "link_options::" + std::string(which.name) + " is " +
                                std::string(value) + ", accepted are " +
                                std::to_string(which.lowest) + " to " +
                                std::to_string(which.highest))
      .raise();
}

void apply_option(std::string_view name, const std::string& value, std::string_view uri,
                  link_options& options) {
  const field* which = nullptr;
  for (const field& each : fields) {
    if (each.name == name) which = &each;
  }
  if (which == nullptr) bad_uri(uri, "unknown option '" + std::string(name) + "'");
  std::array<std::uint64_t, 4> values{};
  std::size_t count = 0;
  const char* at = value.data();
  const char* const end = value.data() + value.size();
  while (true) {
    if (count == which->count) bad_value(*which, value);
    const auto [next, error] = std::from_chars(at, end, values[count]);
    if (error != std::errc() || next == at) bad_value(*which, "'" + value + "'");
    ++count;
    if (next == end) break;
    if (*next != ',') bad_value(*which, "'" + value + "'");
    at = next + 1;
  }
  if (count != 1 && count != which->count) bad_value(*which, "'" + value + "'");
  for (std::size_t i = 0; i < which->count; ++i) which->set(options, i, values[count == 1 ? 0 : i]);
}

void apply_query(std::string_view query, std::string_view uri, link_options& options) {
  while (!query.empty()) {
    const std::string_view one = query.substr(0, query.find('&'));
    query.remove_prefix(one.size() == query.size() ? one.size() : one.size() + 1);
    const std::size_t equals = one.find('=');
    if (equals == std::string_view::npos) {
      bad_uri(uri, "option '" + std::string(one) + "' has no value");
    }
    apply_option(one.substr(0, equals), decode(one.substr(equals + 1), uri), uri, options);
  }
}

void read_authority(std::string_view authority, std::string_view uri, endpoint& to) {
  const std::size_t colon = authority.rfind(':');
  if (colon == std::string_view::npos || colon + 1 == authority.size()) {
    bad_uri(uri, "a port is missing after the host");
  }
  std::string_view host = authority.substr(0, colon);
  const std::string_view port = authority.substr(colon + 1);
  if (!host.empty() && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    bad_uri(uri, "an IPv6 host belongs into brackets");
  }
  unsigned number = 0;
  const auto [next, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || next != port.data() + port.size() || number > 65'535) {
    bad_uri(uri, "the port is not a number from 0 to 65535");
  }
  to.host = decode(host, uri);
  to.port = std::string(port);
}

bool take_prefix(std::string_view& text, std::string_view prefix) noexcept {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

endpoint parse_uri(std::string_view uri, link_options& options) {
  endpoint to;
  const std::size_t mark = uri.find('?');
  std::string_view rest = uri.substr(0, mark);
  if (take_prefix(rest, "tcp://")) {
    to.scheme = scheme::tcp;
    read_authority(rest, uri, to);
  } else if (rest.starts_with("unix:") || rest.starts_with("shm:")) {
    to.scheme = scheme::unix_socket;
    to.must_share = take_prefix(rest, "shm:");
    take_prefix(rest, "unix:");
    take_prefix(rest, "//");
    to.name = decode(rest, uri);
    if (to.name.empty()) bad_uri(uri, "a path is missing");
  } else if (take_prefix(rest, "inproc:")) {
    to.scheme = scheme::inproc;
    to.name = decode(rest, uri);
    if (to.name.empty()) bad_uri(uri, "a name is missing");
  } else {
    bad_uri(uri, "expected tcp://host:port, unix:/path, shm:/path or inproc:name");
  }
  if (mark != std::string_view::npos) apply_query(uri.substr(mark + 1), uri, options);
  if (to.must_share) options.share_memory = true;
  check(options);
  return to;
}

void check(const link_options& options) {
  for (const field& each : fields) {
    for (std::size_t i = 0; i < each.count; ++i) {
      const std::uint64_t value = each.get(options, i);
      if (value < each.lowest || value > each.highest) {
        bad_value(each, std::to_string(static_cast<std::int64_t>(value)));
      }
    }
  }
  for (const std::size_t each : options.ring_bytes) {
    if (std::has_single_bit(each)) continue;
    failure(errc::bad_config,
            "link_options::ring_bytes is " + std::to_string(each) + ", accepted are powers of two")
        .raise();
  }
  if (options.arena_bytes != 0 && !shm::is_arena_size(options.arena_bytes)) {
    failure(errc::bad_config,
            "link_options::arena_bytes is " + std::to_string(options.arena_bytes) +
                ", accepted are 0 and powers of two from " + std::to_string(shm::arena_bytes_min))
        .raise();
  }
  if (options.channels != 1 && options.channels != wire::socket_count) {
    failure(errc::bad_config, "link_options::channels is " + std::to_string(options.channels) +
                                  ", accepted are 1 and 4")
        .raise();
  }
}

std::string to_uri(const endpoint& address) {
  switch (address.scheme) {
    case scheme::tcp: {
      const bool bracket = address.host.find(':') != std::string::npos;
      const std::string host = encode(address.host);
      return "tcp://" + (bracket ? "[" + host + "]" : host) + ":" + address.port;
    }
    case scheme::unix_socket:
      return (address.must_share ? "shm:" : "unix:") +
             std::string(address.name.starts_with("//") ? "//" : "") + encode(address.name);
    case scheme::inproc:
      return "inproc:" + encode(address.name);
  }
  return {};
}

}  // namespace hawser::detail
