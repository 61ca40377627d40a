// SPDX-License-Identifier: Apache-2.0
// Both halves of the courier's disk, without a link: what the reader puts into messages goes
// straight to the target.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "courier/source.hpp"
#include "courier/target.hpp"
#include "support/environment.hpp"

namespace {

namespace fs = std::filesystem;

class two_folders {
 public:
  two_folders() {
    std::string name = (fs::temp_directory_path() / "courier-disk-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    base = name;
    fs::create_directory(from());
    fs::create_directory(to());
  }
  ~two_folders() { fs::remove_all(base); }
  [[nodiscard]] fs::path from() const { return base / "from"; }
  [[nodiscard]] fs::path to() const { return base / "to"; }

 private:
  fs::path base;
};

std::string noise(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (auto& byte : text) byte = static_cast<char>(random());
  return text;
}

void put(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string get(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct looks {
  mode_t mode;
  std::array<long, 2> modified;
  std::string contents;
  friend bool operator==(const looks&, const looks&) = default;
};

// Path by path, what a copy has to keep.
std::map<std::string, looks> describe(const fs::path& root) {
  std::map<std::string, looks> all;
  const auto add = [&](const fs::path& path) {
    struct ::stat found {};
    REQUIRE(::lstat(path.c_str(), &found) == 0);
    looks one{found.st_mode, {found.st_mtim.tv_sec, found.st_mtim.tv_nsec}, {}};
    if (S_ISREG(found.st_mode)) one.contents = get(path);
    if (S_ISLNK(found.st_mode)) one.contents = fs::read_symlink(path).string();
    all.emplace(fs::relative(path, root).string(), one);
  };
  for (const auto& found : fs::recursive_directory_iterator(root)) add(found.path());
  add(root);
  return all;
}

struct outcome {
  std::uint64_t sent = 0;
  std::uint64_t partial = 0;  // what the receiver said it had of files that are not complete
  std::uint64_t missing = 0;
  std::uint64_t resent = 0;
  std::size_t refused = 0;
  std::vector<courier::trouble> troubles;
};

// A transfer, or the part of one until `bytes_most` of messages have passed.
struct transfer {
  explicit transfer(const two_folders& where)
      : root(courier::open_folder(where.from().string())),
        opening(hello_of(root)),
        target(where.to().string(), opening) {}

  static courier::hello hello_of(const courier::descriptor& root) {
    struct ::stat found {};
    REQUIRE(::fstat(root.get(), &found) == 0);
    return {.version = courier::protocol_version,
            .tree = 77,
            .mode = found.st_mode & 07777U,
            .modified = {found.st_mtim.tv_sec, static_cast<std::uint32_t>(found.st_mtim.tv_nsec)}};
  }

  void list() {
    courier::tree_walk walk(root.get(), failed, skipped);
    std::uint64_t count = 0;
    for (;;) {
      courier::offer part{.first = count, .entries = walk.next(300)};
      if (part.entries.empty()) break;
      const auto answers = courier::decode_offer_answer(
          courier::encode(target.take_offer(courier::decode_offer(courier::encode(part)))));
      for (std::size_t i = 0; i < answers.size(); ++i) {
        const auto& one = part.entries[i];
        result.refused += answers[i].state == courier::standing::refused;
        result.partial += answers[i].bytes;
        if (answers[i].state == courier::standing::refused) continue;
        if (answers[i].state == courier::standing::complete) continue;
        work.add({count + i, one.path, one.size, one.modified, answers[i].bytes});
      }
      count += part.entries.size();
    }
    target.close_listing(count);
  }

  void pump(std::uint64_t bytes_most = ~std::uint64_t{0}) {
    courier::contents_reader reader(root.get(), work, failed);
    std::vector<std::byte> message(16 << 10);
    for (std::uint64_t passed = 0; passed < bytes_most;) {
      std::size_t used = 0;
      const auto how = reader.fill(message, used);
      target.take_records(std::span(message).first(used));
      passed += used;
      if (how == courier::contents_reader::outcome::finished) break;
      if (how != courier::contents_reader::outcome::prefix_due) continue;
      const auto theirs = target.take_prefix(reader.current().number);
      const bool same =
          theirs.bytes == reader.current().arrived && theirs.hash == reader.hash_prefix();
      same ? reader.resume() : reader.restart();
    }
    result.sent = reader.bytes_sent();
  }

  outcome finish() {
    result.missing = target.finish();
    result.resent = target.resent();
    result.troubles = target.take_troubles();
    return result;
  }

  courier::descriptor root;
  courier::hello opening;
  courier::target_tree target;
  courier::complaints failed;
  courier::complaints skipped;
  courier::work_list work;
  outcome result;
};

outcome copy(const two_folders& where) {
  transfer all(where);
  all.list();
  all.pump();
  CHECK(all.failed.count() == 0);
  return all.finish();
}

void make_odd_tree(const fs::path& root) {
  fs::create_directories(root / "a/b/c");
  fs::create_directory(root / "empty folder");
  put(root / "a/b/c/empty", "");
  put(root / "a/b/small", "small");
  put(root / "a/large", noise(100'000, test::seed()));
  put(root / "a" / std::string("\xff\xfe not UTF-8\n"), "odd");
  fs::create_symlink("nowhere", root / "a/dangling");
  fs::create_directory_symlink("/", root / "a/out");
  fs::create_hard_link(root / "a/b/small", root / "a/hard");
  fs::permissions(root / "a/b/small", fs::perms(0400));
  fs::permissions(root / "a/large", fs::perms(0751));
  fs::permissions(root / "a/b/c", fs::perms(0500));
  for (const auto& found : fs::recursive_directory_iterator(root)) {
    const std::array<::timespec, 2> times{{{0, UTIME_OMIT}, {1'000'000'000, 123'456'789}}};
    ::utimensat(AT_FDCWD, found.path().c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
  }
}

}  // namespace

TEST_SUITE("courier_disk") {
  TEST_CASE("a tree of all kinds arrives as it was") {
    const two_folders where;
    make_odd_tree(where.from());

    const auto result = copy(where);

    CHECK(result.missing == 0);
    CHECK(result.troubles.empty());
    CHECK(describe(where.from()) == describe(where.to()));
  }

  TEST_CASE("a second copy sends nothing") {
    const two_folders where;
    make_odd_tree(where.from());
    static_cast<void>(copy(where));

    const auto again = copy(where);

    CHECK(again.sent == 0);
    CHECK(describe(where.from()) == describe(where.to()));
  }

  TEST_CASE("holes stay holes") {
    const two_folders where;
    const auto path = where.from() / "sparse";
    put(path, "begin");
    fs::resize_file(path, 8 << 20);
    std::fstream middle(path, std::ios::in | std::ios::out | std::ios::binary);
    middle.seekp(4 << 20) << "middle";
    middle.close();
    struct ::stat before {};
    REQUIRE(::stat(path.c_str(), &before) == 0);
    if (before.st_blocks * 512 >= before.st_size) {
      test::skip("the temporary folder does not keep holes");
      return;
    }

    const auto result = copy(where);

    struct ::stat after {};
    REQUIRE(::stat((where.to() / "sparse").c_str(), &after) == 0);
    CHECK(after.st_blocks <= before.st_blocks + 64);
    CHECK(result.sent < 1 << 20);
    CHECK(describe(where.from()) == describe(where.to()));
  }

  TEST_CASE("a transfer that stops anywhere goes on where it was") {
    std::mt19937_64 random(test::seed());
    for (int round = 0; round < 20; ++round) {
      const two_folders where;
      make_odd_tree(where.from());
      put(where.from() / "z", noise(150'000, random()));
      std::uint64_t kept = 0;
      {
        transfer first(where);
        first.list();
        first.pump(1 + random() % 300'000);
        kept = first.target.reached().arrived;
        first.target.leave();
      }

      const auto second = copy(where);

      CHECK(second.resent == 0);
      CHECK(second.sent + kept == 250'000 + 5 + 5 + 3);  // large, z, small and its link, odd
      CHECK(describe(where.from()) == describe(where.to()));
    }
  }

  TEST_CASE("a partial file that is not ours any more starts again") {
    const two_folders where;
    put(where.from() / "file", noise(100'000, 1));
    transfer first(where);
    first.list();
    first.pump(30'000);
    const auto kept = first.target.reached().arrived;
    first.target.leave();
    put(where.from() / "file", noise(100'000, 2));

    const auto second = copy(where);

    CHECK(second.resent == kept);
    CHECK(describe(where.from()) == describe(where.to()));
  }

  TEST_CASE("discard leaves nothing half-written, and what was whole") {
    const two_folders where;
    put(where.from() / "a", noise(10'000, 1));
    put(where.from() / "b", noise(100'000, 2));
    transfer first(where);
    first.list();
    first.pump(40'000);

    first.target.discard();

    CHECK(get(where.to() / "a") == get(where.from() / "a"));
    CHECK(!fs::exists(where.to() / "b"));
    CHECK(!fs::exists(where.to() / ".courier-partial"));
  }

  TEST_CASE("contents that arrive damaged are not kept") {
    const two_folders where;
    put(where.from() / "file", "right");
    transfer one(where);
    one.list();
    std::vector<std::byte> message(courier::record_header_bytes + 5, std::byte{'x'});
    const courier::record header{.number = 0,
                                 .offset = 0,
                                 .bytes = 5,
                                 .flags = courier::record_first | courier::record_last,
                                 .hash = courier::hash_of("right")};
    courier::put_record(std::span(message).first<courier::record_header_bytes>(), header);

    one.target.take_records(message);

    const auto result = one.finish();
    REQUIRE(result.troubles.size() == 1);
    CHECK(result.troubles[0].what.find("damaged") != std::string::npos);
    CHECK(!fs::exists(where.to() / "file"));
  }

  TEST_CASE("an offer that would leave the target is refused and creates nothing") {
    const two_folders where;
    fs::create_directory_symlink(where.from(), where.to() / "link");
    courier::target_tree target(where.to().string(), {});
    courier::offer part;
    for (const char* path : {"../escaped", "/tmp/escaped", "link/escaped", "a/../../escaped",
                             ".courier-partial/escaped", ""}) {
      for (const auto type : {courier::kind::file, courier::kind::folder, courier::kind::symlink}) {
        courier::entry one;
        one.path = path;
        one.type = type;
        one.link_target = "target";
        part.entries.push_back(one);
      }
    }

    const auto answers = target.take_offer(part);

    REQUIRE(answers.size() == part.entries.size());
    for (const auto& one : answers) CHECK(one.state == courier::standing::refused);
    target.close_listing(answers.size());
    CHECK(target.finish() == 0);
    CHECK(fs::is_empty(where.from()));
    CHECK(fs::is_symlink(where.to() / "link"));
    CHECK(!fs::exists("/tmp/escaped"));
  }

  TEST_CASE("a folder on the way that is a symbolic link is refused, its contents too") {
    const two_folders where;
    fs::create_directories(where.from() / "a");
    put(where.from() / "a/file", "contents");
    fs::create_directory(where.to() / "elsewhere");
    fs::create_directory_symlink("elsewhere", where.to() / "a");

    const auto result = copy(where);

    CHECK(result.refused == 2);
    CHECK(fs::is_empty(where.to() / "elsewhere"));
  }

  TEST_CASE("a file replaces a symbolic link instead of writing through it") {
    const two_folders where;
    put(where.from() / "file", "new");
    put(where.to() / "victim", "old");
    fs::create_symlink("victim", where.to() / "file");

    static_cast<void>(copy(where));

    CHECK(get(where.to() / "victim") == "old");
    CHECK(!fs::is_symlink(where.to() / "file"));
    CHECK(get(where.to() / "file") == "new");
  }

  TEST_CASE("messages that no courier sends end the transfer") {
    const two_folders where;
    put(where.from() / "file", "12345");
    fs::create_directory(where.from() / "folder");
    transfer one(where);
    const auto send = [&](courier::record header) {
      std::vector<std::byte> message(courier::record_header_bytes + header.bytes);
      courier::put_record(std::span(message).first<courier::record_header_bytes>(), header);
      one.target.take_records(message);
    };
    using courier::record_first;
    using courier::record_last;

    CHECK_THROWS_AS(send({0, 0, 1, record_first, {}}), courier::bad_message);  // not yet listed
    one.list();
    CHECK_THROWS_AS(send({99, 0, 1, record_first, {}}), courier::bad_message);
    CHECK_THROWS_AS(send({1, 0, 1, record_first, {}}), courier::bad_message);  // a folder
    CHECK_THROWS_AS(send({0, 0, 1, 0, {}}), courier::bad_message);             // not begun
    CHECK_THROWS_AS(send({0, 0, 6, record_first, {}}), courier::bad_message);
    CHECK_THROWS_AS(send({0, ~0ULL, 1, record_first, {}}), courier::bad_message);
    CHECK_THROWS_AS(send({0, 0, 4, record_first | record_last, {}}), courier::bad_message);
    CHECK_THROWS_AS(static_cast<void>(one.target.take_prefix(0)), courier::bad_message);
    CHECK_THROWS_AS(one.target.take_records(std::vector<std::byte>(39)), courier::bad_message);
    CHECK_THROWS_AS(static_cast<void>(one.target.take_offer({})), courier::bad_message);
  }

  TEST_CASE("decoders refuse every truncation and a byte too many") {
    courier::offer part;
    part.entries.resize(3);
    part.entries[1].path = "path";
    const auto refuse = [](courier::bytes whole, auto decode) {
      CHECK_NOTHROW(decode(whole));
      for (std::size_t size = 0; size < whole.size(); ++size) {
        CHECK_THROWS_AS(decode(std::span(whole).first(size)), courier::bad_message);
      }
      whole.push_back({});
      CHECK_THROWS_AS(decode(whole), courier::bad_message);
    };
    const std::vector<courier::offer_answer> answers(2);

    refuse(courier::encode(part), [](auto in) { static_cast<void>(courier::decode_offer(in)); });
    refuse(courier::encode(std::span(answers)),
           [](auto in) { static_cast<void>(courier::decode_offer_answer(in)); });
    refuse(courier::encode(courier::prefix_answer{}),
           [](auto in) { static_cast<void>(courier::decode_prefix_answer(in)); });
    refuse(courier::encode(courier::trouble{1, "text"}),
           [](auto in) { static_cast<void>(courier::decode_trouble(in)); });
    refuse(courier::encode(courier::end{}),
           [](auto in) { static_cast<void>(courier::decode_end(in)); });
    refuse(courier::encode_cancel(true),
           [](auto in) { static_cast<void>(courier::decode_cancel(in)); });
  }
}
