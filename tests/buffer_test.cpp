// SPDX-License-Identifier: Apache-2.0
#include "hawser/buffer.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "core/sanitizer.hpp"
#include "support/environment.hpp"

TEST_SUITE("buffer") {
  using hawser::buffer;
  using hawser::shared_buffer;

  bool is_aligned(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % 64 == 0;
  }

  TEST_CASE("a buffer of any size is 64-aligned and writable to its end") {
    for (const std::size_t size :
         {0UL, 1UL, 255UL, 256UL, 257UL, 4096UL, 1UL << 20, (1UL << 20) + 1, 3UL << 20}) {
      buffer bytes(size);

      CHECK(bytes.size() == size);
      CHECK(is_aligned(bytes.data()));
      std::memset(bytes.data(), 7, size);
    }
  }

  TEST_CASE("a size that no memory has is refused with bad_alloc") {
    CHECK_THROWS_AS(buffer(SIZE_MAX), std::bad_alloc);
    CHECK_THROWS_AS(buffer(SIZE_MAX / 2), std::bad_alloc);
  }

  TEST_CASE("a freed block is given out again") {
    if (hawser::detail::sanitized) return;  // by design it is not
    const std::byte* const first = buffer(1000).data();

    buffer again(600);  // the same class

    CHECK(again.data() == first);
  }

  TEST_CASE("moving leaves an empty buffer behind") {
    buffer from = buffer::copy_of("hello");

    const buffer to = std::move(from);

    CHECK(from.empty());
    CHECK(from.data() == nullptr);
    CHECK(to.size() == 5);
  }

  TEST_CASE("a slice keeps the bytes alive") {
    shared_buffer part;
    {
      const shared_buffer whole(buffer::copy_of("hello world"));
      part = whole.slice(6, 5);
    }

    CHECK(std::memcmp(part.data(), "world", 5) == 0);
  }

  TEST_CASE("a budget is charged from pin_block until the last owner goes") {
    auto* const budget = new hawser::detail::pin_budget;
    {
      hawser::detail::block* const block = hawser::detail::allocate_block(5000);
      hawser::detail::pin_block(block, *budget);
      shared_buffer one(block, {block->data(), 10});
      const shared_buffer two = one;
      one = shared_buffer();

      CHECK(budget->pinned_bytes.load() == block->capacity);
    }
    CHECK(budget->pinned_bytes.load() == 0);
    CHECK(budget->references.load() == 1);
    hawser::detail::release_budget(budget);
  }

  TEST_CASE("a budget lives as long as a block that is charged to it") {
    auto* const budget = new hawser::detail::pin_budget;
    hawser::detail::block* const block = hawser::detail::allocate_block(1);
    hawser::detail::pin_block(block, *budget);

    hawser::detail::release_budget(budget);

    CHECK(budget->pinned_bytes.load() == block->capacity);
    hawser::detail::release(block);  // frees both: the leak check of the sanitizer run says so
  }

  // Goal: blocks may be freed on any thread. Method: in every round each of two threads frees what
  // the other made in the round before; the sizes are random.
  TEST_CASE("blocks travel between threads") {
    constexpr int rounds = 20;
    std::vector<shared_buffer> made[2];
    const auto play = [](std::vector<shared_buffer>& mine, std::vector<shared_buffer> others,
                         std::uint64_t seed) {
      std::mt19937_64 random(seed);
      others.clear();
      for (int i = 0; i < 50; ++i) mine.emplace_back(buffer(random() % (2 << (random() % 21)) + 1));
    };

    for (std::uint64_t round = 0; round < rounds; ++round) {
      std::vector<shared_buffer> given[2];
      given[0].swap(made[0]);
      given[1].swap(made[1]);
      std::thread other(play, std::ref(made[1]), std::move(given[0]), test::seed() + round);
      play(made[0], std::move(given[1]), test::seed() - round);
      other.join();
    }

    CHECK(made[0].size() == 50);
    CHECK(made[1].size() == 50);
  }
}
