// SPDX-License-Identifier: Apache-2.0
// Files as messages: read, mapped, or handed over as they are.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "shm/file_passage.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::message;
using hawser::task;
using test::linked;
using test::next;
using test::settle;
using test::transport;

namespace platform = hawser::platform;
namespace shm = hawser::shm;

constexpr std::size_t mib = 1 << 20;

/// A descriptor that ends with the test.
class open_file {
 public:
  explicit open_file(int descriptor) : descriptor_(descriptor) { REQUIRE(descriptor >= 0); }
  open_file(const open_file&) = delete;
  open_file& operator=(const open_file&) = delete;
  ~open_file() { close(); }
  void close() noexcept {
    if (const int open = std::exchange(descriptor_, -1); open >= 0) ::close(open);
  }
  [[nodiscard]] int get() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

int filled(int descriptor, const hawser::shared_buffer& with) {
  REQUIRE(::pwrite(descriptor, with.data(), with.size(), 0) == static_cast<ssize_t>(with.size()));
  return descriptor;
}

/// A file with a pattern in it, of which any part can be told from any other.
struct sample {
  explicit sample(std::size_t bytes) : pattern(test::make_pattern(3, bytes)) {}

  [[nodiscard]] int on_disk(const std::string& path) const {
    return filled(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), pattern);
  }
  [[nodiscard]] int in_memory(int seals) const {
    const int made = filled(::memfd_create("sample", MFD_CLOEXEC | MFD_ALLOW_SEALING), pattern);
    REQUIRE(::fcntl(made, F_ADD_SEALS, seals) == 0);
    return made;
  }
  [[nodiscard]] bool has(const message& part, std::size_t offset, std::size_t bytes) const {
    return part.size() == bytes &&
           (bytes == 0 || std::memcmp(part.bytes().data(), pattern.data() + offset, bytes) == 0);
  }

  hawser::shared_buffer pattern;
};

test::habits passing(unsigned by_client, unsigned by_server) {
  test::habits how;
  how.client.pass_files = by_client;
  how.server.link.pass_files = by_server;
  return how;
}

}  // namespace

