// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <filesystem>
#include <regex>
#include <string>
#include <string_view>

#include "tidy/source.hpp"

namespace {

const std::filesystem::path root = HAWSER_SOURCE_DIR;

// What stands between the first ```cpp and the next ```, or nothing.
std::string first_example(std::string_view page) {
  constexpr std::string_view opening = "```cpp\n";
  const auto open = page.find(opening);
  if (open == std::string_view::npos) return {};
  const auto body = page.substr(open + opening.size());
  return std::string(body.substr(0, body.find("```")));
}

std::string without_first_line(const std::string& text) {
  return text.substr(text.find('\n') + 1);
}

}  // namespace

TEST_SUITE("readme") {
  TEST_CASE("the example is found between its fences") {
    CHECK(first_example("a\n```cpp\nint x;\n```\n```cpp\nint y;\n```\n") == "int x;\n");
    CHECK(first_example("```sh\nls\n```\n").empty());
  }

  // The sample is compiled with all others, so the example of the README compiles too.
  TEST_CASE("the example of the README is samples/echo.cpp, below its licence") {
    const auto example = first_example(tidy::read_file(root / "README.md"));
    const auto sample = tidy::read_file(root / "samples" / "echo.cpp");

    CHECK_FALSE(example.empty());
    CHECK(example == without_first_line(sample));
  }

  TEST_CASE("every path that the README names exists") {
    const auto page = tidy::read_file(root / "README.md");
    static const std::regex path(R"(`((samples|tests|bench|src|include|hawser|\.ci)/[\w./]+))");
    int named = 0;
    for (std::sregex_iterator it(page.begin(), page.end(), path), end; it != end; ++it, ++named) {
      const auto name = (*it)[1].str();
      const bool there = exists(root / name) || exists(root / "include" / name);
      CHECK_MESSAGE(there, name);
    }
    CHECK(named > 5);
  }
}
