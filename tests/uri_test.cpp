// SPDX-License-Identifier: Apache-2.0
#include "link/uri.hpp"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "support/links.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::link_options;
using hawser::detail::parse_uri;
using hawser::detail::scheme;
using hawser::detail::to_uri;

// What is wrong with an address, as code and text.
hawser::failure fault_of(std::string_view uri) {
  const auto parsed = test::outcome_of([&] {
    link_options options;
    static_cast<void>(parse_uri(uri, options));
  });
  return parsed.has_value() ? hawser::failure(errc::closed, "accepted") : parsed.error();
}

void expect_fault(std::string_view uri, errc code, std::string_view text) {
  CAPTURE(std::string(uri));
  const auto fault = fault_of(uri);
  CAPTURE(fault.text());
  CHECK(fault.code() == code);
  CHECK(fault.text().find(text) != std::string::npos);
}

}  // namespace

TEST_SUITE("uri") {
  TEST_CASE("an address is taken apart and put together again") {
    link_options options;
    const auto tcp = parse_uri("tcp://example.org:1234", options);
    CHECK(tcp.scheme == scheme::tcp);
    CHECK(tcp.host == "example.org");
    CHECK(tcp.port == "1234");
    CHECK(to_uri(tcp) == "tcp://example.org:1234");
    CHECK(parse_uri("tcp://:80", options).host.empty());
    const auto six = parse_uri("tcp://[::1]:80", options);
    CHECK(six.host == "::1");
    CHECK(to_uri(six) == "tcp://[::1]:80");
    const auto file = parse_uri("unix:/run/a%20b%3f.sock", options);
    CHECK(file.scheme == scheme::unix_socket);
    CHECK(file.name == "/run/a b?.sock");
    CHECK(to_uri(file) == "unix:/run/a%20b%3F.sock");
    CHECK(parse_uri("unix:///run/a", options).name == "/run/a");
    const auto name = parse_uri("inproc:here", options);
    CHECK(name.scheme == scheme::inproc);
    CHECK(name.name == "here");
    CHECK(to_uri(name) == "inproc:here");
  }

  TEST_CASE("what was written reads the same, whatever is in the names") {
    for (const std::string_view uri : {"unix:////a", "unix:////", "unix://%2Fa", "tcp://a%25b:1",
                                       "tcp://%20:0", "tcp://[fe80::1%25eth0]:9", "inproc://a"}) {
      CAPTURE(std::string(uri));
      link_options options;
      const auto read = parse_uri(uri, options);
      const auto again = parse_uri(to_uri(read), options);
      CHECK(again.name == read.name);
      CHECK(again.host == read.host);
      CHECK(again.port == read.port);
    }
  }

  TEST_CASE("options of the address win over those of the program") {
    link_options options;
    options.channels = 4;
    static_cast<void>(parse_uri("tcp://h:1?channels=1&max_message_bytes=2048,4096,8192,16384"
                                "&window_bytes=131072&close_timeout=7&keepalive=1%30%30",
                                options));
    CHECK(options.channels == 1);
    CHECK(options.max_message_bytes == std::array<std::size_t, 4>{2048, 4096, 8192, 16384});
    CHECK(options.window_bytes == std::array<std::size_t, 4>{131072, 131072, 131072, 131072});
    CHECK(options.close_timeout == 7ms);
    CHECK(options.keepalive == 100ms);
  }

  TEST_CASE("an address that cannot be understood is named with what is wrong in it") {
    for (const std::string_view uri : {"", "tcp", "http://h:1", "tcp:/h:1", "udp://h:1"}) {
      expect_fault(uri, errc::bad_uri, "expected tcp://host:port");
    }
    for (const std::string_view uri : {"tcp://", "tcp://host", "tcp://host:"}) {
      expect_fault(uri, errc::bad_uri, "a port is missing");
      expect_fault(uri, errc::bad_uri, uri);
    }
    for (const std::string_view uri : {"tcp://h:x", "tcp://h:1x", "tcp://h:65536", "tcp://h:-1"}) {
      expect_fault(uri, errc::bad_uri, "the port is not a number from 0 to 65535");
    }
    expect_fault("tcp://::1:80", errc::bad_uri, "brackets");
    expect_fault("unix:", errc::bad_uri, "a path is missing");
    expect_fault("unix://", errc::bad_uri, "a path is missing");
    expect_fault("inproc:", errc::bad_uri, "a name is missing");
    for (const std::string_view uri : {"unix:/a%", "unix:/a%4", "unix:/a%4x", "unix:/%x4b"}) {
      expect_fault(uri, errc::bad_uri, "'%' must be followed by two hexadecimal digits");
    }
    expect_fault("unix:/a%00b", errc::bad_uri, "zero byte");
    expect_fault("tcp://h:1?fast=1", errc::bad_uri, "unknown option 'fast'");
    expect_fault("tcp://h:1?channels", errc::bad_uri, "option 'channels' has no value");
  }

  TEST_CASE("a zero byte, which would end a path early, is refused, written as it may be") {
    using namespace std::string_view_literals;
    expect_fault("unix:/run/a\0b"sv, errc::bad_uri, "zero byte");
    expect_fault("unix:/run/a%00b", errc::bad_uri, "zero byte");
    expect_fault("tcp://a\0:1"sv, errc::bad_uri, "zero byte");
    expect_fault("inproc:\0"sv, errc::bad_uri, "zero byte");
  }

  TEST_CASE("a value out of range is named with its field and the range") {
    expect_fault("tcp://h:1?channels=0", errc::bad_config, "link_options::channels is 0");
    expect_fault("tcp://h:1?channels=5", errc::bad_config, "accepted are 1");
    for (const char* const uri : {"tcp://h:1?channels=2", "tcp://h:1?channels=3"}) {
      expect_fault(uri, errc::bad_config, "accepted are 1 and 4");
    }
    for (const std::string_view value :
         {"", "x", "1x", "-1", "1,", "1,1", "99999999999999999999"}) {
      expect_fault("tcp://h:1?channels=" + std::string(value), errc::bad_config, "channels is");
    }
    expect_fault("tcp://h:1?window_bytes=1,2", errc::bad_config, "link_options::window_bytes is");
    expect_fault("tcp://h:1?window_bytes=1,2,3,4,5", errc::bad_config, "window_bytes is");
    expect_fault("tcp://h:1?window_bytes=100", errc::bad_config, "65536 to 1073741824");
    expect_fault("tcp://h:1?keepalive=9", errc::bad_config, "10 to 86400000");
    expect_fault("tcp://h:1?close_timeout=0", errc::bad_config, "close_timeout is 0");
    expect_fault("unix:/s?ring_bytes=65536,65536,70000,65536", errc::bad_config,
                 "link_options::ring_bytes is 70000, accepted are powers of two");
    for (const char* const bytes : {"4096", "300000"}) {
      expect_fault("unix:/s?arena_bytes=" + std::string(bytes), errc::bad_config,
                   "accepted are 0 and powers of two from 262144");
    }
    expect_fault("unix:/s?pass_files=3", errc::bad_config, "pass_files is 3, accepted are 0 to 2");
    link_options options;
    options.handshake_timeout = -1ms;
    const auto negative = test::outcome_of([&] { hawser::detail::check(options); });
    CHECK(negative.error().code() == errc::bad_config);
    CHECK(negative.error().text().find("handshake_timeout is -1,") != std::string::npos);
  }
}
