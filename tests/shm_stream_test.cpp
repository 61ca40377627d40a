// SPDX-License-Identifier: Apache-2.0
#include "hawser/shm_stream.hpp"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "os/platform.hpp"
#include "shm/stream_segment.hpp"
#include "shm/tally.hpp"
#include "support/environment.hpp"
#include "support/process.hpp"
#include "support/streams.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::shm_batch;
using hawser::shm_stream;
using hawser::shm_stream_options;
using test::as_record;
using test::no_number;
using test::process;
using test::read_number;
using test::unique_stream;
using test::until;
using test::until_asleep;
using test::write_number;

namespace platform = hawser::platform;
namespace shm = hawser::shm;

using bytes = std::vector<std::byte>;

constexpr std::size_t page = 4096;
const shm_stream_options& small = test::small_stream;
const shm_stream_options& sleepy = test::sleepy_stream;

bytes pattern(std::size_t size, std::uint64_t number) {
  bytes made(size);
  for (std::size_t i = 0; i < size; ++i) made[i] = static_cast<std::byte>(number * 31 + i * 7);
  return made;
}

template <class T>
std::error_code error_of(const hawser::result<T>& what) {
  return what.has_value() ? std::error_code() : what.error().code();
}

std::error_code error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

std::error_code error_of_create(const std::string& name,
                                const shm_stream_options& options = small) {
  return error_of([&] { const auto made = shm_stream::create(name, options); });
}

std::error_code error_of_open(const std::string& name) {
  return error_of([&] { const auto made = shm_stream::open(name, small); });
}

/// Both ends in one process.
struct pair {
  explicit pair(const shm_stream_options& options = small)
      : guard(60s),
        name(unique_stream()),
        one(shm_stream::create(name, options)),
        two(shm_stream::open(name, options)) {}

  test::watchdog guard;
  std::string name;
  shm_stream one;
  shm_stream two;
};

std::string path_of(const std::string& name) {
  return "/dev/shm" + platform::memory_name(name);
}
bool exists(const std::string& name) {
  struct stat found {};
  return ::stat(path_of(name).c_str(), &found) == 0;
}

