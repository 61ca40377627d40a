// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <getopt.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace bench {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

// ---- the command line -------------------------------------------------------------------------

enum class action : std::uint8_t { run, list, all, help };

struct command {
  action what = action::run;
  run_plan plan;
  std::vector<std::string> words;  // BENCH CASE IMPL
};

constexpr int first_own = 256;  // above all characters

std::vector<option> known_options(const std::vector<own_option>& own) {
  std::vector<option> all{{"seconds", required_argument, nullptr, 's'},
                          {"count", required_argument, nullptr, 'c'},
                          {"list", no_argument, nullptr, 'l'},
                          {"all", no_argument, nullptr, 'a'},
                          {"help", no_argument, nullptr, 'h'}};
  int value = first_own;
  for (const auto& one : own) all.push_back({one.name, required_argument, nullptr, value++});
  all.push_back({nullptr, 0, nullptr, 0});
  return all;
}

void take(int found, command& into, const std::vector<own_option>& own) {
  switch (found) {
    case 's':
      into.plan.wanted = seconds(positive_number(optarg));
      break;
    case 'c':
      into.plan.fixed_count = static_cast<std::uint64_t>(positive_number(optarg));
      break;
    case 'l':
      into.what = action::list;
      break;
    case 'a':
      into.what = action::all;
      break;
    case 'h':
      into.what = action::help;
      break;
    case '?':
      throw std::invalid_argument("try --help");
    default:
      own[static_cast<std::size_t>(found - first_own)].take(optarg);
  }
}

command parse(int argc, char** argv, const std::vector<own_option>& own) {
  const auto known = known_options(own);
  command parsed;
  for (int found = 0; (found = ::getopt_long(argc, argv, "h", known.data(), nullptr)) != -1;) {
    take(found, parsed, own);
  }
  parsed.words.assign(argv + optind, argv + argc);
  if (parsed.words.size() != (parsed.what == action::run ? 3 : 0)) {
    throw std::invalid_argument("try --help");
  }
  return parsed;
}

// ---- choices ----------------------------------------------------------------------------------

std::vector<choice> choices_of_this_machine(const std::vector<choice>& choices) {
  const auto cores = allowed_cores().size();
  std::vector<choice> kept;
  std::copy_if(choices.begin(), choices.end(), std::back_inserter(kept),
               [cores](const choice& one) { return one.cores <= cores; });
  return kept;
}

const choice& choose(const std::vector<choice>& choices, const std::vector<std::string>& words) {
  const auto chosen = std::find_if(choices.begin(), choices.end(), [&](const choice& one) {
    return std::equal(one.name.begin(), one.name.end(), words.begin());
  });
  if (chosen != choices.end()) return *chosen;
  throw std::invalid_argument("no benchmark '" + words[0] + " " + words[1] + " " + words[2] +
                              "' here: --list names them");
}

void print_name(const choice& one) {
  const auto& [bench, kind, impl] = one.name;
  std::printf("%s %s %s\n", bench.c_str(), kind.c_str(), impl.c_str());
}

void measure(const choice& what, const run_plan& plan) {
  const auto& [bench, kind, impl] = what.name;
  for (const auto& one : what.run(plan)) {
    std::printf(R"({"bench":"%s","case":"%s","impl":"%s","metric":"%s","unit":"%s","value":%.6g})"
                "\n",
                bench.c_str(), kind.c_str(), impl.c_str(), one.metric.c_str(), one.unit.c_str(),
                one.value);
  }
  std::fflush(stdout);
}

}  // namespace

// ---- figures and rounds -----------------------------------------------------------------------

double percentile_us(std::vector<clock::duration> times, double share) {
  if (times.empty()) throw std::logic_error("nothing was timed");
  const auto rank = static_cast<std::size_t>(share * static_cast<double>(times.size() - 1));
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(times.begin(), at, times.end());
  return std::chrono::duration<double, std::micro>(*at).count();
}

std::uint64_t rounds::next(seconds taken) {
  if (counts_) return 0;
  if (plan_.fixed_count != 0) {
    counts_ = true;
    count_ = plan_.fixed_count;
  } else if (limits_.rate != 0) {
    counts_ = count_ != 0;
    count_ = at_rate();
  } else if (count_ == 0) {
    count_ = limits_.smallest;
  } else {
    count_ = grown(taken);
    counts_ = taken > plan_.wanted / 8 || count_ == limits_.largest;
  }
  return count_;
}

// A short one to warm up, then the one that counts.
std::uint64_t rounds::at_rate() const {
  const double all = limits_.rate * plan_.wanted.count() / (counts_ ? 1 : 8);
  return std::max(static_cast<std::uint64_t>(all), limits_.smallest);
}

// At most 16 times the last round: the first ones are slower than what follows.
std::uint64_t rounds::grown(seconds taken) const {
  const double factor = std::clamp(plan_.wanted / std::max(taken, seconds(1us)), 0.01, 16.0);
  const auto count = static_cast<std::uint64_t>(factor * static_cast<double>(count_));
  const auto most = limits_.largest == 0 ? count : limits_.largest;
  return std::clamp(count, limits_.smallest, std::max(most, limits_.smallest));
}

// ---- the program ------------------------------------------------------------------------------

std::vector<int> allowed_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    throw std::system_error(errno, std::generic_category(), "sched_getaffinity");
  }
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  return cores;
}

scratch_folder::scratch_folder() : path_(fs::temp_directory_path() / "hawser-bench-XXXXXX") {
  if (::mkdtemp(path_.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), path_);
  }
}

scratch_folder::~scratch_folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

double positive_number(const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value > 0)) {
    throw std::invalid_argument("'" + std::string(text) + "' is not a positive number");
  }
  return value;
}

int run_program(int argc, char** argv, std::string_view usage, const std::vector<choice>& choices,
                const std::vector<own_option>& own) try {
  const auto asked = parse(argc, argv, own);
  switch (asked.what) {
    case action::help:
      std::fputs(usage.data(), stdout);
      break;
    case action::list:
      for (const auto& one : choices_of_this_machine(choices)) print_name(one);
      break;
    case action::all:
      for (const auto& one : choices_of_this_machine(choices)) measure(one, asked.plan);
      break;
    case action::run:
      measure(choose(choices, asked.words), asked.plan);
      break;
  }
  return 0;
} catch (const std::exception& problem) {
  std::fprintf(stderr, "%s:", argv[0]);
  for (int i = 1; i < argc; ++i) std::fprintf(stderr, " %s", argv[i]);
  std::fprintf(stderr, ": %s\n", problem.what());
  return 1;
}

}  // namespace bench
