// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <filesystem>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tidy/rules.hpp"
#include "tidy/source.hpp"

namespace {

namespace fs = std::filesystem;

const fs::path& root() {
  static const fs::path path = HAWSER_SOURCE_DIR;
  return path;
}

const std::vector<tidy::source>& tree() {
  static const auto files = tidy::load_tree(root());
  return files;
}

bool is_cmake(const fs::path& path) {
  return path.filename() == "CMakeLists.txt" || path.extension() == ".cmake" ||
         path.string().ends_with(".cmake.in");
}

// Every file that cmake reads, the build trees left out.
std::vector<fs::path> cmake_files() {
  std::vector<fs::path> found = {root() / "CMakeLists.txt"};
  for (const char* folder : {"src", "tests", "bench", "samples"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root() / folder)) {
      if (is_cmake(entry.path())) found.push_back(entry.path());
    }
  }
  return found;
}

// The words of all cmake files, each as a path from the top: a name in tests/CMakeLists.txt stands
// for tests/name.
std::set<std::string> names_in_cmake() {
  std::set<std::string> names;
  static const std::regex word(R"([\w./-]+\.[ch]pp)");
  for (const auto& path : cmake_files()) {
    const auto text = tidy::read_file(path);
    const auto folder = fs::relative(path.parent_path(), root());
    for (std::sregex_iterator it(text.begin(), text.end(), word), end; it != end; ++it) {
      names.insert((folder / it->str()).lexically_normal().generic_string());
    }
  }
  return names;
}

// The first thing a file includes, without quotes, or nothing.
std::string first_include(const tidy::source& file) {
  static const std::regex include(R"re(^#include [<"]([^>"]+)[>"])re");
  for (const auto& line : file.text) {
    std::smatch match;
    if (std::regex_search(line, match, include)) return match[1];
  }
  return {};
}

}  // namespace

TEST_SUITE("tidy") {
  TEST_CASE("every rule catches its own violations and accepts its counter-examples") {
    for (const auto& rule : tidy::rules()) {
      CHECK_MESSAGE(!rule.caught.empty(), rule.says);
      for (const auto& file : rule.caught) {
        CHECK_MESSAGE(!rule.find(file).empty(), rule.says << ": misses " << file.text.front());
      }
      for (const auto& file : rule.accepted) {
        CHECK_MESSAGE(rule.find(file).empty(), rule.says << ": refuses " << file.text.front());
      }
    }
  }

  TEST_CASE("no file breaks a rule") {
    REQUIRE(tree().size() > 5);
    for (const auto& file : tree()) {
      for (const auto& rule : tidy::rules()) {
        for (const int line : rule.find(file)) {
          FAIL_CHECK(file.path << ":" << line << ": " << rule.says);
        }
      }
    }
  }

  TEST_CASE("prose is blanked and code is kept") {
    CHECK(tidy::blank_prose("a; // b\nc") == "a;     \nc");
    CHECK(tidy::blank_prose("a /* b\n */ c") == "a     \n    c");
    CHECK(tidy::blank_prose(R"x(f("a\"b", 'c'))x") == R"x(f("    ", ' '))x");
    CHECK(tidy::blank_prose("R\"y(a\"b)y\" + c") == "R\"       \" + c");
    CHECK(tidy::blank_prose("20'000 + x; // '") == "20'000 + x;     ");
  }

  TEST_CASE("every source is named in a CMakeLists.txt, so that none is left out of the build") {
    const auto names = names_in_cmake();
    for (const auto& file : tree()) {
      const bool must_be_named = !file.is_header() || file.top() == "include";
      if (must_be_named) CHECK_MESSAGE(names.count(file.path) == 1, file.path);
    }
  }

  TEST_CASE("every suite is registered with ctest, so that none is left out of the run") {
    static const std::regex suite(R"re(^\s*TEST_SUITE\("([^"]+)"\))re");
    std::string cmake;
    for (const auto& path : cmake_files()) {
      if (path.parent_path() == root() / "tests") cmake += tidy::read_file(path);
    }
    for (const auto& file : tree()) {
      if (file.top() != "tests") continue;
      for (const auto& line : file.text) {
        std::smatch match;
        if (!std::regex_search(line, match, suite)) continue;
        const std::regex registered("\\badd_suite\\(" + match[1].str() + "[ )]");
        CHECK_MESSAGE(std::regex_search(cmake, registered), file.path << ": " << match[1].str());
      }
    }
  }

  TEST_CASE("cmake lists sources by name and asks for the system only at the top") {
    static const std::regex globbing(R"(\bGLOB(_RECURSE)?\b)");
    static const std::regex system(R"(\b(CMAKE_SYSTEM_NAME|WIN32|APPLE|UNIX|LINUX|MSVC)\b)");
    CHECK(std::regex_search("file(GLOB sources *.cpp)", globbing));
    CHECK(std::regex_search("if(WIN32)", system));

    for (const auto& path : cmake_files()) {
      const auto text = tidy::read_file(path);
      CHECK_MESSAGE(!std::regex_search(text, globbing), path.string());
      if (path == root() / "CMakeLists.txt") continue;
      CHECK_MESSAGE(!std::regex_search(text, system), path.string());
    }
  }

  TEST_CASE("the test of a public header includes that header first") {
    for (const auto& file : tree()) {
      if (!file.path.starts_with("tests/") || !file.path.ends_with("_test.cpp")) continue;
      const auto stem = fs::path(file.path).stem().string();
      const auto header = "hawser/" + stem.substr(0, stem.size() - 5) + ".hpp";
      if (!fs::exists(root() / "include" / header)) continue;
      CHECK_MESSAGE(first_include(file) == header, file.path);
    }
  }

  TEST_CASE("the top level holds nothing that the style does not name") {
    static const std::set<std::string> allowed = {"CMakeLists.txt",
                                                  "CMakePresets.json",
                                                  "LICENSE",
                                                  "README.md",
                                                  "include",
                                                  "src",
                                                  "io_uring",
                                                  "win",
                                                  "mac",
                                                  "tests",
                                                  "bench",
                                                  "samples",
                                                  "build"};
    for (const auto& entry : fs::directory_iterator(root())) {
      const auto name = entry.path().filename().string();
      if (name.starts_with(".") || name == "CMakeUserPresets.json") continue;
      CHECK_MESSAGE(allowed.count(name) == 1, name);
    }
  }
}
