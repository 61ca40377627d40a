// SPDX-License-Identifier: Apache-2.0
#include "exec/idle_workers.hpp"

#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <deque>
#include <optional>
#include <vector>

#include "exec/steal_deque.hpp"
#include "model/check.hpp"

// Goal:   no work waits while a worker that may take it sleeps, no sleep is ended twice, and what
// is
//         counted as searching or asleep is so, whatever comes at the same time.
// Method: the production idle_workers and steal_deque over model::atomic; the loop of a worker as
//         idle_workers.hpp shows it; an inbox a worker and one queue for all, each a set of bits.
//         Unless a plan says otherwise an item never ends: whoever runs it is lost to the rest.
namespace {

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto seq_cst = std::memory_order_seq_cst;

constexpr unsigned items_most = 4;
constexpr unsigned none = items_most;

// What is done wrong on purpose, in the loop of the workers.
struct careless {
  bool sleeps_without_last_look = false;
  bool leaves_work_after_last_search = false;
  bool pushes_without_notice = false;
  bool posts_without_call = false;
  bool forgets_that_it_searches = false;
  bool searches_while_it_runs = false;
};

// For all, or for one worker's inbox.
using post = std::optional<unsigned>;

// Where a worker begins: to start everywhere at once would take too many executions. One that is
// called has not heard of it by the end; one that is stirred has a socket that is ready.
enum class start { awake, searching, tired, asleep, stirred, called };

struct plan {
  std::vector<start> workers;                   // tired: about to announce its sleep
  unsigned limit = 1;                           // of searching workers
  unsigned queued = 0;                          // items in the queue for all, from the start
  unsigned spawned = 0;                         // items that worker 0 pushes, in an item
  std::vector<std::vector<post>> posters = {};  // foreign threads; they count on from there
  bool items_end = false;
  careless faults = {};

  [[nodiscard]] unsigned size() const { return static_cast<unsigned>(workers.size()); }
  [[nodiscard]] unsigned threads() const { return size() + static_cast<unsigned>(posters.size()); }
};

struct item : hawser::detail::work {
  item() : work([](work&) noexcept {}) {}
};

// A set of items; like the production inbox, pushed and looked at with seq_cst.
class bit_queue {
 public:
  explicit bit_queue(const char* name) : named_(name) {}
  void push(unsigned item) { bits_.fetch_add(1U << item, seq_cst); }
  [[nodiscard]] bool empty() const { return bits_.load(seq_cst) == 0; }
  [[nodiscard]] unsigned take() {
    auto seen = bits_.load(relaxed);
    while (seen != 0) {
      const auto lowest = static_cast<unsigned>(std::countr_zero(seen));
      if (bits_.compare_exchange_strong(seen, seen & ~(1U << lowest), std::memory_order_acq_rel,
                                        relaxed)) {
        return lowest;
      }
    }
    return none;
  }

 private:
  model::naming named_;
  model::atomic<unsigned> bits_{0};
};

class pool : public model::scenario {
 public:
  explicit pool(plan what) : plan_(std::move(what)) {
    for (unsigned i = 0; i < plan_.size(); ++i) {
      workers_.emplace_back();
      const bool searches = plan_.workers[i] == start::searching;
      if (searches) model::require(idle_.value.begin_search(plan_.limit), "the limit is too low");
      const bool called = plan_.workers[i] == start::called;
      const bool stirred = plan_.workers[i] == start::stirred;
      if (called || stirred || plan_.workers[i] == start::asleep) fall_asleep(i, false);
      if (stirred) workers_[i].wake_up.signal();
      if (called) model::require(idle_.value.call(i), "it sleeps");
    }
    for (unsigned i = 0; i < plan_.queued; ++i) injected_.push(next_item(0) + i);
  }

  void run(unsigned thread) override {
    if (thread < plan_.size()) return work(thread);
    const auto poster = thread - plan_.size();
    unsigned item = next_item(poster) + plan_.queued;
    for (const post& target : plan_.posters[poster]) {
      if (target) {
        post_to(*target, item++);
      } else {
        injected_.push(item++);
        notice();
      }
    }
  }

  void at_rest() override {
    unsigned sleepers = 0;
    unsigned called = 0;
    for (unsigned i = 0; i < plan_.size(); ++i) {
      const worker& each = workers_[i];
      model::require(each.calls <= each.sleeps, "a sleep was ended twice");
      called += plan_.workers[i] == start::called ? 1U : 0U;
      if (each.busy || plan_.workers[i] == start::called) continue;
      ++sleepers;
      model::require(each.inbox.empty(), "a worker sleeps on its inbox");
    }
    model::require(sleepers == 0 || !any_work(), "work waits while a worker sleeps");
    model::require(idle_.value.searching() == 0, "somebody counts as searching for ever");
    model::require(idle_.value.parked() == sleepers + called,
                   "more or fewer count as asleep than sleep");
    for (unsigned i = 0; i < items_most; ++i) {
      const bool queued = i < next_item(poster_count()) + plan_.queued;
      model::require(runs_[i] + left(i) == (queued ? 1 : 0), "an item was lost or ran twice");
    }
  }

