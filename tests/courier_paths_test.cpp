// SPDX-License-Identifier: Apache-2.0
#include "courier/paths.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace {

namespace fs = std::filesystem;

class scratch_folder {
 public:
  scratch_folder() {
    std::string name = (fs::temp_directory_path() / "courier-paths-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~scratch_folder() { fs::remove_all(path); }

  fs::path path;
};

bool good(std::string_view path) {
  return courier::path_fault(path).empty();
}

}  // namespace

TEST_SUITE("courier_paths") {
  TEST_CASE("a path strictly inside is good, whatever bytes its names have") {
    CHECK(good("a"));
    CHECK(good("a/b/c"));
    CHECK(good("..a/b.."));
    CHECK(good("..."));
    CHECK(good(" /~"));
    CHECK(good("\xff\xfe\n"));
    CHECK(good("a/.courier-partial"));
    CHECK(good(std::string(255, 'x')));
  }

  TEST_CASE("a path that could leave, or mean something else, is refused") {
    using namespace std::string_literals;
    for (const auto& path : {""s,
                             "/"s,
                             "/etc/passwd"s,
                             "."s,
                             ".."s,
                             "a/.."s,
                             "a/../b"s,
                             "../a"s,
                             "a/./b"s,
                             "./a"s,
                             "a//b"s,
                             "a/"s,
                             "//a"s,
                             "a\0b"s,
                             "a/b\0"s,
                             "\0"s,
                             ".courier-partial"s,
                             ".courier-partial/0123"s,
                             std::string(256, 'x'),
                             std::string(4097, 'x')}) {
      CHECK_MESSAGE(!good(path), courier::printable(path));
    }
  }

  TEST_CASE("a name can neither break the output nor steer the terminal") {
    CHECK(courier::printable("plain name") == "plain name");
    CHECK(courier::printable("gr\xc3\xbc\xc3\x9f") == "gr\xc3\xbc\xc3\x9f");
    CHECK(courier::printable("\xff") == "\\xff");
    CHECK(courier::printable("a\nb\x1b[2J") == "a\\x0ab\\x1b[2J");
    CHECK(courier::printable("\xc2\x9b") == "\\xc2\\x9b");                // a C1 control
    CHECK(courier::printable("\xe2\x80\xae") == "\\xe2\\x80\\xae");       // right to left
    CHECK(courier::printable("\xc0\xaf") == "\\xc0\\xaf");                // overlong
    CHECK(courier::printable("\xed\xa0\x80") == "\\xed\\xa0\\x80");       // a surrogate
    CHECK(courier::printable("\xf0\x9f\x9a\xa2") == "\xf0\x9f\x9a\xa2");  // a ship
    CHECK(courier::printable("cut \xf0\x9f") == "cut \\xf0\\x9f");
  }

  TEST_CASE("beneath finds the folder of a path") {
    const scratch_folder scratch;
    fs::create_directories(scratch.path / "a/b");
    const auto root = courier::open_folder(scratch.path.string());
    courier::beneath folders(root.get());

    const auto top = folders.find("x");
    CHECK(top.folder == root.get());
    CHECK(top.name == "x");

    const auto deep = folders.find("a/b/x");
    struct ::stat found {};
    struct ::stat expected {};
    REQUIRE(::fstat(deep.folder, &found) == 0);
    REQUIRE(::stat((scratch.path / "a/b").c_str(), &expected) == 0);
    CHECK(found.st_ino == expected.st_ino);
    CHECK(folders.find("a/b/y").folder == deep.folder);
  }

  TEST_CASE("beneath follows no symbolic link, not even one that stays inside") {
    const scratch_folder scratch;
    fs::create_directories(scratch.path / "inside/deep");
    fs::create_directory_symlink("/", scratch.path / "out");
    fs::create_directory_symlink("inside", scratch.path / "in");
    fs::create_directory_symlink("..", scratch.path / "inside/deep/up");
    const auto root = courier::open_folder(scratch.path.string());
    courier::beneath folders(root.get());

    CHECK_THROWS_AS(static_cast<void>(folders.find("out/tmp")), std::system_error);
    CHECK_THROWS_AS(static_cast<void>(folders.find("out/etc/passwd")), std::system_error);
    CHECK_THROWS_AS(static_cast<void>(folders.find("in/x")), std::system_error);
    CHECK_THROWS_AS(static_cast<void>(folders.find("inside/deep/up/x")), std::system_error);
    CHECK_NOTHROW(static_cast<void>(folders.find("inside/deep/x")));
  }

  TEST_CASE("beneath refuses a bad path, a missing folder and a file on the way") {
    const scratch_folder scratch;
    const auto root = courier::open_folder(scratch.path.string());
    const courier::descriptor file(
        ::openat(root.get(), "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    courier::beneath folders(root.get());

    CHECK_THROWS_AS(static_cast<void>(folders.find("../x")), std::system_error);
    CHECK_THROWS_AS(static_cast<void>(folders.find("/x")), std::system_error);
    CHECK_THROWS_AS(static_cast<void>(folders.find("missing/x")), std::system_error);
    CHECK_THROWS_AS(static_cast<void>(folders.find("file/x")), std::system_error);
  }
}
