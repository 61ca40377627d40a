// SPDX-License-Identifier: Apache-2.0
// Goal: whatever owners of streams do inside and between events, each byte that is read is the one
// that was written there, and each write is reported once, when its memory may go.
// Method: pairs of streams in one reactor write, read, close and wait as the dice say, and write to
// a place anew as soon as its write is reported. What a stream carries at a position is known, so a
// model of it is a number.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "os/reactor.hpp"
#include "support/environment.hpp"
#include "support/reactors.hpp"
#include "support/simulated_wire.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::platform::io_slice;
using hawser::platform::native_handle;
using notice = hawser::stream::notice;
namespace platform = hawser::platform;

constexpr std::size_t place_bytes = 200'000;

constexpr std::byte byte_at(std::uint64_t salt, std::uint64_t position) {
  return static_cast<std::byte>((position * 0x9e3779b97f4a7c15 + salt) >> 56);
}

class world;

// One end of a pair.
class talker final : public hawser::stream_events {
 public:
  talker(world& home, native_handle socket, std::uint64_t salt);

  void pair_with(talker& other) { other_ = &other; }
  void read() {
    if (!std::exchange(reading_, true)) stream_->start_reading();
  }
  void write(std::uint64_t bytes_most);
  void close() {
    if (!std::exchange(closing_, true)) stream_->close();
  }
  // What it was to do is done, and was reported.
  [[nodiscard]] bool rests() const {
    return closing_ ? closed_ : !writing_ && (ended_ || received_ == other_->sent_);
  }
  [[nodiscard]] bool is_closing() const { return closing_; }
  [[nodiscard]] bool is_closed() const { return closed_; }

  std::span<std::byte> direct_space() noexcept override {
    return std::span(direct_).subspan(std::min(direct_filled_, direct_.size()));
  }
  void on_direct(std::size_t bytes) noexcept override {
    check_event();
    CHECK(bytes <= direct_.size() - direct_filled_);
    take({direct_.data() + direct_filled_, bytes});
  }
  void on_block(hawser::detail::block* filled, std::size_t bytes) noexcept override {
    check_event();
    CHECK(bytes != 0);
    take({filled->data(), bytes});
    std::fill_n(filled->data(), bytes, std::byte{0xbb});  // ours alone
    hawser::detail::release(filled);
  }
  void on_end(std::error_code why) noexcept override;
  void on_written(std::error_code error) noexcept override;
  void on_closed() noexcept override {
    CHECK(closing_);
    CHECK_FALSE(std::exchange(closed_, true));
  }

 private:
  void check_event() const {
    CHECK_FALSE(closing_);
    CHECK_FALSE(ended_);
  }
  void take(std::span<const std::byte> bytes);
  void written() {
    writing_ = false;
    std::ranges::fill(place_, std::byte{0xee});
    place_.clear();
  }

  world& home_;
  std::uint64_t salt_;  // of what it writes
  talker* other_ = nullptr;
  std::unique_ptr<hawser::stream> stream_;
  std::vector<std::byte> place_;
  std::vector<std::byte> direct_;
  std::size_t direct_filled_ = 0;
  std::uint64_t sent_ = 0, received_ = 0;
  bool writing_ = false, reading_ = false, failed_ = false;
  bool ended_ = false, closing_ = false, closed_ = false;
};

// A wait for a byte in a pipe, or for a word to change, that may be cancelled; it is told once.
class watcher {
 public:
  explicit watcher(hawser::reactor& home) : home_(home), ends_(platform::socket_pair()) {}
  ~watcher() {
    platform::close(ends_.first);
    platform::close(ends_.second);
  }
  void act(test::dice& dice) {
    if (wait_ && wait_->outcome) {
      if (*wait_->outcome) CHECK(*wait_->outcome == std::errc::operation_canceled);
      CHECK((!*wait_->outcome || cancelled_));
      wait_.reset();
    }
    if (!wait_) {
      if (rung_ && !for_word_) {
        char got = 0;
        CHECK(::read(static_cast<int>(ends_.first), &got, 1) == 1);
      }
      rung_ = cancelled_ = false;
      wait_.emplace();
      for_word_ = home_.waits_for_words() && dice.one_in(2);
      if (for_word_) {
        home_.wait_while(word_, word_.load(), *wait_);
      } else {
        home_.wait(ends_.first, hawser::readiness::kind::readable, *wait_);
      }
    } else if (dice.one_in(3)) {
      cancel();
    } else if (!rung_) {
      rung_ = true;
      if (for_word_) {
        word_.fetch_add(1);
        platform::wake_all(word_);
      } else {
        CHECK(::write(static_cast<int>(ends_.second), "!", 1) == 1);
      }
    }
  }
  void cancel() {
    if (!wait_ || wait_->outcome) return;
    cancelled_ = true;
    home_.cancel_wait(*wait_);
  }
  [[nodiscard]] bool rests() const { return !wait_ || wait_->outcome; }

 private:
  hawser::reactor& home_;
  std::pair<native_handle, native_handle> ends_;
  std::atomic<std::uint32_t> word_{0};
  std::optional<test::waiting> wait_;
  bool for_word_ = false, rung_ = false, cancelled_ = false;
};

