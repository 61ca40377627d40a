// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <regex>
#include <string>
#include <string_view>

#include "hawser/hawser.hpp"
#include "tidy/source.hpp"

namespace {

using namespace std::chrono_literals;

const std::filesystem::path root = HAWSER_SOURCE_DIR;

constexpr std::string_view opening = "```cpp\n";

// What stands between the first ```cpp and the next ```, or nothing.
std::string first_example(std::string_view page) {
  const auto open = page.find(opening);
  if (open == std::string_view::npos) return {};
  const auto body = page.substr(open + opening.size());
  return std::string(body.substr(0, body.find("```")));
}

std::string second_example(std::string_view page) {
  const auto open = page.find(opening);
  return open == std::string_view::npos ? "" : first_example(page.substr(open + opening.size()));
}

// The second example of the README, to be compared with it and run.
hawser::executor_config run_second_example() {
  // from here
  auto config = hawser::executor_config::parse("throughput threads=2 weights=8:4:2:1");  // text
  config.stall_threshold = 50ms;                               // code
  config = hawser::executor_config::from_environment(config);  // HAWSER_SPIN=off ./program
  hawser::runtime runtime(config);

  hawser::runtime::adjustment change;  // while it runs: spin, weights, max_workers
  change.weights = std::array{64U, 32U, 16U, 4U};
  runtime.adjust(change);
  const hawser::runtime_stats stats = runtime.stats();
  // to here
  CHECK(stats.workers.size() == config.threads);
  return config;
}

// The lines of a source between the two marks, without what indents them.
std::string marked_lines(const std::string& source) {
  const std::string from = "  // from here\n";
  const auto begin = source.find(from) + from.size();
  const auto body = source.substr(begin, source.find("  // to here\n") - begin);
  static const std::regex indent("(^|\n)  ");
  return std::regex_replace(body, indent, "$1");
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

  TEST_CASE("the second example of the README runs, as it stands there") {
    const auto example = second_example(tidy::read_file(root / "README.md"));

    CHECK_FALSE(example.empty());
    CHECK(example == marked_lines(tidy::read_file(root / "tests" / "readme_test.cpp")));
    CHECK(run_second_example().stall_threshold > 0ms);
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
