// SPDX-License-Identifier: Apache-2.0
// The main of all tests: doctest's, plus a seed, a backend, and honest exit codes.
//
//   0 every selected case passed   1 one failed, or none was selected   77 one could not run here
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <random>
#include <string_view>

#include "support/environment.hpp"

namespace {

constexpr int exit_failed = 1;
constexpr int exit_skipped = 77;

// Filled by the listener: doctest's own result does not tell "all passed" from "none matched".
unsigned cases_selected = 0;

struct counting_listener : doctest::IReporter {
  explicit counting_listener(const doctest::ContextOptions& /*options*/) {}

  void report_query(const doctest::QueryData& /*data*/) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& stats) override {
    cases_selected = stats.numTestCasesPassingFilters;
  }
  void test_case_start(const doctest::TestCaseData& /*data*/) override {}
  void test_case_reenter(const doctest::TestCaseData& /*data*/) override {}
  void test_case_end(const doctest::CurrentTestCaseStats& /*stats*/) override {}
  void test_case_exception(const doctest::TestCaseException& /*exception*/) override {}
  void subcase_start(const doctest::SubcaseSignature& /*signature*/) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData& /*data*/) override {}
  void log_message(const doctest::MessageData& /*data*/) override {}
  void test_case_skipped(const doctest::TestCaseData& /*data*/) override {}
};

REGISTER_LISTENER("counting", 1, counting_listener);

std::optional<std::uint64_t> parse(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// --seed=N before HAWSER_TEST_SEED=N before a random one; nothing if the text is no number.
std::optional<std::uint64_t> choose_seed(int argc, char** argv) {
  constexpr std::string_view option = "--seed=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with(option)) return parse(argument.substr(option.size()));
  }
  if (const char* const text = std::getenv("HAWSER_TEST_SEED")) return parse(text);
  return std::random_device{}();
}

bool backend_is_known() {
  const auto name = test::backend();
  return name.empty() || name == "io_uring" || name == "asio";
}

}  // namespace

int main(int argc, char** argv) {
  const auto seed = choose_seed(argc, argv);
  if (!seed) {
    std::cerr << "hawser_tests: the seed must be a number from 0 to 2^64-1\n";
    return exit_failed;
  }
  if (!backend_is_known()) {
    std::cerr << "hawser_tests: HAWSER_TEST_BACKEND must be io_uring or asio, not "
              << test::backend() << '\n';
    return exit_failed;
  }
  test::set_seed(*seed);

  doctest::Context context(argc, argv);
  if (!context.shouldExit()) {
    const auto backend = test::backend();
    std::cout << "[hawser_tests] seed " << *seed << ", backend "
              << (backend.empty() ? "default" : backend) << std::endl;
  }
  const int result = context.run();
  if (context.shouldExit()) return result;  // a query such as --list-test-cases
  if (cases_selected == 0) {
    std::cerr << "hawser_tests: no test case matches the filters\n";
    return exit_failed;
  }
  if (result == 0 && test::skip_count() > 0) {
    std::cout << "[hawser_tests] " << test::skip_count() << " of " << cases_selected
              << " cases could not run on this machine\n";
    return exit_skipped;
  }
  return result;
}
