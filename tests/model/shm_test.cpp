// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <string>

#include "model/check.hpp"
#include "shm/bell.hpp"
#include "shm/ring.hpp"

// Goal:   every record arrives once, in order and as it was written, nobody sleeps for ever, and a
//         record that is not committed is not seen, whatever both sides do at the same time.
// Method: the production ring and bell over model::atomic, a ring of eight words, and the loops of
//         a reader that sleeps when there is nothing and of a writer that sleeps when there is no
//         room; the barrier of sleepers is the system's or each one's own.
namespace {

constexpr auto relaxed = std::memory_order_relaxed;
constexpr std::size_t words = 8;
constexpr std::size_t word_bytes = sizeof(std::uint64_t);

class model_memory {
 public:
  explicit model_memory(std::array<model::atomic<std::uint64_t>, words>& all) : words_(&all) {}
  [[nodiscard]] std::size_t size() const noexcept { return words * word_bytes; }
  [[nodiscard]] std::uint64_t load(std::size_t offset, std::memory_order order) const noexcept {
    return (*words_)[offset / word_bytes].load(order);
  }
  void store(std::size_t offset, std::uint64_t value, std::memory_order order) const noexcept {
    (*words_)[offset / word_bytes].store(value, order);
  }

 private:
  std::array<model::atomic<std::uint64_t>, words>* words_;
};

// What is done wrong on purpose, in the loops.
struct careless {
  bool sleeper_passes_no_barrier = false;
  bool sleeper_does_not_look_again = false;
  bool publisher_passes_no_fence = false;  // where both fence by themselves
  bool sleeper_asks_before_its_fence = false;   // whether publishers fence by themselves
  bool publisher_forgets_to_ask_again = false;  // when it fences no more
};

struct plan {
  unsigned passed = 0;   // records that came and went before the threads start
  unsigned waiting = 0;  // records that wait in the ring then
  unsigned written = 2;  // by the writing thread
  unsigned a_batch = 1;
  std::size_t payload_words = 1;
  bool both_fence = false;  // instead of the barrier of all threads
  unsigned fences_from = ~0U;   // records from which the writer fences by itself, and
  unsigned fences_until = ~0U;  // from which it does no more
  careless faults = {};

  [[nodiscard]] unsigned all() const { return passed + waiting + written; }
};

class transfer : public model::scenario {
 public:
  using writer = hawser::shm::ring_writer<model::atomic, model_memory>;
  using reader = hawser::shm::ring_reader<model::atomic, model_memory>;

  explicit transfer(const plan& what) : plan_(what) {
    for (; written_ < plan_.passed; ++written_) {
      fill(writer_.claim(payload_bytes()));
      static_cast<void>(writer_.publish());
      static_cast<void>(reader_.look());
      static_cast<void>(reader_.pop());
      static_cast<void>(reader_.give_back());
      ++read_;
    }
    for (; written_ < plan_.passed + plan_.waiting; ++written_) {
      fill(writer_.claim(payload_bytes()));
      static_cast<void>(writer_.publish());
    }
    while (plan_.fences_from == 0 && !fences_.active()) fences_.found_asleep();
  }

  void run(unsigned thread) override { thread == 0 ? write() : read(); }

  void at_rest() override {
    model::require(written_ == plan_.all(), "the writer sleeps for ever");
    model::require(read_ == plan_.all(), "the reader sleeps for ever");
  }

 private:
  using bell = hawser::shm::bell<model::atomic>;

  [[nodiscard]] std::size_t payload_bytes() const { return plan_.payload_words * word_bytes; }

  void write() {
    unsigned unpublished = 0;
    while (written_ < plan_.all()) {
      fill(claim());
      ++written_;
      if (++unpublished < plan_.a_batch && written_ < plan_.all()) continue;
      unpublished = 0;
      publish();
    }
  }

  void fill(std::size_t at) {
    for (std::size_t i = 0; i < plan_.payload_words; ++i) {
      memory_.store(at + i * word_bytes, written_ + 1, relaxed);
    }
    writer_.commit(payload_bytes());
  }

  std::size_t claim() {
    std::size_t at = writer_.claim(payload_bytes());
    while (at == writer::no_room) {
      publish();
      writer_.wait_for_room();
      writer_bell_.announce();
      pass_barrier();
      if (plan_.faults.sleeper_does_not_look_again || !writer_.has_room(payload_bytes())) {
        writer_woken_.wait();
      }
      writer_bell_.answer();
      writer_.stop_waiting();
      at = writer_.claim(payload_bytes());
    }
    return at;
  }

  void publish() {
    if (!writer_.publish()) return;
    fences_.active() ? barriers_.fence() : pass_fence();
    bool asleep = reader_bell_.ring();
    const bool wanted = written_ >= plan_.fences_from && written_ < plan_.fences_until;
    while (wanted && !fences_.active()) fences_.found_asleep();
    if (!wanted && fences_.active() && !asleep) {
      while (!fences_.found_awake()) continue;
      if (!plan_.faults.publisher_forgets_to_ask_again) {
        barriers_.fence();
        asleep = reader_bell_.ring();
      }
    }
    if (asleep) reader_woken_.signal();
  }

  void read() {
    using found = reader::found;
    while (read_ < plan_.all()) {
      found now = reader_.look();
      if (now == found::nothing) {
        give_back();
        reader_bell_.announce();
        pass_readers_barrier();
        if (plan_.faults.sleeper_does_not_look_again || reader_.look() == found::nothing) {
          reader_woken_.wait();
        }
        reader_bell_.answer();
        continue;
      }
      model::require(now == found::record, "no record that was ever written");
      model::require(reader_.bytes() == payload_bytes(), "of another size");
      for (std::size_t i = 0; i < plan_.payload_words; ++i) {
        model::require(memory_.load(reader_.offset() + i * word_bytes, relaxed) == read_ + 1,
                       "not what was written, or not in order");
      }
      ++read_;
      pop();
    }
    give_back();
  }

