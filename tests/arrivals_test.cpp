// SPDX-License-Identifier: Apache-2.0
// What has arrived and was not taken: messages of their own and runs of plain frames, in order.
#include "wire/arrivals.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace wire = hawser::wire;
using hawser::detail::block;

constexpr std::size_t lane = 4;

/// Plain frames in a block that we keep a reference to.
class frames {
 public:
  explicit frames(const std::vector<std::string>& payloads) : block_(make(payloads)) {
    run_ = {block_, block_->data(), static_cast<std::uint32_t>(payloads.size())};
    block_->references += run_.left;
  }
  frames(const frames&) = delete;
  frames& operator=(const frames&) = delete;
  ~frames() { hawser::detail::release(block_); }

  [[nodiscard]] const wire::plain_run& run() const { return run_; }
  [[nodiscard]] std::uint32_t shared() const { return block_->references - 1; }

 private:
  static block* make(const std::vector<std::string>& payloads) {
    block* const made = hawser::detail::allocate_block(4096);
    std::byte* at = made->data();
    for (const auto& each : payloads) {
      const auto start = wire::plain::start(lane, each.size());
      wire::store_little_endian(at, start);
      std::memcpy(at + wire::plain::prefix_bytes, each.data(), each.size());
      at += wire::plain::frame_bytes(start);
    }
    return made;
  }

  block* block_;
  wire::plain_run run_;
};

std::string text_of(const wire::inbound& message) {
  const auto bytes = message.payload.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void add_own(wire::arrivals& to, std::string_view text, std::uint64_t cost) {
  to.add(lane, cost).payload = hawser::shared_buffer(hawser::buffer::copy_of(text));
}

}  // namespace

TEST_SUITE("arrivals") {
  TEST_CASE("a run is cut into its messages, each with its cost and a reference to the block") {
    frames three({"a", "four", "ninebytes"});
    wire::arrivals queue;
    queue.add(three.run());
    CHECK(queue.size() == 3);

    std::optional<wire::inbound> first = queue.take(lane);
    CHECK(text_of(*first) == "a");
    CHECK(first->cost == 16 + wire::message_overhead);
    CHECK(first->lane == lane);
    CHECK(text_of(queue.take(lane)) == "four");
    CHECK(three.shared() == 2);
    const auto last = queue.take(lane);
    CHECK(text_of(last) == "ninebytes");
    CHECK(last.cost == 24 + wire::message_overhead);
    CHECK(queue.empty());
    first.reset();
    CHECK(three.shared() == 1);
  }

  TEST_CASE("runs and messages of their own keep their order") {
    frames before({"1", "2"});
    frames after({"4"});
    wire::arrivals queue;
    queue.add(before.run());
    add_own(queue, "3", 100);
    queue.add(after.run());

    CHECK(queue.size() == 4);
    CHECK(text_of(queue.take(lane)) == "1");
    CHECK(text_of(queue.take(lane)) == "2");
    const auto own = queue.take(lane);
    CHECK(text_of(own) == "3");
    CHECK(own.cost == 100);
    CHECK(text_of(queue.take(lane)) == "4");
    CHECK(queue.empty());
  }

  TEST_CASE("what nobody takes gives its references back") {
    frames three({"a", "b", "c"});
    {
      wire::arrivals queue;
      queue.add(three.run());
      add_own(queue, "own", 100);
      static_cast<void>(queue.take(lane));
      CHECK(three.shared() == 2);
    }
    CHECK(three.shared() == 0);
  }
}