TEST_SUITE("send_file") {
  TEST_CASE("a part of a file is a message, over whatever the link runs") {
    const sample file(4 * mib);
    for (const auto over : test::transports) {
      CAPTURE(test::name_of(over));
      linked ends(over);
      const open_file from(file.on_disk(ends.place / "file"));
      const open_file reader(::open((ends.place / "file").c_str(), O_RDONLY | O_CLOEXEC));
      ::lseek(from.get(), 77, SEEK_SET);
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        for (const auto& [offset, bytes] :
             std::initializer_list<std::pair<std::size_t, std::size_t>>{{0, 0},
                                                                        {4 * mib, 0},
                                                                        {5, 1},
                                                                        {1, 4095},
                                                                        {12'345, 70'000},
                                                                        {4096, 65'536},
                                                                        {0, 4 * mib},
                                                                        {4 * mib - 99'999, 99'999},
                                                                        {7, 3'000'001}}) {
          for (const int which : {from.get(), reader.get()}) {
            CAPTURE(offset);
            CAPTURE(bytes);
            co_await ends.client.bulk().send_file(which, offset, bytes);
            const message came = co_await next(ends.server.bulk());
            CHECK(file.has(came, offset, bytes));
            if (bytes >= 65'536) CHECK(came.is_borrowed() == (over == transport::shared_memory));
          }
        }
        co_await ends.server.rpc().send_file(
            from.get(), 8, 9000, {.id = 5, .encoding = hawser::codec::json}, hawser::urgent);
        const message urgent = co_await next(ends.client.rpc());
        CHECK(file.has(urgent, 8, 9000));
        CHECK(urgent.id() == 5);
        CHECK(urgent.encoding() == hawser::codec::json);
        CHECK(urgent.via() == hawser::lane::urgent);
        CHECK(ends.client.road().files_passed == 0);
      });
      CHECK(::lseek(from.get(), 0, SEEK_CUR) == 77);
    }
  }

  TEST_CASE("several at once arrive in the order of their channel, and none waits for another") {
    const sample file(2 * mib);
    linked ends(transport::tcp);
    const open_file from(file.on_disk(ends.place / "file"));
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      for (const auto kind : {hawser::priority::rpc, hawser::priority::bulk}) {
        all.spawn([](linked& over, hawser::priority on, int part_of) -> task<void> {
          for (std::size_t i = 0; i < 20; ++i) {
            co_await over.client.at(on).send_file(part_of, i * 1000, 100'000 + i);
          }
        }(ends, kind, from.get()));
        all.spawn([](linked& over, hawser::priority on, const sample& whole) -> task<void> {
          for (std::size_t i = 0; i < 20; ++i) {
            const message came = co_await next(over.server.at(on));
            CHECK(whole.has(came, i * 1000, 100'000 + i));
          }
        }(ends, kind, file));
      }
      co_return;
    });
  }

  TEST_CASE("sealed memory crosses as it is where both sides want that") {
    const std::size_t descriptors = test::open_descriptors();
    const sample file(2 * mib);
    {
      message kept;
      {
        linked ends(transport::shared_memory, passing(1, 2));
        open_file memory(file.in_memory(F_SEAL_SHRINK));
        const open_file open(file.in_memory(F_SEAL_GROW));
        const open_file disk(file.on_disk(ends.place / "file"));
        hawser::run(ends.runtime, [&]() -> task<void> {
          co_await settle(ends);
          for (const auto& [from, to] :
               {std::pair(ends.client, ends.server), std::pair(ends.server, ends.client)}) {
            for (const std::size_t offset : {std::size_t{0}, std::size_t{4096}, mib / 2 + 8}) {
              co_await from.stream().send_file(memory.get(), offset, mib);
              const message came = co_await next(to.stream());
              CHECK(came.is_borrowed());
              CHECK(file.has(came, offset, mib));
            }
            CHECK(from.road().files_passed == 3);
            CHECK(from.road().lent_bytes == 0);
            // What is not of that kind, begins in the midst of a word, or is small, is read.
            for (const auto& [which, offset, bytes] :
                 {std::tuple(open.get(), std::size_t{0}, mib), std::tuple(disk.get(), 8UL, mib),
                  std::tuple(memory.get(), 4UL, mib), std::tuple(memory.get(), 8UL, 60'000UL)}) {
              co_await from.stream().send_file(which, offset, bytes);
              const message came = co_await next(to.stream());
              CHECK(file.has(came, offset, bytes));
            }
            CHECK(from.road().files_passed == 3);
          }
          // It is the same memory.
          co_await ends.client.bulk().send_file(memory.get(), 8, mib);
          kept = co_await next(ends.server.bulk());
          const std::byte changed = ~kept.bytes()[1000];
          CHECK(::pwrite(memory.get(), &changed, 1, 1008) == 1);
          CHECK(kept.bytes()[1000] == changed);
          memory.close();
        });
      }
      CHECK(kept.is_borrowed());
      CHECK(kept.bytes()[mib - 1] == file.pattern.bytes()[mib + 7]);
      CHECK(kept.to_owned().size() == mib);
    }
    CHECK(test::open_descriptors() == descriptors);
    CHECK(test::segment_mappings() == 0);
  }

  TEST_CASE("any file crosses where both sides rely on each other, and no one else's does") {
    const sample file(mib);
    for (const unsigned by_client : {0U, 1U, 2U}) {
      for (const unsigned by_server : {0U, 1U, 2U}) {
        CAPTURE(by_client);
        CAPTURE(by_server);
        linked ends(transport::shared_memory, passing(by_client, by_server));
        const std::string path = ends.place / "file";
        open_file(file.on_disk(path)).close();
        const open_file disk(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        const open_file memory(file.in_memory(F_SEAL_SHRINK));
        hawser::run(ends.runtime, [&]() -> task<void> {
          co_await settle(ends);
          for (const int which : {disk.get(), memory.get()}) {
            co_await ends.server.rpc().send_file(which, 0, mib);
            const message came = co_await next(ends.client.rpc());
            CHECK(file.has(came, 0, mib));
          }
          CHECK(ends.server.road().files_passed == std::min(by_client, by_server));
        });
      }
    }
  }

  TEST_CASE("more files than can be with the peer at once are sent by their contents") {
    const sample file(mib);
    const std::size_t descriptors = test::open_descriptors();
    {
      linked ends(transport::shared_memory, passing(1, 1));
      const open_file memory(file.in_memory(F_SEAL_SHRINK));
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        for (std::uint64_t round = 1; round <= 3; ++round) {
          std::vector<message> kept;
          for (std::size_t i = 0; i < shm::file_passage::slots + 10; ++i) {
            co_await ends.client.bulk().send_file(memory.get(), 8 * i, 65'536);
            message came = co_await next(ends.server.bulk());
            CHECK(file.has(came, 8 * i, 65'536));
            kept.push_back(std::move(came));
          }
          CHECK(ends.client.road().files_passed == round * shm::file_passage::slots);
          kept.clear();
          co_await settle(ends);  // what was given back is told with what is sent
        }
      });
      CHECK(test::open_descriptors() < descriptors + 40);
    }
    CHECK(test::open_descriptors() == descriptors);
  }

  TEST_CASE("what is no part of a file is refused by name, and the link goes on") {
    const sample file(mib);
    for (const auto over : {transport::tcp, transport::shared_memory}) {
      linked ends(over, passing(2, 2));
      const open_file disk(file.on_disk(ends.place / "file"));
      const open_file blind(::open((ends.place / "file").c_str(), O_WRONLY | O_CLOEXEC));
      const open_file folder(::open(ends.place.path().c_str(), O_RDONLY | O_CLOEXEC));
      std::array<int, 2> both{};
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both.data()) == 0);
      const open_file socket(both[0]);
      const open_file other(both[1]);
      const open_file large(::memfd_create("large", MFD_CLOEXEC));
      REQUIRE(::ftruncate(large.get(), 64 << 20) == 0);
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        const auto refuse = [&](int which, std::uint64_t offset, std::size_t bytes,
                                auto expected) -> task<void> {
          const auto sent =
              co_await hawser::as_result(ends.client.bulk().send_file(which, offset, bytes));
          REQUIRE_FALSE(sent.has_value());
          CHECK(sent.error().code() == expected);
          CHECK_FALSE(sent.error().text().empty());
        };
        for (const std::size_t bytes : {std::size_t{1000}, mib}) {
          co_await refuse(socket.get(), 0, bytes, errc::unsupported);
          co_await refuse(folder.get(), 0, bytes, errc::unsupported);
          co_await refuse(-1, 0, bytes, std::errc::bad_file_descriptor);
          if (over == transport::tcp || bytes != mib) {
            co_await refuse(blind.get(), 0, bytes, std::errc::bad_file_descriptor);
          }
          for (const std::uint64_t offset :
               {mib - bytes + 1, 2 * mib, std::size_t{1} << 62, ~std::size_t{0}}) {
            co_await refuse(disk.get(), offset, bytes, std::errc::invalid_argument);
          }
        }
        co_await refuse(large.get(), 0, 17 << 20, errc::too_large);
        co_await ends.client.bulk().send_file(disk.get(), 0, mib);
        const message came = co_await next(ends.server.bulk());
        CHECK(file.has(came, 0, mib));
        co_await ends.client.close();
        co_await refuse(disk.get(), 0, mib, errc::closed);
      });
    }
  }

  TEST_CASE("a file that is cut short while it is sent ends its link, and nothing else") {
    const sample file(14 * mib);
    for (const auto over : test::socket_transports) {
      CAPTURE(test::name_of(over));
      linked ends(over, {.client = {.share_memory = false}});
      hawser::link other_client;
      hawser::link other_server;
      ends.connect(other_client, other_server);
      const open_file disk(file.on_disk(ends.place / "file"));
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        co_await settle(ends);
        all.spawn([](hawser::channel& on, int which) -> task<void> {
          static_cast<void>(co_await hawser::as_result(on.send_file(which, 0, 14 * mib)));
        }(ends.client.bulk(), disk.get()));
        // Some of it is under way, and the rest waits for credit.
        while (ends.client.bulk().counts().accepted == 0) co_await hawser::this_task::yield();
        CHECK(::ftruncate(disk.get(), 0) == 0);
        const auto came = co_await hawser::as_result(ends.server.bulk().recv());
        REQUIRE_FALSE(came.has_value());
        CHECK(came.error().code() == errc::link_lost);
        const auto why = co_await ends.client.ended();
        CHECK(why.code() == errc::link_lost);

        co_await other_client.bulk().send("still here");
        const message there = co_await next(other_server.bulk());
        CHECK(there.text() == "still here");
      });
    }
  }

  TEST_CASE("a send that is given up takes nothing along") {
    const sample file(mib);
    const std::size_t descriptors = test::open_descriptors();
    for (const auto over : test::transports) {
      linked ends(over, passing(1, 1));
      const open_file memory(file.in_memory(F_SEAL_SHRINK));
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await settle(ends);
        std::uint64_t sent = 0;
        for (;;) {  // until there is no credit, or no room to borrow
          const auto one = co_await hawser::as_result(
              hawser::timeout(20ms, ends.client.control().send_file(memory.get(), 0, 4000)));
          if (!one.has_value()) break;
          ++sent;
        }
        const auto gone = co_await hawser::as_result(
            hawser::timeout(5ms, ends.client.control().send_file(memory.get(), 8, 4000)));
        REQUIRE_FALSE(gone.has_value());
        CHECK(gone.error().code() == errc::timed_out);
        for (std::uint64_t i = 0; i < sent; ++i) {
          const message came = co_await next(ends.server.control());
          CHECK(file.has(came, 0, 4000));
        }
        co_await ends.client.control().send("the next");
        const message came = co_await next(ends.server.control());
        CHECK(came.text() == "the next");
      });
    }
    CHECK(test::open_descriptors() == descriptors);
  }
}

