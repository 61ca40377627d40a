// SPDX-License-Identifier: Apache-2.0
#include "hawser/result.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <set>
#include <string>

TEST_SUITE("result") {
  using hawser::errc;
  using hawser::failure;
  using hawser::result;

  TEST_CASE("every errc has a text of its own") {
    std::set<std::string> texts;
    for (int code = 1; code <= 15; ++code) {
      texts.insert(make_error_code(static_cast<errc>(code)).message());
    }

    CHECK(texts.size() == 15);
    CHECK(hawser::hawser_category().name() == std::string("hawser"));
    CHECK(std::error_code(99, hawser::hawser_category()).message() == "unknown error 99");
  }

  TEST_CASE("what the standard has a name for equals it") {
    CHECK(make_error_code(errc::timed_out) == std::errc::timed_out);
    CHECK(make_error_code(errc::cancelled) == std::errc::operation_canceled);
    CHECK(make_error_code(errc::closed) != std::errc::timed_out);
  }

  TEST_CASE("a failure comes through an exception unchanged") {
    const failure before(errc::refused, "tcp://a:1");

    try {
      before.raise();
    } catch (const std::system_error& error) {
      const failure after(error);
      CHECK(after.code() == errc::refused);
      CHECK(after.detail() == "tcp://a:1");
      CHECK(after.text() == "tcp://a:1: refused by the peer");
      CHECK(after.text() == error.what());
    }
  }

  TEST_CASE("the detail of a failure is one line, whatever was put into it") {
    const hawser::failure odd(errc::refused, std::string("a\0b\n\x1b[31mc\x7f", 11));
    CHECK(odd.detail() == "a\\x00b\\x0a\\x1b[31mc\\x7f");
    CHECK(hawser::failure(errc::refused, "caf\xc3\xa9 \\x00").detail() == "caf\xc3\xa9 \\x00");
  }

  TEST_CASE("a failure without detail comes through an exception without detail") {
    const failure before(errc::closed);

    try {
      before.raise();
    } catch (const std::system_error& error) {
      CHECK(failure(error).detail().empty());
      CHECK(failure(error).text() == "closed");
    }
  }

  TEST_CASE("a result holds a value that can only be moved") {
    result<std::unique_ptr<int>> held(std::make_unique<int>(3));

    REQUIRE(held);
    CHECK(*held.value() == 3);
    const std::unique_ptr<int> taken = std::move(held).value();
    CHECK(*taken == 3);
  }

  TEST_CASE("value() of a failure throws it") {
    const result<int> failed{failure(errc::too_large, "frame")};
    const result<void> nothing{failure(errc::closed)};

    CHECK_FALSE(failed.has_value());
    CHECK(failed.error().code() == errc::too_large);
    CHECK_THROWS_WITH_AS(static_cast<void>(failed.value()), "frame: too large", std::system_error);
    CHECK_THROWS_AS(nothing.value(), std::system_error);
    CHECK(result<void>().has_value());
  }
}