 private:
  [[nodiscard]] unsigned next_item(unsigned poster) const {
    unsigned item = plan_.spawned;
    for (unsigned i = 0; i < poster; ++i) item += static_cast<unsigned>(plan_.posters[i].size());
    return item;
  }

  using deque = hawser::detail::steal_deque<2, model::atomic>;
  using idle_workers = hawser::detail::idle_workers<model::atomic>;

  struct worker {
    model::naming named{"deque"};
    deque queue;
    bit_queue inbox{"inbox"};
    model::naming named_event{"event"};
    model::event wake_up;
    int sleeps = 0;
    int calls = 0;
    bool busy = false;  // for ever
  };

  void work(unsigned self) {
    worker& me = workers_[self];
    if (self == 0 && plan_.spawned > 0) {
      for (unsigned i = 0; i < plan_.spawned; ++i) {
        if (me.queue.push(items_[i])) notice();
      }
      me.busy = true;
      return;
    }
    const start begin = plan_.workers[self];
    bool searching = begin == start::searching;
    if (begin == start::called) return;
    if (begin == start::asleep || begin == start::stirred) searching = sleep(self, false);
    if (begin == start::tired) searching = sleep(self, fall_asleep(self, false));
    for (;;) {
      unsigned found = take_own(self);
      if (found == none) {
        searching = searching || idle_.value.begin_search(plan_.limit);
        if (searching) found = steal(self);
      }
      if (found == none) {
        searching = sleep(self, fall_asleep(self, searching));
        continue;
      }
      if (searching && !plan_.faults.searches_while_it_runs) {
        searching = false;
        const bool last = idle_.value.end_search();
        if (last && !plan_.faults.leaves_work_after_last_search && any_work()) notice();
      }
      ++runs_[found];
      if (!plan_.items_end) {
        me.busy = true;
        return;
      }
    }
  }

  [[nodiscard]] unsigned poster_count() const {
    return static_cast<unsigned>(plan_.posters.size());
  }

  // How often `item` is still queued, at the end.
  int left(unsigned item) {
    for (unsigned next = injected_.take(); next != none; next = injected_.take()) ++left_[next];
    for (unsigned i = 0; i < plan_.size(); ++i) {
      for (unsigned next = take_own(i); next != none; next = take_own(i)) ++left_[next];
    }
    return left_[item];
  }

  // Both as in the loop of idle_workers.hpp.
  bool fall_asleep(unsigned self, bool searching) {
    ++workers_[self].sleeps;
    return idle_.value.announce(self, searching) && !plan_.faults.sleeps_without_last_look;
  }
  bool sleep(unsigned self, bool look_at_all) {
    const bool look = !plan_.faults.sleeps_without_last_look;
    const bool work = look && (!workers_[self].inbox.empty() || (look_at_all && any_work()));
    if (!work) workers_[self].wake_up.wait();
    return idle_.value.awake(self) == idle_workers::reason::called_to_search &&
           !plan_.faults.forgets_that_it_searches;
  }

  unsigned take_own(unsigned self) {
    if (const unsigned next = workers_[self].inbox.take(); next != none) return next;
    auto* const next = workers_[self].queue.take();
    return next == nullptr ? none : index_of(*next);
  }

  unsigned steal(unsigned self) {
    if (const unsigned next = injected_.take(); next != none) return next;
    for (unsigned i = 0; i < plan_.size(); ++i) {
      if (i == self) continue;
      if (auto* const next = workers_[self].queue.steal_half(workers_[i].queue).item) {
        return index_of(*next);
      }
    }
    return none;
  }

  [[nodiscard]] bool any_work() const {
    if (!injected_.empty()) return true;
    for (const worker& each : workers_) {
      if (!each.queue.empty()) return true;
    }
    return false;
  }

  void notice() {
    if (plan_.faults.pushes_without_notice) return;
    if (const auto sleeper = idle_.value.notify()) wake(*sleeper);
  }

  void post_to(unsigned target, unsigned item) {
    workers_[target].inbox.push(item);
    if (!plan_.faults.posts_without_call && idle_.value.call(target)) wake(target);
  }

  void wake(unsigned target) {
    ++workers_[target].calls;
    workers_[target].wake_up.signal();
  }

  [[nodiscard]] unsigned index_of(const hawser::detail::work& of) const {
    return static_cast<unsigned>(static_cast<const item*>(&of) - items_.data());
  }

  struct named_idle {
    explicit named_idle(unsigned workers) : value(workers) {}
    model::naming named{"idle"};
    idle_workers value;
  };