  void pop() {
    if (reader_.pop()) room_was_given();
  }
  void give_back() {
    if (reader_.give_back()) room_was_given();
  }
  void room_was_given() {
    pass_fence();
    if (reader_.take_waiting() && writer_bell_.ring()) writer_woken_.signal();
  }

  // That of who sleeps for one that may fence by itself.
  void pass_readers_barrier() {
    if (plan_.fences_from == ~0U) return pass_barrier();
    using fences = hawser::shm::own_fences<model::atomic>;
    const bool early =
        plan_.faults.sleeper_asks_before_its_fence && fences::sleeper_needs_none(fences_told_);
    barriers_.fence();
    if (!early && !fences::sleeper_needs_none(fences_told_)) barriers_.everywhere();
  }
  void pass_barrier() {
    if (plan_.faults.sleeper_passes_no_barrier) return;
    plan_.both_fence ? barriers_.fence() : barriers_.everywhere();
  }
  void pass_fence() {
    if (plan_.both_fence && !plan_.faults.publisher_passes_no_fence) barriers_.fence();
  }

  const plan plan_;
  model::naming named_words_{"words"};
  std::array<model::atomic<std::uint64_t>, words> all_;
  model_memory memory_{all_};
  model::naming named_state_{"state"};
  hawser::shm::ring_state<model::atomic> state_;
  model::naming named_reader_{"reader's bell"};
  hawser::shm::bell_state<model::atomic> reader_bell_state_;
  model::naming named_writer_{"writer's bell"};
  hawser::shm::bell_state<model::atomic> writer_bell_state_;
  model::naming named_barriers_{"barriers"};
  model::barriers barriers_;
  model::naming named_fences_{"fences"};
  model::atomic<std::uint32_t> fences_told_{0};
  hawser::shm::own_fences<model::atomic> fences_{fences_told_};
  model::naming named_events_{"event"};
  model::event reader_woken_;
  model::event writer_woken_;
  bell reader_bell_{reader_bell_state_};
  bell writer_bell_{writer_bell_state_};
  writer writer_{state_, memory_};
  reader reader_{state_, memory_};
  unsigned written_ = 0;
  unsigned read_ = 0;
};

model::maker make(const plan& what) {
  return [what] { return std::make_unique<transfer>(what); };
}

// The ring holds three records of a word; its eight words are gone through again and again.
const plan full{.passed = 2, .waiting = 3, .written = 1};

}  // namespace

TEST_SUITE("model") {
  TEST_CASE("a ring hands over every record, and wakes who sleeps") {
    model::passes("two records", 2, make({.written = 2}));
    model::passes("two at once, around the end", 2, make({.passed = 3, .a_batch = 2}));
    model::passes("of two words, with padding", 2,
                  make({.passed = 1, .waiting = 1, .written = 1, .payload_words = 2}));
    model::passes("into a full ring", 2, make(full));
    model::passes("both fence", 2, make({.written = 3, .both_fence = true}));
  }

  TEST_CASE("a writer that begins to fence by itself, and ends it, is heard") {
    model::passes("after the last", 2, make({.written = 1, .fences_from = 1}));
    model::passes("from the first on", 2, make({.written = 2, .fences_from = 1}));
    model::passes("no more after the first", 2,
                  make({.written = 2, .fences_from = 0, .fences_until = 1}));
  }

  TEST_CASE("fences that begin or end in the wrong order are found out") {
    using model::kind;
    plan ending{.written = 2, .fences_from = 0, .fences_until = 1};
    ending.faults.publisher_forgets_to_ask_again = true;
    model::finds("nobody is asked again", 2, make(ending));
    plan early{.written = 2, .fences_from = 0, .fences_until = 1};
    early.faults.sleeper_asks_before_its_fence = true;
    model::finds("asked before the fence", 2, make(early));
    model::finds("told relaxed", 2, make({.written = 1, .fences_from = 1}),
                 model::reordered(kind::store, "fences", relaxed));
  }

  TEST_CASE("a ring whose orders are wrong is found out") {
    using model::kind;
    model::finds("publish relaxed", 2, make({}), model::reordered(kind::store, "words", relaxed));
    model::finds("look relaxed", 2, make({}), model::reordered(kind::load, "words", relaxed));
    model::finds("the header behind a record is not made zero", 2, make({.passed = 4}),
                 [](model::access& each, model::place where) {
                   if (each.what == kind::store && where.owner == "words" && each.value == 0) {
                     each.what = kind::load;
                   }
                 });
  }

  TEST_CASE("a bell that is not heard is found out") {
    for (const bool both_fence : {false, true}) {
      for (plan what : {plan{.written = 1}, full}) {
        what.both_fence = both_fence;
        plan careless_sleeper = what;
        careless_sleeper.faults.sleeper_passes_no_barrier = true;
        model::finds("no barrier before sleep", 2, make(careless_sleeper));
        careless_sleeper = what;
        careless_sleeper.faults.sleeper_does_not_look_again = true;
        model::finds("no look before sleep", 2, make(careless_sleeper));
        plan careless_publisher = what;
        careless_publisher.faults.publisher_passes_no_fence = true;
        if (both_fence) {
          model::finds("no fence before the look at who sleeps", 2, make(careless_publisher));
        }
      }
    }
  }
}
