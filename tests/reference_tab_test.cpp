// SPDX-License-Identifier: Apache-2.0
#include "link/reference_tab.hpp"

#include <doctest/doctest.h>

#include <cstddef>

namespace {

using hawser::detail::allocate_block;
using hawser::detail::block;
using hawser::detail::pin_block;
using hawser::detail::pin_budget;
using hawser::detail::reference_tab;

// A block whose recycling is seen in a budget, with so many references.
struct seen {
  explicit seen(std::uint32_t references, std::size_t bytes = 4000)
      : budget(*new pin_budget), used(*allocate_block(bytes)) {
    pin_block(&used, budget);
    used.references = references;
  }
  ~seen() { hawser::detail::release_budget(&budget); }
  [[nodiscard]] bool is_recycled() const { return budget.pinned_bytes == 0; }

  pin_budget& budget;
  block& used;
};

struct owner final : hawser::detail::block_owner {
  void take_back(block& /*unused*/) noexcept override { ++taken; }
  int taken = 0;
};

}  // namespace

TEST_SUITE("reference_tab") {
  TEST_CASE("a block goes with the last of its references, and not before") {
    seen one(3);
    reference_tab tab;

    tab.add(one.used);
    tab.add(one.used);
    CHECK_FALSE(one.is_recycled());
    tab.add(one.used);

    CHECK(one.is_recycled());
    tab.settle();
  }

  TEST_CASE("references to another block send back those that wait") {
    seen one(3), two(2);
    reference_tab tab;

    tab.add(one.used);
    tab.add(one.used);
    CHECK(one.used.references == 3);
    tab.add(two.used);
    CHECK(one.used.references == 1);
    hawser::detail::release(&one.used);
    tab.add(two.used);

    CHECK(one.is_recycled());
    CHECK(two.is_recycled());
  }

  TEST_CASE("the last reference of a block goes at once, and what waits stays") {
    seen waiting(2), alone(1);
    reference_tab tab;

    tab.add(waiting.used);
    tab.add(alone.used);
    CHECK(alone.is_recycled());
    CHECK(waiting.used.references == 2);
    tab.add(waiting.used);

    CHECK(waiting.is_recycled());
  }

  TEST_CASE("what waits goes back when it is settled, and at the end") {
    seen one(2), two(1);
    {
      reference_tab tab;
      tab.add(one.used);
      hawser::detail::release(&one.used);  // somebody else, elsewhere
      CHECK_FALSE(one.is_recycled());
      tab.settle();
      CHECK(one.is_recycled());
      hawser::detail::retain(&two.used);
      tab.add(two.used);
      hawser::detail::release(&two.used);
      CHECK_FALSE(two.is_recycled());
    }
    CHECK(two.is_recycled());
  }

  TEST_CASE("what is large, or somebody else's, does not wait") {
    seen large(2, 65 << 10);
    owner other;
    block lent;
    lent.owner = &other;
    lent.references = 2;
    reference_tab tab;

    tab.add(large.used);
    CHECK(large.used.references == 1);
    tab.add(large.used);
    CHECK(large.is_recycled());
    tab.add(lent);
    CHECK(lent.references == 1);
    tab.add(lent);

    CHECK(other.taken == 1);
  }
}
