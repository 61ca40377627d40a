// SPDX-License-Identifier: Apache-2.0
#include "exec/steal_deque.hpp"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "model/check.hpp"

// Goal:   every item that is pushed is run exactly once, by somebody who sees what was written to
//         it before, whatever owner and thieves do at the same time.
// Method: the production deque over model::atomic, the owner by a script, thieves that take one or
//         half; what is left at the end is counted too.
namespace {

constexpr unsigned items = 5;

enum class act { push, take, take_back };
using script = std::vector<act>;
enum class thief { takes, takes_twice, steals_half, takes_loot };

struct item : hawser::detail::work {
  item() : work([](work&) noexcept {}) {}
  model::atomic<int> payload{0};
};

template <std::size_t Capacity>
class robbery : public model::scenario {
 public:
  using deque = hawser::detail::steal_deque<Capacity, model::atomic>;

  robbery(script owner, std::vector<thief> thieves)
      : owner_(std::move(owner)), thieves_(std::move(thieves)) {}

  void run(unsigned thread) override {
    if (thread == 0) return own();
    switch (thieves_[thread - 1]) {
      case thief::takes:
        return run_item(deque_.value.take());
      case thief::takes_twice:
        run_item(deque_.value.take());
        return run_item(deque_.value.take());
      case thief::steals_half:
        return steal();
      case thief::takes_loot:
        return run_item(loot_.value.take());
    }
  }

  void at_rest() override {
    while (auto* const left = deque_.value.take()) run_item(left);
    while (auto* const left = loot_.value.take()) run_item(left);
    model::require(deque_.value.empty() && loot_.value.size() == 0, "the deques are not empty");
    for (unsigned i = 0; i < items; ++i) {
      model::require(runs_[i] == (i < next_ ? 1 : 0), "an item was lost or run twice");
    }
  }

 private:
  void own() {
    for (const act each : owner_) {
      if (each == act::push) {
        item& pushed = items_[next_++];
        pushed.payload.store(1, std::memory_order_relaxed);
        if (!deque_.value.push(pushed)) run_item(&pushed);
      } else if (each == act::take) {
        run_item(deque_.value.take());
      } else if (deque_.value.take_back(items_[next_ - 1])) {
        run_item(&items_[next_ - 1]);
      }
    }
  }

  void steal() {
    const auto got = loot_.value.steal_half(deque_.value);
    model::require((got.item == nullptr) == (got.count == 0), "the count is wrong");
    model::require(got.count <= (Capacity + 1) / 2, "more than half was taken");
    run_item(got.item);
    for (unsigned i = 1; i < got.count; ++i) run_item(loot_.value.take());
  }

  void run_item(hawser::detail::work* taken) {
    if (taken == nullptr) return;
    auto& known = static_cast<item&>(*taken);
    model::require(known.payload.load(std::memory_order_relaxed) == 1, "the item is not complete");
    ++runs_[static_cast<std::size_t>(&known - items_.data())];
  }

  struct named_deque {
    explicit named_deque(const char* name) : named(name) {}
    model::naming named;
    deque value;
  };

  const script owner_;
  const std::vector<thief> thieves_;
  named_deque deque_{"deque"};
  named_deque loot_{"loot"};
  model::naming named_{"payload"};
  std::array<item, items> items_;
  unsigned next_ = 0;
  std::array<int, items> runs_{};
};

template <std::size_t Capacity>
model::maker robbed(const script& owner, const std::vector<thief>& thieves) {
  return [=] { return std::make_unique<robbery<Capacity>>(owner, thieves); };
}

constexpr auto push = act::push;
constexpr auto take = act::take;
constexpr auto take_back = act::take_back;

// Member 0 of a deque is its word.
model::mutation at_word(model::kind what, std::function<void(model::access&)> change) {
  return [=](model::access& each, model::place where) {
    if (each.what == what && where.owner == "deque" && where.member == 0) change(each);
  };
}

}  // namespace

TEST_SUITE("model") {
  TEST_CASE("deque: two thieves and an owner who takes and takes back run each item once") {
    const auto takes = thief::takes;
    const auto half = thief::steals_half;
    const auto loot = thief::takes_loot;
    model::passes("the last item", 3, robbed<2>({push, take}, {takes, half}));
    model::passes("taken back", 3, robbed<2>({push, push, take_back, take_back}, {takes, half}));
    model::passes("back and forth", 3, robbed<2>({push, take_back, push, take_back}, {half, half}));
    model::passes("the ring is full", 3, robbed<2>({push, push, push, push}, {takes, half}));
    model::passes("around the ring", 2,
                  robbed<2>({push, take, push, push, take_back, push, take}, {thief::takes_twice}));
    model::passes("several at once", 3, robbed<4>({push, push, push, take_back}, {half, takes}));
    model::passes("stolen again", 3, robbed<4>({push, push, push}, {half, loot}));
  }

  TEST_CASE("deque: planted errors are found") {
    using model::kind;
    const auto busy =
        robbed<4>({push, push, take_back, push, take}, {thief::takes, thief::steals_half});

    model::finds("a compare_exchange that succeeds whatever it finds", 3, busy,
                 at_word(kind::compare_exchange, [](auto& each) { each.unchecked = true; }));
    model::finds("a word that forgets the pushes", 2,
                 robbed<2>({push, take_back, push}, {thief::takes}),
                 at_word(kind::compare_exchange, [](auto& each) { each.compared = 0xFFFFFFFF; }));
    model::finds("a push that does not release", 3, busy,
                 at_word(kind::add, [](auto& each) { each.order = std::memory_order_relaxed; }));
    model::finds("a thief that does not acquire", 3, busy,
                 at_word(kind::load, [](auto& each) { each.order = std::memory_order_relaxed; }));
    model::finds("a thief whose failed compare_exchange does not acquire", 3, busy,
                 at_word(kind::compare_exchange, [](auto& each) {
                   each.failure_order = std::memory_order_relaxed;
                   each.order = std::memory_order_release;
                 }));
    model::finds("a thief that adds what it stole without release", 3,
                 robbed<4>({push, push, push}, {thief::steals_half, thief::takes_loot}),
                 model::reordered(kind::add, "loot", std::memory_order_relaxed));
  }
}