namespace {

/// Both ends of a passage; what a peer writes who is no hawser goes in by `raw`.
struct passage {
  explicit passage(shm::passable what) {
    std::array<int, 2> both{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both.data()) == 0);
    raw = both[0];
    server = {both[1], what};
  }
  passage(const passage&) = delete;
  passage& operator=(const passage&) = delete;
  ~passage() { ::close(raw); }

  void put(std::array<std::uint64_t, 3> notice, std::vector<platform::native_handle> handles,
           std::size_t bytes = sizeof(std::array<std::uint64_t, 3>)) const {
    const auto words = std::as_bytes(std::span(notice));
    std::error_code error;
    CHECK(platform::write_with_handles(raw, {words.data(), bytes}, handles, error) == bytes);
  }

  int raw = -1;
  shm::file_passage server;
};

}  // namespace

TEST_SUITE("file_passage") {
  TEST_CASE("what a peer passes is taken by its number, in any order") {
    const sample file(mib);
    const open_file memory(file.in_memory(F_SEAL_SHRINK));
    passage at(shm::passable::sealed);
    for (std::uint64_t slot = 0; slot < 5; ++slot) {
      at.put({slot, slot * 4096 + 8, 100'000 + slot}, {memory.get()});
    }
    for (const std::uint32_t slot : {3U, 0U, 4U, 1U, 2U}) {
      const auto came = at.server.receive(slot, 100'000 + slot);
      REQUIRE(came.size() == 100'000 + slot);
      CHECK(std::memcmp(came.data(), file.pattern.data() + slot * 4096 + 8, came.size()) == 0);
    }
    CHECK(at.server.receive(0, 100'000).empty());
  }

  TEST_CASE("nothing that a peer says of a file is believed") {
    const sample file(mib);
    const std::size_t descriptors = test::open_descriptors();
    {
      const open_file sealed(file.in_memory(F_SEAL_SHRINK));
      const open_file unsealed(file.in_memory(F_SEAL_GROW));
      const open_file folder(::open("/", O_RDONLY | O_CLOEXEC));
      std::array<int, 2> both{};
      REQUIRE(::pipe2(both.data(), O_CLOEXEC) == 0);
      const open_file reading(both[0]);
      const open_file writing(both[1]);
      constexpr auto most = ~std::uint64_t{0};
      struct lie {
        std::array<std::uint64_t, 3> notice;
        std::vector<platform::native_handle> handles;
        std::uint64_t bytes;
      };
      const std::vector<lie> lies{
          {{0, 0, 4096}, {}, 4096},
          {{0, 0, 4096}, {sealed.get(), sealed.get()}, 4096},
          {{shm::file_passage::slots, 0, 4096}, {sealed.get()}, 4096},
          {{most, 0, 4096}, {sealed.get()}, 4096},
          {{0, 0, 4096}, {sealed.get()}, 4095},
          {{0, 0, 0}, {sealed.get()}, 0},
          {{0, 4, 4096}, {sealed.get()}, 4096},
          {{0, mib, 8}, {sealed.get()}, 8},
          {{0, 8, mib}, {sealed.get()}, mib},
          {{0, most - 7, 16}, {sealed.get()}, 16},
          {{0, 8, most}, {sealed.get()}, most},
          {{0, 0, 4096}, {unsealed.get()}, 4096},
          {{0, 0, 4096}, {folder.get()}, 4096},
          {{0, 0, 4096}, {reading.get()}, 4096},
      };
      for (std::size_t i = 0; i < lies.size(); ++i) {
        CAPTURE(i);
        passage at(shm::passable::sealed);
        at.put(lies[i].notice, lies[i].handles);
        CHECK(at.server.receive(0, lies[i].bytes).empty());
      }
      passage twice(shm::passable::any);
      twice.put({1, 0, 4096}, {unsealed.get()});
      twice.put({1, 0, 4096}, {unsealed.get()});
      CHECK(twice.server.receive(2, 4096).empty());
      CHECK(twice.server.receive(1, 4096).size() == 4096);
      passage torn(shm::passable::any);
      torn.put({0, 0, 4096}, {unsealed.get()}, 10);
      CHECK(torn.server.receive(0, 4096).empty());
      passage silent(shm::passable::any);
      CHECK(silent.server.receive(0, 4096).empty());
      CHECK(silent.server.receive(shm::file_passage::slots, 4096).empty());
    }
    CHECK(test::open_descriptors() == descriptors);
  }

  TEST_CASE("a peer that takes nothing out is handed nothing more") {
    const sample file(mib);
    const open_file memory(file.in_memory(F_SEAL_SHRINK));
    passage at(shm::passable::any);
    std::uint32_t passed = 0;
    while (passed < 100'000 && at.server.pass(0, {memory.get(), 0, 4096})) ++passed;
    CHECK(passed >= shm::file_passage::slots);
    CHECK(passed < 100'000);
  }
}