/// A file where a note should be.
class squatter {
 public:
  squatter(const std::string& name, const std::string& text, mode_t mode = 0600)
      : path_(path_of(name)), file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, mode)) {
    REQUIRE(file_ >= 0);
    REQUIRE(::fchmod(file_, mode) == 0);
    REQUIRE(::write(file_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  ~squatter() {
    ::close(file_);
    ::unlink(path_.c_str());
  }
  squatter(const squatter&) = delete;
  squatter& operator=(const squatter&) = delete;

  void lock(off_t at) const {
    struct flock wanted {};
    wanted.l_type = F_WRLCK;
    wanted.l_whence = SEEK_SET;
    wanted.l_start = at;
    wanted.l_len = 1;
    REQUIRE(::fcntl(file_, F_OFD_SETLK, &wanted) == 0);
  }
  void give_to(uid_t user) const { REQUIRE(::fchown(file_, user, static_cast<gid_t>(-1)) == 0); }

 private:
  std::string path_;
  int file_;
};

/// A peer that writes what it likes into the memory it has found by the name.
class liar {
 public:
  explicit liar(const std::string& name) {
    const auto full = platform::memory_name(name);
    const auto found = platform::find_memory(full);
    memory_ = found.memory;
    size_ = platform::inspect_memory(memory_);
    first_ = platform::map_memory(memory_, size_);
    platform::withdraw_name(full, found.note);
    platform::release_handle(found.note);
    header().sides[1].process = ::getpid();
    header().sides[1].started = platform::current_process().started;
    header().sides[1].attached = 1;
  }
  ~liar() {
    platform::unmap_memory(first_, size_);
    platform::release_handle(memory_);
  }
  liar(const liar&) = delete;
  liar& operator=(const liar&) = delete;

  [[nodiscard]] shm::stream_header& header() const {
    return *reinterpret_cast<shm::stream_header*>(first_);
  }
  /// Of the ring that it writes.
  [[nodiscard]] std::byte* ring() const {
    return first_ + shm::stream_rings_at + (size_ - shm::stream_rings_at) / 2;
  }
  void write_header(std::uint64_t value) const {
    reinterpret_cast<std::atomic<std::uint64_t>*>(ring())->store(value);
  }
  [[nodiscard]] std::byte* first() const { return first_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] int memory() const { return static_cast<int>(memory_); }

 private:
  platform::native_handle memory_;
  std::size_t size_ = 0;
  std::byte* first_ = nullptr;
};

// The example of src/shm/README.md, to be compared with it and run.
struct migrated {
  // from here: migration
  static hawser::result<std::size_t> consume(const std::string& name,
                                             std::chrono::nanoseconds limit) {
    auto from = hawser::shm_stream::open(name);  // was: shm_open, mmap, and hope
    hawser::shm_batch batch;
    std::size_t handled = 0;
    for (;;) {
      const auto got = from.read_batch(batch, 64, limit);  // was: while (head == tail) pause();
      if (!got.has_value()) return got.error();  // timed_out, link_lost, protocol_violation, closed
      if (!got->has_value()) return handled;     // the producer has closed, and all was read
      for (std::size_t i = 0; i < batch.size(); ++i) handled += batch[i].size();
    }
  }
  // to here
};

}  // namespace

TEST_SUITE("shm_stream") {
  // ---- records ------------------------------------------------------------------------------

  TEST_CASE("records of any size arrive in order, both ways") {
    pair both;
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, std::size_t{64}, both.one.record_bytes_max()}) {
      for (auto* from : {&both.one, &both.two}) {
        auto& to = from == &both.one ? both.two : both.one;
        REQUIRE(from->write(pattern(size, 1)).has_value());
        bytes got;
        REQUIRE(to.read(got).value() == size);
        CHECK(got == pattern(size, 1));
      }
    }
    CHECK(both.two.record_bytes_max() == both.one.record_bytes_max());
  }

  TEST_CASE("a record above the limit is refused with the limit, and nothing was written") {
    pair both;
    const bytes large(both.one.record_bytes_max() + 1);
    const auto refused = both.one.write(large);
    CHECK(error_of(refused) == errc::too_large);
    CHECK(refused.error().detail().find(std::to_string(large.size() - 1)) != std::string::npos);
    const std::array<std::span<const std::byte>, 2> batch{std::span(large).first(5), large};
    CHECK(error_of(both.one.write_batch(batch)) == errc::too_large);
    CHECK(read_number(both.two, 0ns) == no_number);
  }

  TEST_CASE("a record that the reader has no room for stays") {
    pair both;
    REQUIRE(both.one.write(pattern(100, 3)).has_value());
    bytes room(99);
    const auto refused = both.two.read(std::span(room));
    CHECK(error_of(refused) == errc::too_large);
    CHECK(refused.error().detail().find("100") != std::string::npos);
    CHECK(both.two.read(room).value() == 100U);
    CHECK(room == pattern(100, 3));
  }

  TEST_CASE("what is written before the peer has come is there when it comes") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    auto one = shm_stream::create(name, small);
    CHECK(error_of(one.wait_for_peer(0ns)) == errc::timed_out);
    REQUIRE(write_number(one, 5));
    auto two = shm_stream::open(name);
    CHECK(one.wait_for_peer().has_value());
    CHECK(two.wait_for_peer(0ns).has_value());
    CHECK(read_number(two) == 5);
  }

  TEST_CASE("a creator sleeps until its peer has come") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    auto one = shm_stream::create(name, small);
    std::thread waiting([&] { CHECK(one.wait_for_peer().has_value()); });
    auto two = shm_stream::open(name);
    waiting.join();
  }

  // ---- batches ------------------------------------------------------------------------------

  TEST_CASE("a batch is one publication, and is read as one") {
    pair both;
    std::vector<std::uint64_t> numbers(32);
    std::vector<std::span<const std::byte>> records;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = i;
      records.push_back(as_record(numbers[i]));
    }
    CHECK(both.one.write_batch(records).value() == 32);
    const auto stats = both.one.stats();
    CHECK(stats.wakeups_sent + stats.wakeups_spared == 1);

    shm_batch batch;
    CHECK(both.two.read_batch(batch, 20).value() == 20U);
    CHECK(both.two.read_batch(batch).value() == 12U);
    CHECK(std::memcmp(batch[11].data(), &numbers[31], sizeof numbers[31]) == 0);
    CHECK(error_of(both.two.read_batch(batch, 64, 0ns)) == errc::timed_out);
    CHECK(batch.empty());
  }

  TEST_CASE("a batch that does not fit says how much was written when its time is up") {
    pair both;
    const bytes part = pattern(1000, 1);
    const std::vector<std::span<const std::byte>> records(6, part);
    CHECK(both.one.write_batch(records, 0ns).value() == 4);
    CHECK(error_of(both.one.write_batch(records, 0ns)) == errc::timed_out);
    shm_batch batch(1500);  // takes one at a time
    for (int i = 0; i < 4; ++i) CHECK(both.two.read_batch(batch).value() == 1U);
  }

  TEST_CASE("a batch makes room for a record that is larger than itself") {
    pair both;
    REQUIRE(both.one.write(pattern(1000, 9)).has_value());
    shm_batch batch(10);
    REQUIRE(both.two.read_batch(batch).value() == 1U);
    CHECK(bytes(batch[0].begin(), batch[0].end()) == pattern(1000, 9));
  }

  TEST_CASE("a batch larger than the ring passes while somebody reads") {
    pair both;
    const bytes part = pattern(1000, 1);
    const std::vector<std::span<const std::byte>> records(1000, part);
    std::thread writing([&] { CHECK(both.one.write_batch(records).value() == records.size()); });
    shm_batch batch;
    std::size_t read = 0;
    while (read < records.size()) read += both.two.read_batch(batch).value().value();
    writing.join();
    CHECK(read == records.size());
  }

  // ---- bytes --------------------------------------------------------------------------------

  TEST_CASE("bytes of many times the ring arrive whole") {
    pair both;
    const bytes all = pattern(3'000'001, 5);
    std::thread writing([&] {
      CHECK(both.one.write_all(all).value() == all.size());
      both.one.close_writing();
    });
    bytes got(all.size());
    CHECK(both.two.read_exact(got).value() == got.size());
    CHECK(got == all);
    CHECK_FALSE(both.two.read_exact(got).value().has_value());
    writing.join();
  }

  TEST_CASE("exact reads cut and join records, and what is left of one can be read as a record") {
    pair both;
    for (const std::uint64_t i : {1U, 2U, 3U}) REQUIRE(both.one.write(pattern(100, i)).has_value());
    bytes got(150);
    CHECK(both.two.read_exact(got).value() == 150U);
    const bytes second = pattern(100, 2);
    CHECK(std::equal(second.begin(), second.begin() + 50, got.begin() + 100));
    bytes rest;
    CHECK(both.two.read(rest).value() == 50U);
    CHECK(rest == bytes(second.begin() + 50, second.end()));
    both.one.close();
    CHECK(both.two.read_exact(got).value() == 100U);  // and no more will come
    CHECK_FALSE(both.two.read_exact(got).value().has_value());
  }

  TEST_CASE("bytes whose time is up are counted") {
    pair both;
    const bytes all(10'000);
    const auto written = both.one.write_all(all, 0ns).value();
    CHECK(written > 1000);
    CHECK(written < page);
    CHECK(error_of(both.one.write_all(all, 0ns)) == errc::timed_out);
    bytes got(10'000);
    CHECK(both.two.read_exact(got, 0ns).value() == written);
    CHECK(error_of(both.two.read_exact(got, 0ns)) == errc::timed_out);
  }

  // ---- waiting ------------------------------------------------------------------------------

  TEST_CASE("a call waits as long as it may, and no shorter") {
    pair both(sleepy);
    const auto begin = std::chrono::steady_clock::now();
    bytes into;
    CHECK(error_of(both.two.read(into, 12ms)) == errc::timed_out);
    CHECK(std::chrono::steady_clock::now() - begin >= 12ms);

    while (write_number(both.one, 1, 0ns)) continue;
    const auto again = std::chrono::steady_clock::now();
    CHECK(error_of(both.one.write(as_record(1), 12ms)) == errc::timed_out);
    CHECK(std::chrono::steady_clock::now() - again >= 12ms);
  }

  // Goal: no wake-up is lost, of readers and writers. Method: a ring of a few records whose two
  // ends sleep at once when they have to wait; peer_check is far above the watchdog's patience,
  // so that nobody wakes by looking.
  TEST_CASE("no wake-up is lost between two threads") {
    auto options = sleepy;
    options.peer_check = 1h;
    pair both(options);
    constexpr std::uint64_t rounds = 30'000;
    std::thread answering([&] {
      for (std::uint64_t i = 0; i < rounds; ++i) {
        if (read_number(both.two) != i || !write_number(both.two, i)) return;
      }
      bytes large;
      while (both.two.read(large).value().has_value()) continue;
    });
    for (std::uint64_t i = 0; i < rounds; ++i) {
      REQUIRE(write_number(both.one, i));
      REQUIRE(read_number(both.one) == i);
    }
    const bytes large = pattern(1500, 1);
    for (int i = 0; i < 5000; ++i) REQUIRE(both.one.write(large).has_value());
    both.one.close();
    answering.join();
    CHECK(both.one.stats().sleeps > 0);
  }

  TEST_CASE("counters count, and stay zero when they are switched off") {
    for (const bool metrics : {true, false}) {
      auto options = small;
      options.metrics = metrics;
      pair both(options);
      for (int i = 0; i < 2000; ++i) {
        REQUIRE(write_number(both.one, 1));
        REQUIRE(read_number(both.two) == 1);
      }
      while (write_number(both.one, 1, 0ns)) continue;
      CHECK(error_of(both.one.write(bytes(page))) == errc::too_large);
      const auto out = both.one.stats();
      const auto in = both.two.stats();
      const std::uint64_t on = metrics ? 1 : 0;
      CHECK(out.writes >= 2000 * on);
      CHECK(out.writes * 8 == out.bytes_written);
      CHECK(in.reads == 2000 * on);
      CHECK(in.bytes_read == 16'000 * on);
      CHECK(out.full_stalls == on);
      CHECK(out.errors == on);
      CHECK(out.write_time.total() >= 2 * on);
      CHECK(in.read_time.total() == 2 * on);
      CHECK((out.writes != 0) == metrics);
    }
  }

  TEST_CASE("counters agree with each other whenever they are read, and none goes back") {
    hawser::shm::tally counts;
    std::atomic<bool> done{false};
    std::thread reading([&] {
      hawser::shm::tally::sums before;
      while (!done.load()) {
        const auto now = counts.get();
        if (now.bytes != now.records * 8 || now.records < before.records ||
            now.alone < before.alone) {
          FAIL_CHECK("records " << now.records << ", bytes " << now.bytes);
          return;
        }
        before = now;
      }
    });
    unsigned carried = 0;
    for (std::uint64_t i = 0; i < 300'000; ++i) {
      if (counts.is_full()) {
        counts.carry();
        ++carried;
      }
      i % 3 == 2 ? counts.add(2, 16) : counts.add(8);
    }
    done = true;
    reading.join();
    const auto all = counts.get();
    CHECK(all.records == 400'000);
    CHECK(all.bytes == 8 * 400'000);
    CHECK(all.alone == 200'000);
    CHECK(carried == 200);

    // The largest records there are do not run over into their number.
    hawser::shm::tally large;
    for (unsigned i = 0; i < 2500; ++i) {
      if (large.is_full()) large.carry();
      large.add(std::uint64_t{1} << 29);
    }
    CHECK(large.get().records == 2500);
    CHECK(large.get().bytes == std::uint64_t{2500} << 29);
  }

  // ---- the end ------------------------------------------------------------------------------

  TEST_CASE("a half-closed end reads on, and its peer reads the end after all that was written") {
    pair both;
    REQUIRE(write_number(both.one, 1));
    both.one.close_writing();
    CHECK(error_of(both.one.write(as_record(2))) == errc::closed);
    CHECK(read_number(both.two) == 1);
    bytes into;
    CHECK_FALSE(both.two.read(into).value().has_value());
    CHECK_FALSE(both.two.read(into).value().has_value());
    REQUIRE(write_number(both.two, 3));
    CHECK(read_number(both.one) == 3);
  }

  TEST_CASE("a closed end does nothing more, and its peer cannot write") {
    pair both;
    REQUIRE(write_number(both.one, 1));
    REQUIRE(write_number(both.two, 1));
    both.one.close();
    bytes into;
    CHECK(error_of(both.one.read(into)) == errc::closed);
    CHECK(error_of(both.one.write(as_record(2))) == errc::closed);
    CHECK(error_of(both.one.wait_for_peer()) == errc::closed);
    CHECK(error_of(both.two.write(as_record(2))) == errc::closed);
    CHECK(read_number(both.two) == 1);
    CHECK_FALSE(both.two.read(into).value().has_value());
  }

  TEST_CASE("close() ends calls that sleep in other threads, here and in the peer") {
    for (const bool by_peer : {false, true}) {
      auto options = sleepy;
      options.peer_check = 1h;
      pair both(options);
      while (write_number(both.one, 1, 0ns)) continue;
      std::thread reading([&] {
        bytes into;
        const auto got = both.one.read(into);
        if (by_peer) {
          CHECK((got.has_value() && !got->has_value()));
        } else {
          CHECK(error_of(got) == errc::closed);
        }
      });
      std::thread writing([&] { CHECK(error_of(both.one.write(as_record(2))) == errc::closed); });
      until_asleep(both.one, 2);
      (by_peer ? both.two : both.one).close();
      reading.join();
      writing.join();
    }
  }

  TEST_CASE("close_writing() ends a write that sleeps in another thread") {
    auto options = sleepy;
    options.peer_check = 1h;
    pair both(options);
    while (write_number(both.one, 1, 0ns)) continue;
    std::thread writing([&] { CHECK(error_of(both.one.write(as_record(2))) == errc::closed); });
    until_asleep(both.one);
    both.one.close_writing();
    writing.join();
  }

  TEST_CASE("an end that is moved is the same end") {
    pair both;
    REQUIRE(write_number(both.one, 1));
    shm_stream moved(std::move(both.two));
    CHECK(read_number(moved) == 1);
    moved = shm_stream::create(unique_stream(), small);
    CHECK(error_of(both.one.write(as_record(1))) == errc::closed);
  }

  TEST_CASE("the example of the migration reads everything, and says what went wrong") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    auto producer = shm_stream::create(name, small);
    std::thread producing([&] {
      for (int i = 0; i < 1000; ++i) CHECK(producer.write(pattern(30, 1)).has_value());
      producer.close();
    });
    CHECK(migrated::consume(name, 10s).value() == 30'000);
    producing.join();
    const auto silent = shm_stream::create(name, small);
    CHECK(error_of(migrated::consume(name, 0ns)) == errc::timed_out);
  }

  // ---- names --------------------------------------------------------------------------------

  TEST_CASE("what is no name is refused, and options out of range") {
    for (const std::string bad : {"", "/a", "a/b", ".a", "-a", "a b", "\n"}) {
      CHECK(error_of_create(bad) == errc::bad_uri);
      CHECK(error_of_open(bad) == errc::bad_uri);
    }
    CHECK(error_of_create(std::string(65, 'a')) == errc::bad_uri);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{2048}, std::size_t{5000}, std::size_t{2} << 30}) {
      CHECK(error_of_create("a", {.ring_bytes = size}) == errc::bad_config);
    }
    CHECK(error_of_create("a", {.peer_check = 1us}) == errc::bad_config);
    const hawser::spin_policy endless{hawser::spin_policy::mode::fixed, 1s};
    CHECK(error_of_create("a", {.spin = endless}) == errc::bad_config);
  }

  TEST_CASE("a name is private, leads to one peer, and is gone when that has come") {
    const auto name = unique_stream();
    CHECK(error_of_open(name) == errc::unreachable);
    auto one = shm_stream::create(name, small);
    struct stat found {};
    REQUIRE(::stat(path_of(name).c_str(), &found) == 0);
    CHECK((found.st_mode & 07777) == 0600);
    CHECK(found.st_size < 100);  // a note; the memory is elsewhere
    CHECK(error_of_create(name, small) == errc::address_in_use);
    {
      auto two = shm_stream::open(name);
      CHECK_FALSE(exists(name));
      CHECK(error_of_open(name) == errc::unreachable);
    }
    auto next = shm_stream::create(name, small);
    one = shm_stream::create(unique_stream(), small);  // the first goes, and leaves the name alone
    CHECK(exists(name));
  }

  TEST_CASE("a name goes with its creator") {
    const auto name = unique_stream();
    { const auto one = shm_stream::create(name, small); }
    CHECK_FALSE(exists(name));
  }

  TEST_CASE("what is open to others, or another user's, is not believed") {
    const auto name = unique_stream();
    {
      const squatter open_to_all(name, "", 0666);
      CHECK(error_of_open(name) == errc::unauthorized);
      CHECK(error_of_create(name) == errc::unauthorized);
    }
    if (::geteuid() != 0) return test::skip("only the superuser can give files away");
    const squatter foreign(name, "");
    foreign.give_to(12345);
    CHECK(error_of_open(name) == errc::unauthorized);
    CHECK(error_of_create(name) == errc::unauthorized);
  }

  TEST_CASE("what is no note is not followed, and not taken away") {
    const auto name = unique_stream();
    const squatter other(name, std::string(40, 'x'));
    CHECK(error_of_open(name) == errc::unsupported);
    CHECK(error_of_create(name) == errc::unsupported);
    CHECK(exists(name));
  }

  TEST_CASE("a note that leads to anything but memory of a stream is not followed") {
    struct forged {
      std::array<char, 8> magic{'h', 'a', 'w', 's', 'e', 'r', 's', 'n'};
      std::int64_t process = ::getpid();
      std::uint64_t started = platform::current_process().started;
      std::int64_t memory = -1;
    };
    const auto name = unique_stream();
    const auto error_with = [&](const forged& note) {
      const squatter made(name, std::string(reinterpret_cast<const char*>(&note), sizeof note));
      return error_of_open(name);
    };
    const auto error_of_memory = [&](int file) {
      forged note;
      note.memory = file;
      const auto error = error_with(note);
      ::close(file);
      return error;
    };
    constexpr auto whole = static_cast<off_t>(3 * page);
    const int unsealed = ::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(::ftruncate(unsealed, whole) == 0);
    const auto header = std::make_unique<shm::stream_header>();
    header->ring_bytes = page;
    REQUIRE(::pwrite(unsealed, header.get(), sizeof *header, 0) == sizeof *header);
    CHECK(error_of_memory(unsealed) == errc::unsupported);
    std::array<int, 2> pipe{};
    REQUIRE(::pipe2(pipe.data(), O_CLOEXEC) == 0);
    CHECK(error_of_memory(pipe[0]) == errc::unsupported);
    ::close(pipe[1]);
    for (const std::size_t size : {page, 2 * page, 3 * page, 3 * page + 1}) {
      CHECK(error_of_memory(static_cast<int>(platform::create_memory(size))) == errc::unsupported);
    }
    CHECK(error_of_memory(-1) == errc::unreachable);
    forged older;
    ++older.started;
    CHECK(error_with(older) == errc::unreachable);
    forged nobody;
    nobody.process = 1 << 30;
    CHECK(error_with(nobody) == errc::unreachable);
  }

  TEST_CASE("a note that is being made is respected, and one that never will be is replaced") {
    const auto name = unique_stream();
    const squatter unfinished(name, "");
    CHECK(error_of_open(name) == errc::unreachable);
    {
      const squatter held(name, "");
      held.lock(0);
      CHECK(error_of_create(name) == errc::address_in_use);
    }
    const squatter left(name, "");
    auto one = shm_stream::create(name, small);
    auto two = shm_stream::open(name);
    CHECK(write_number(one, 1));
  }

  TEST_CASE("a name that somebody holds is left to him") {
    const auto name = unique_stream();
    const auto one = shm_stream::create(name, small);
    const auto full = platform::memory_name(name);
    const auto found = platform::find_memory(full);
    CHECK(error_of_open(name) == errc::refused);
    platform::release_handle(found.note);
    platform::release_handle(found.memory);
    const auto two = shm_stream::open(name);
  }

  TEST_CASE("many that want one name: one creates it, one opens it") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> created{0};
      std::atomic<int> opened{0};
      std::atomic<int> tried{0};
      const auto contend = [&] {
        std::vector<shm_stream> kept;
        const auto once = [&](std::atomic<int>& count, auto make) {
          try {
            kept.push_back(make());
            ++count;
          } catch (const std::system_error&) {
          }
        };
        once(created, [&] { return shm_stream::create(name, small); });
        ++tried;
        until([&] { return tried >= 4; });
        once(opened, [&] { return shm_stream::open(name); });
        ++tried;
        until([&] { return tried >= 8; });
      };
      std::vector<std::thread> all;
      for (int i = 0; i < 4; ++i) all.emplace_back(contend);
      for (auto& each : all) each.join();
      CHECK(created == 1);
      CHECK(opened == 1);
      CHECK_FALSE(exists(name));
    }
  }

  // ---- other processes ----------------------------------------------------------------------

  TEST_CASE("child: echo" * doctest::skip()) {
    auto own = shm_stream::open(test::process_argument());
    bytes record;
    while (own.read(record).value().has_value()) own.write(record).value();
  }

  TEST_CASE("two processes answer each other, and end in order") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    for (const auto& options : {small, sleepy}) {
      auto one = shm_stream::create(name, options);
      process peer("echo", name);
      bytes got;
      for (std::uint64_t i = 0; i < 3000; ++i) {
        const bytes sent = pattern(i % 1900, i);
        REQUIRE(one.write(sent).has_value());
        REQUIRE(one.read(got).value().has_value());
        REQUIRE(got == sent);
      }
      one.close_writing();
      CHECK_FALSE(one.read(got).value().has_value());
      CHECK(peer.join());
    }
  }

  TEST_CASE("child: speaks and hangs" * doctest::skip()) {
    const auto name = test::process_argument();
    auto own = shm_stream::open(name);
    for (std::uint64_t i = 0; i < 100; ++i) REQUIRE(write_number(own, i));
    const auto done = shm_stream::create(name + ".done", small);
    for (;;) ::pause();
  }

  TEST_CASE("what a killed peer has written is read before it is lost") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    auto one = shm_stream::create(name, sleepy);
    process peer("speaks and hangs", name);
    until([&] { return exists(name + ".done"); });
    peer.signal(SIGKILL);
    peer.join();

    for (std::uint64_t i = 0; i < 100; ++i) REQUIRE(read_number(one) == i);
    bytes into;
    CHECK(error_of(one.read(into)) == errc::link_lost);
    CHECK(error_of(one.read(into, 0ns)) == errc::link_lost);
    const auto replaced = shm_stream::create(name + ".done", small);
  }

  TEST_CASE("child: hangs" * doctest::skip()) {
    const auto own = shm_stream::open(test::process_argument());
    for (;;) ::pause();
  }

  TEST_CASE("calls that sleep notice that the peer is killed") {
    const test::watchdog guard(60s);
    const auto name = unique_stream();
    auto one = shm_stream::create(name, sleepy);
    process peer("hangs", name);
    REQUIRE(one.wait_for_peer().has_value());
    while (write_number(one, 1, 0ns)) continue;
    std::thread writing([&] { CHECK(error_of(one.write(as_record(1))) == errc::link_lost); });
    std::thread reading([&] {
      bytes into;
      CHECK(error_of(one.read(into)) == errc::link_lost);
    });
    until_asleep(one, 2);
    peer.signal(SIGKILL);
    writing.join();
    reading.join();
  }

  TEST_CASE("child: creates and hangs" * doctest::skip()) {
    std::array<std::string, 2> names;
    const auto both = test::process_argument();
    names[0] = both.substr(0, both.find(' '));
    names[1] = both.substr(both.find(' ') + 1);
    const auto left = shm_stream::create(names[0], sleepy);
    auto used = shm_stream::create(names[1], sleepy);
    for (;;) ::pause();
  }

  TEST_CASE("a name that a killed process has left is no one's, and can be had") {
    const test::watchdog guard(60s);
    const auto stale = unique_stream();
    const auto used = unique_stream();
    process maker("creates and hangs", stale + ' ' + used);
    until([&] { return exists(used); });
    std::optional<shm_stream> two;
    until([&] { return !error_of([&] { two.emplace(shm_stream::open(used, sleepy)); }); });
    CHECK(error_of_create(stale, small) == errc::address_in_use);

    std::thread reading([&] {
      bytes into;
      CHECK(error_of(two->read(into)) == errc::link_lost);
    });
    until_asleep(*two);
    maker.signal(SIGKILL);
    reading.join();

    CHECK(exists(stale));
    CHECK(error_of_open(stale) == errc::unreachable);
    auto one = shm_stream::create(stale, small);
    auto next = shm_stream::open(stale);
    CHECK(write_number(one, 1));
    CHECK(read_number(next) == 1);
  }

  // ---- peers that lie -----------------------------------------------------------------------

  TEST_CASE("a peer cannot change the size of the memory") {
    const auto name = unique_stream();
    auto one = shm_stream::create(name, small);
    const liar peer(name);
    CHECK(::ftruncate(peer.memory(), 0) != 0);
    CHECK(::ftruncate(peer.memory(), 1 << 20) != 0);
    CHECK(write_number(one, 1));
  }

  TEST_CASE("a record that cannot be ends the stream, for the peer too") {
    const std::array<std::uint64_t, 6> headers{
        7,                                                     // shorter than itself
        shm::record_header(3, shm::record_kind::data),         // likewise
        shm::record_header(page + 8, shm::record_kind::data),  // beyond the ring
        shm::record_header(page, shm::record_kind::data),      // all of it
        std::uint64_t{3} << 32 | 16,                           // of no kind
        ~std::uint64_t{0}};
    for (const auto header : headers) {
      const auto name = unique_stream();
      auto one = shm_stream::create(name, small);
      const liar peer(name);
      peer.write_header(header);
      bytes into;
      CHECK(error_of(one.read(into)) == errc::protocol_violation);
      CHECK(error_of(one.read(into)) == errc::protocol_violation);
      CHECK(error_of(one.write(as_record(1))) == errc::protocol_violation);
      CHECK(peer.header().ways[0].writer_half.load() == 2);
      CHECK(peer.header().ways[1].reader_half.load() == 2);
    }
  }

  TEST_CASE("a reader that counts what was never written ends the stream") {
    const auto name = unique_stream();
    auto one = shm_stream::create(name, small);
    const liar peer(name);
    peer.header().ways[0].ring.consumed = 1'000'000;
    bytes large = pattern(1500, 1);
    std::error_code error;
    for (int i = 0; i < 5 && !error; ++i) error = error_of(one.write(large, 0ns));
    CHECK(error == errc::protocol_violation);
  }

  TEST_CASE("a peer that breaks off without dying is lost") {
    for (const std::uint32_t word : {2U, 77U}) {
      const auto name = unique_stream();
      auto one = shm_stream::create(name, small);
      const liar peer(name);
      peer.header().ways[1].writer_half = word;
      peer.header().ways[0].reader_half = word;
      bytes into;
      CHECK(error_of(one.read(into)) == errc::link_lost);
      CHECK(error_of(one.write(as_record(1))) == errc::link_lost);
    }
  }

  // Goal: nothing a peer writes anywhere makes us touch what is not ours, or hang beyond our time.
  TEST_CASE("a peer that rewrites everything at random harms nobody") {
    const test::watchdog guard(100s);
    std::mt19937_64 random(test::seed());
    std::uint64_t ended = 0;
    for (int round = 0; round < 300; ++round) {
      const auto name = unique_stream();
      auto one = shm_stream::create(name, small);
      const liar peer(name);
      std::atomic<bool> stop{false};
      std::thread scribbling([&, seed = random()] {
        std::mt19937_64 own(seed);
        auto* const words = reinterpret_cast<std::atomic<std::uint64_t>*>(peer.first());
        while (!stop) {
          // Where records begin, most of the time.
          const std::size_t at = own() % 4 == 0 ? own() % (peer.size() / 8)
                                                : shm::stream_rings_at / 8 + page / 8 + own() % 4;
          words[at].store(own() % 2 == 0 ? own() : 1ULL << 32 | own() % 300);
        }
      });
      bytes into(page);
      const bytes sent = pattern(200, 1);
      const auto is_over = [](const std::error_code& error) {
        return error && error != errc::timed_out && error != errc::too_large;
      };
      for (int i = 0; i < 100; ++i) {
        const auto wrote = error_of(one.write(sent, 20us));
        const auto read = error_of(one.read(std::span(into), 20us));
        if (is_over(wrote) || is_over(read)) {
          ++ended;
          break;
        }
      }
      stop = true;
      scribbling.join();
    }
    CHECK(ended > 0);
  }
}