class world {
 public:
  world(hawser::reactor& reactor, std::uint64_t seed)
      : reactor_(reactor), dice_(seed), seed_(seed) {
    const auto pairs = dice_.between(1, 6);
    closes_ = dice_.one_in(2);
    bytes_left_ = dice_.between(100'000, 3'000'000);
    for (std::uint64_t i = 0; i < pairs; ++i) {
      const auto [left, right] = dice_.one_in(2) ? platform::socket_pair() : test::tcp_pair();
      auto& one = talkers_.emplace_back(*this, left, dice_.any());
      auto& two = talkers_.emplace_back(*this, right, dice_.any());
      one.pair_with(two);
      two.pair_with(one);
    }
    for (auto& each : watchers_) each.emplace(reactor_);
  }
  void run() {
    while (bytes_left_ != 0 && std::ranges::any_of(talkers_, is_open)) step();
    for (auto& each : talkers_) each.read();
    watching_ = false;
    for (auto& each : watchers_) each->cancel();
    test::turn_until(reactor_, [&] { return std::ranges::all_of(talkers_, &talker::rests); });
    test::turn_until(reactor_, [&] {
      return std::ranges::all_of(watchers_, [](auto& each) { return each->rests(); });
    });
    acting_ = false;
    for (auto& each : talkers_) each.close();
    test::turn_until(reactor_, [&] { return std::ranges::all_of(talkers_, &talker::is_closed); });
    CHECK_FALSE(reactor_.has_waits());
  }

  // What an owner may do inside an event, with any stream.
  void inside_event() {
    if (!acting_) return;
    while (dice_.one_in(2)) any().write(std::min(size(), bytes_left_));
    if (closes_ && dice_.one_in(300)) any().close();
    if (watching_ && dice_.one_in(20)) watchers_[dice_.below(watchers_.size())]->act(dice_);
  }
  void spend(std::uint64_t bytes) { bytes_left_ -= bytes; }
  [[nodiscard]] hawser::reactor& reactor() const { return reactor_; }
  [[nodiscard]] test::dice& dice() { return dice_; }
  [[nodiscard]] std::uint64_t seed() const { return seed_; }
  // Mostly a message or two, sometimes more than a socket takes.
  [[nodiscard]] std::uint64_t size() {
    static constexpr std::array<std::uint64_t, 6> most{10, 100, 1500, 5000, 40'000, place_bytes};
    return dice_.between(1, most[dice_.below(most.size())]);
  }

 private:
  static bool is_open(const talker& one) { return !one.is_closing(); }
  talker& any() { return talkers_[dice_.below(talkers_.size())]; }
  void step() {
    switch (dice_.below(8)) {
      case 0:
        return any().read();
      case 1:
      case 2:
        return inside_event();
      case 3:
        return reactor_.submit();
      case 4:
      case 5:
        for (auto looks = dice_.below(20); looks != 0; --looks) reactor_.poll();
        return;
      default:
        return reactor_.turn(dice_.one_in(4) ? 100us : 0us);
    }
  }

  hawser::reactor& reactor_;
  test::dice dice_;
  std::uint64_t seed_;
  std::deque<talker> talkers_;
  std::array<std::optional<watcher>, 2> watchers_;
  std::uint64_t bytes_left_ = 0;
  bool closes_ = false, watching_ = true, acting_ = true;
};

talker::talker(world& home, native_handle socket, std::uint64_t salt)
    : home_(home), salt_(salt), stream_(home.reactor().open(socket, *this)) {
  place_.reserve(place_bytes);
}

void talker::write(std::uint64_t bytes_most) {
  if (writing_ || closing_ || failed_ || bytes_most == 0) return;
  const auto bytes = std::min<std::uint64_t>(bytes_most, place_bytes);
  for (std::uint64_t i = 0; i < bytes; ++i) place_.push_back(byte_at(salt_, sent_ + i));
  sent_ += bytes;
  home_.spend(bytes);
  std::vector<io_slice> slices;
  for (std::size_t begin = 0; begin < bytes;) {
    const bool last = slices.size() + 1 == hawser::stream::max_slices;
    const auto part = last ? bytes - begin : home_.dice().between(1, bytes - begin);
    slices.push_back({place_.data() + begin, part});
    begin += part;
  }
  writing_ = true;
  if (stream_->write(slices, home_.dice().one_in(3) ? notice::soon : notice::late)) written();
}

void talker::take(std::span<const std::byte> bytes) {
  for (const std::byte each : bytes) {
    if (each == byte_at(other_->salt_, received_)) {
      ++received_;
      continue;
    }
    FAIL_CHECK("seed " << home_.seed() << ": another byte at " << received_);
    break;
  }
  CHECK(received_ <= other_->sent_);
  direct_filled_ += bytes.size();
  if (direct_filled_ >= direct_.size()) {
    direct_.assign(home_.dice().one_in(3) ? home_.size() : 0, std::byte{0xdd});
    direct_filled_ = 0;
  }
  home_.inside_event();
}

// Bytes before the end are there, unless somebody broke off.
void talker::on_end(std::error_code why) noexcept {
  check_event();
  ended_ = true;
  CHECK(other_->closing_);
  if (why) CHECK(why == std::errc::connection_reset);
  home_.inside_event();
}

void talker::on_written(std::error_code error) noexcept {
  CHECK_FALSE(closing_);
  CHECK(writing_);
  if (error) {
    failed_ = true;
    CHECK(other_->closing_);
  }
  written();
  home_.inside_event();
}

}  // namespace

TEST_SUITE("reactor_stress") {
  TEST_CASE(
      "streams that write, read, close and wait as the dice say: nothing is lost or altered") {
    const auto worlds = test::asked("HAWSER_REACTOR_WORLDS", 300);
    for (std::uint64_t seed = test::seed(); seed != test::seed() + worlds; ++seed) {
      CAPTURE(seed);
      const test::guarded_reactor reactor;
      if (!reactor) return;
      world(*reactor, seed).run();
    }
  }
}