  const plan plan_;
  named_idle idle_{plan_.size()};
  std::deque<worker> workers_;
  bit_queue injected_{"injected"};
  std::array<item, items_most> items_;
  std::array<int, items_most> runs_{};
  std::array<int, items_most> left_{};
};

model::maker running(const plan& what) {
  return [=] { return std::make_unique<pool>(what); };
}

void passes(const char* name, const plan& what) {
  model::passes(name, what.threads(), running(what));
}

void finds(const char* name, const plan& what, const model::mutation& planted = {}) {
  model::finds(name, what.threads(), running(what), planted);
}

constexpr auto awake = start::awake;
constexpr auto searching = start::searching;
constexpr auto tired = start::tired;
constexpr auto asleep = start::asleep;
constexpr auto stirred = start::stirred;
constexpr auto called = start::called;

constexpr post to_all = std::nullopt;
constexpr post to_first = 0;

const plan bound{.workers = {awake}, .posters = {{to_first, to_first}}, .items_end = true};
const plan bound_twice{.workers = {awake}, .posters = {{to_first}, {to_first}}, .items_end = true};
const plan bound_and_injected{.workers = {asleep, asleep}, .posters = {{to_all}, {to_first}}};
const plan bound_to_tired{.workers = {tired, asleep}, .posters = {{to_all}, {to_first}}};
const plan spawned{.workers = {awake, tired}, .spawned = 2};
const plan spawned_to_two{.workers = {awake, asleep, asleep}, .spawned = 2};
const plan searcher_sleeps{.workers = {searching}, .posters = {{to_all}}};
const plan one_of_two_sleeps{.workers = {searching, asleep}, .posters = {{to_all}}};
const plan two_sleep{.workers = {tired, asleep}, .posters = {{to_all}}};
const plan last_searcher_finds{.workers = {searching, asleep}, .queued = 1, .posters = {{to_all}}};
const plan both_search{.workers = {searching, searching}, .limit = 2, .posters = {{to_all}}};
const plan woken_by_socket{.workers = {stirred, asleep}, .posters = {{to_all}}};
const plan two_posters{.workers = {asleep, asleep}, .posters = {{to_all}, {to_all}}};
const plan vain_claim{.workers = {called, tired}, .posters = {{to_all}, {to_all}}};

}  // namespace

TEST_SUITE("model") {
  TEST_CASE("parking: no work waits while a worker that may take it sleeps") {
    passes("bound", bound);
    passes("bound twice", bound_twice);
    passes("bound and injected", bound_and_injected);
    passes("bound to one who falls asleep", bound_to_tired);
    passes("spawned", spawned);
    passes("spawned to two", spawned_to_two);
    passes("the searcher sleeps", searcher_sleeps);
    passes("one of two sleeps", one_of_two_sleeps);
    passes("two sleep", two_sleep);
    passes("the last searcher finds", last_searcher_finds);
    passes("both search", both_search);
    passes("woken by a socket", woken_by_socket);
    passes("two posters", two_posters);
    passes("a claim in vain", vain_claim);
  }

  TEST_CASE("parking: planted errors in the loop of a worker are found") {
    const auto with = [](plan what, bool careless::*fault) {
      what.faults.*fault = true;
      return what;
    };
    finds("no last look, bound", with(bound, &careless::sleeps_without_last_look));
    finds("no last look, injected", with(searcher_sleeps, &careless::sleeps_without_last_look));
    finds("no look after the last search",
          with(last_searcher_finds, &careless::leaves_work_after_last_search));
    finds("no notice of a push", with(spawned_to_two, &careless::pushes_without_notice));
    finds("no call after a post", with(bound, &careless::posts_without_call));
    finds("a search that is forgotten", with(two_sleep, &careless::forgets_that_it_searches));
    finds("work in the midst of a search",
          with(bound_and_injected, &careless::searches_while_it_runs));
  }

  TEST_CASE("parking: planted errors in the orders are found") {
    using model::kind;
    const auto acquire = std::memory_order_acquire;
    const auto release = std::memory_order_release;
    const auto acq_rel = std::memory_order_acq_rel;
    const auto weaker = [](kind what, std::string_view owner, auto order) {
      return model::reordered(what, owner, order);
    };
    finds("push is not seq_cst", spawned, weaker(kind::add, "deque", acq_rel));
    finds("the look at a deque is not seq_cst", spawned, weaker(kind::load, "deque", acquire));
    finds("a post is not seq_cst", bound, weaker(kind::add, "inbox", acq_rel));
    finds("the look at the inbox is not seq_cst", bound, weaker(kind::load, "inbox", acquire));
    finds("the state of a sleeper is not seq_cst", bound, weaker(kind::store, "idle", release));
    finds("the count of sleepers is not seq_cst", searcher_sleeps,
          weaker(kind::add, "idle", acq_rel));
    finds("the looks of notify and call are not seq_cst", searcher_sleeps,
          weaker(kind::load, "idle", acquire));
    finds("the look of call is not seq_cst", bound, weaker(kind::load, "idle", acquire));
    finds("a claim that succeeds whatever it finds", bound_and_injected,
          [](model::access& each, model::place where) {
            each.unchecked = each.what == kind::compare_exchange && where.owner == "idle";
          });
    finds("a search is given back though somebody announced a sleep", vain_claim,
          [](model::access& each, model::place where) {
            const bool counts = where.owner == "idle" && where.member == vain_claim.size();
            if (counts && each.what == kind::compare_exchange) each.compared = 0xFFFF;
          });
  }
}
