// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <regex>
#include <string>
#include <string_view>

#include "hawser/hawser.hpp"
#include "support/config.hpp"
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

std::string example_below(std::string_view heading, std::string_view page) {
  const auto begin = page.find(heading);
  return begin == std::string_view::npos ? "" : first_example(page.substr(begin));
}

// The examples of the README, to be compared with it and run.
hawser::executor_config run_configuration() {
  // from here: configuration
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

hawser::task<void> run_survival(std::string uri) {
  // from here: survival
  hawser::link_options options;
  options.survive = 1min;                        // here, and in the options of the listener
  options.resend = {false, true, false, false};  // rpc: once more what was not consumed
  const auto link = co_await hawser::connect(uri, options);

  auto status = co_await link.changed();
  while (status.now != hawser::link::condition::ended) {
    const bool is_open = status.now == hawser::link::condition::open;
    std::cout << (is_open ? "open" : "offline") << (status.resumed ? ", resumed" : "") << std::endl;
    status = co_await link.changed(status);
  }
  // to here
}

// The lines of a test's source between two marks, without what indents them.
std::string marked_lines(const std::string& mark, const std::string& file = "readme_test.cpp") {
  const auto source = tidy::read_file(root / "tests" / file);
  const std::string from = "  // from here: " + mark + "\n";
  const auto begin = source.find(from) + from.size();
  const auto body = source.substr(begin, source.find("  // to here\n", begin) - begin);
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

  TEST_CASE("the example of a configuration runs, as it stands there") {
    const auto page = tidy::read_file(root / "README.md");
    CHECK(example_below("## Configure it", page) == marked_lines("configuration"));
    CHECK(run_configuration().stall_threshold > 0ms);
  }

  TEST_CASE("the example of a link that survives runs, as it stands there") {
    const auto page = tidy::read_file(root / "README.md");
    CHECK(example_below("## When a connection breaks", page) == marked_lines("survival"));

    hawser::runtime runtime(test::config());
    auto listener = hawser::listen(runtime, "inproc:readme");
    hawser::run(runtime, [&](hawser::scope& inside) -> hawser::task<void> {
      inside.spawn(run_survival("inproc:readme"));
      const auto link = co_await listener.accept();
      co_await link.close();
    });
  }

  TEST_CASE("the example of Asio stands in a test that runs it") {
    const auto shown = example_below("## Inside a loop", tidy::read_file(root / "README.md"));
    CHECK_FALSE(shown.empty());
    CHECK(shown == marked_lines("bridge", "asio_bridge_test.cpp"));
  }

  TEST_CASE("the example of a migration stands in a test that runs it") {
    const auto page = tidy::read_file(root / "src" / "shm" / "README.md");
    const auto shown = example_below("### Migrating", page);
    CHECK_FALSE(shown.empty());
    CHECK(shown == marked_lines("migration", "shm_stream_test.cpp"));
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
