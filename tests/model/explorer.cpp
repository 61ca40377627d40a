// SPDX-License-Identifier: Apache-2.0
#include "model/explorer.hpp"

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace model {
namespace {

constexpr unsigned threads_most = 8;
constexpr unsigned locations_most = 48;
constexpr std::size_t steps_most = 4000;  // more is taken for a loop without end
constexpr std::size_t stack_bytes = 64 * 1024;

using position = std::uint16_t;  // of a value in the history of its location

// What a thread, or the reader of a value, has to know: the oldest value of each location that it
// may still see.
class view {
 public:
  [[nodiscard]] position at(unsigned location) const { return floors_[location]; }
  void raise(unsigned location, position to) {
    floors_[location] = std::max(floors_[location], to);
  }
  void join(const view& other) {
    for (unsigned i = 0; i < locations_most; ++i) raise(i, other.floors_[i]);
  }

 private:
  std::array<position, locations_most> floors_{};
};

struct written {
  std::uint64_t value = 0;
  view released;  // what an acquire of this value brings
};

struct location {
  place where;
  std::vector<written> history;
  position floor = 0;  // what a seq_cst load may still see

  [[nodiscard]] position last() const { return static_cast<position>(history.size() - 1); }
};

struct step {
  unsigned thread = 0;
  access what;
  std::uint64_t before = 0;
  std::uint64_t after = 0;
  bool stale = false;
};

using thread_set = std::uint32_t;

unsigned lowest(thread_set of) {
  return static_cast<unsigned>(std::countr_zero(of));
}

// How many of the steps of an execution, by thread, come before a step: one more than the index of
// the last of each thread.
using clock = std::array<std::uint16_t, threads_most>;

// A point of choice: which thread goes on, and with which of the values that it may see.
struct node {
  thread_set enabled = 0;
  thread_set asleep = 0;  // explored from here, or not worth it: it repeats another execution
  thread_set wanted = 0;  // to be explored from here
  unsigned thread = 0;
  unsigned option = 0;
  unsigned options = 1;
  access what;
  clock before{};
};

bool acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

bool releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

// Two accesses of which the order matters. seq_cst loads do not change a value, but forbid each
// other older ones.
bool dependent(const access& a, const access& b) {
  if (a.what == kind::barrier || b.what == kind::barrier) return true;
  if (a.location != b.location) return false;
  if (a.what != kind::load || b.what != kind::load) return true;
  return a.order == std::memory_order_seq_cst && b.order == std::memory_order_seq_cst;
}

class explorer {
 public:
  explorer(unsigned threads, const std::function<std::unique_ptr<scenario>()>& make,
           const mutation& planted)
      : count_(threads), make_(make), planted_(planted), threads_(threads) {
    for (auto& thread : threads_) {
      thread.stack.resize(stack_bytes);
      getcontext(&thread.context);
    }
  }

  outcome run(std::uint64_t executions_most);

  unsigned add_location(std::uint64_t initial);
  std::uint64_t perform(access wanted);
  void fail(const char* what);
  void name(std::string_view owner) { naming_ = {owner, 0}; }

 private:
  enum class status { going, at_rest, repeats, failed };
  static constexpr unsigned nobody = threads_most;

  struct fiber {
    std::vector<char> stack;
    ucontext_t context{};
    view known;
    access next;
    std::size_t steps = 0;  // one more than the index of its last
    position asked_at = 0;  // the last value of its location when `next` became known
    bool ended = false;
  };

  static void enter();
  void execute();
  void start();
  [[nodiscard]] bool may_go(unsigned thread) const;
  [[nodiscard]] unsigned choose();
  void go_on();
  void leave();
  [[nodiscard]] bool backtrack();
  void find_races();
  void reverse(std::size_t first, std::size_t second);
  std::uint64_t carry_out(const access& wanted);
  [[nodiscard]] position oldest_readable(const access& wanted, std::memory_order order) const;
  [[nodiscard]] unsigned count_readable(const access& wanted, std::memory_order order) const;
  std::uint64_t read(const access& wanted, std::memory_order order);
  void write(const access& wanted, std::uint64_t value);
  [[nodiscard]] std::string trace(const char* what) const;
  [[nodiscard]] node& now() { return path_[depth_ - 1]; }

  const unsigned count_;
  const std::function<std::unique_ptr<scenario>()>& make_;
  const mutation& planted_;
  std::unique_ptr<scenario> scenario_;
  ucontext_t main_{};
  std::vector<fiber> threads_;
  std::vector<location> locations_;
  unsigned located_ = 0;
  std::vector<node> path_;
  std::size_t depth_ = 0;  // of path_, in this execution
  std::vector<step> steps_;
  place naming_;
  view fenced_;  // what the fences so far have made known to those to come
  unsigned current_ = nobody;
  bool starting_ = false;
  status status_ = status::going;
  std::string failure_;
};

explorer* exploring = nullptr;

outcome explorer::run(std::uint64_t executions_most) {
  outcome result;
  for (;;) {
    execute();
    if (status_ == status::failed) {
      ++result.executions;
      result.failure = failure_;
      return result;
    }
    ++(status_ == status::repeats ? result.cut_short : result.executions);
    if (!backtrack()) {
      result.complete = true;
      return result;
    }
    if (result.executions + result.cut_short >= executions_most) return result;
  }
}

void explorer::execute() {
  located_ = 0;
  steps_.clear();
  depth_ = 0;
  status_ = status::going;
  current_ = nobody;
  naming_ = {};
  fenced_ = view();
  scenario_ = make_();
  start();
  const unsigned first = choose();
  if (first != nobody) {
    current_ = first;
    swapcontext(&main_, &threads_[first].context);
  }
  current_ = nobody;
  if (status_ == status::at_rest) scenario_->at_rest();
  scenario_.reset();
}

// Each thread runs up to its first access, which is where choices begin.
void explorer::start() {
  starting_ = true;
  for (unsigned i = 0; i < count_; ++i) {
    fiber& thread = threads_[i];
    thread.known = view();
    thread.ended = false;
    thread.steps = 0;
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, &explorer::enter, 0);
    current_ = i;
    swapcontext(&main_, &thread.context);
  }
  starting_ = false;
  current_ = nobody;
}

void explorer::enter() {
  explorer& self = *exploring;
  const unsigned thread = self.current_;
  self.scenario_->run(thread);
  self.threads_[thread].ended = true;
  if (self.starting_) self.leave();
  self.go_on();
}

void explorer::leave() {
  const unsigned from = current_;
  swapcontext(&threads_[from].context, &main_);
}

bool explorer::may_go(unsigned thread) const {
  const fiber& of = threads_[thread];
  if (of.ended) return false;
  return of.next.what != kind::wait || locations_[of.next.location].history.back().value != 0;
}

// The thread that goes on from here; nobody: this execution is over.
unsigned explorer::choose() {
  if (depth_ < path_.size()) return path_[depth_++].thread;
  node next;
  for (unsigned i = 0; i < count_; ++i) {
    if (may_go(i)) next.enabled |= 1U << i;
  }
  if (depth_ > 0) {
    for (unsigned i = 0; i < count_; ++i) {
      const bool slept = (now().asleep >> i & 1) != 0 && i != now().thread;
      if (slept && !dependent(threads_[i].next, now().what)) next.asleep |= 1U << i;
    }
  }
  const auto candidates = next.enabled & ~next.asleep;
  if (candidates == 0) {
    status_ = next.enabled == 0 ? status::at_rest : status::repeats;
    return nobody;
  }
  // Going on with the same thread saves a switch.
  const bool same = current_ != nobody && (candidates >> current_ & 1) != 0;
  next.thread = same ? current_ : lowest(candidates);
  next.wanted = 1U << next.thread;
  next.what = threads_[next.thread].next;
  path_.push_back(next);
  ++depth_;
  return next.thread;
}

// Called on a thread whose next access is known, or that has ended; returns when it is its turn.
void explorer::go_on() {
  const unsigned from = current_;
  if (steps_.size() > steps_most) fail("it goes on for ever");
  const unsigned to = choose();
  if (to == from) return;
  if (to == nobody) return leave();
  current_ = to;
  swapcontext(&threads_[from].context, &threads_[to].context);
}

// The last choice that has another way takes it. What was explored from a choice on is not begun
// again by the same thread: it is put to sleep.
bool explorer::backtrack() {
  while (!path_.empty()) {
    node& last = path_.back();
    if (++last.option < last.options) return true;
    last.asleep |= 1U << last.thread;
    const auto candidates = last.wanted & ~last.asleep;
    if (candidates != 0) {
      last.thread = lowest(candidates);
      last.option = 0;
      last.options = 1;
      return true;
    }
    path_.pop_back();
  }
  return false;
}

bool precedes(std::size_t index, unsigned thread, const clock& later) {
  return later[thread] > index;
}

// The newest step comes after those of its thread, and after those that it depends on. Where the
// latter alone orders two, they could also happen the other way round.
void explorer::find_races() {
  const std::size_t newest = depth_ - 1;
  node& last = path_[newest];
  fiber& thread = threads_[last.thread];
  if (depth_ == path_.size()) {
    last.before = thread.steps == 0 ? clock() : path_[thread.steps - 1].before;
    for (std::size_t i = newest; i-- > 0;) {
      const node& earlier = path_[i];
      if (!dependent(earlier.what, last.what)) continue;
      if (precedes(i, earlier.thread, last.before)) continue;
      reverse(i, newest);
      for (unsigned t = 0; t < count_; ++t) {
        last.before[t] = std::max(last.before[t], earlier.before[t]);
      }
    }
    last.before[last.thread] = static_cast<std::uint16_t>(newest + 1);
  }
  thread.steps = depth_;
}

// Sees to it that from where `first` happened also an execution is explored in which `second`, and
// all since then that does not come after `first`, goes before it: one that begins with any thread
// that can begin that sequence will do.
void explorer::reverse(std::size_t first, std::size_t second) {
  node& from = path_[first];
  thread_set begun = 0;
  thread_set initial = 0;
  clock beginnings{};
  for (std::size_t i = first + 1; i <= second; ++i) {
    const node& each = path_[i];
    if (i != second && precedes(first, from.thread, each.before)) continue;
    if ((begun >> each.thread & 1) != 0) continue;
    bool can_begin = true;
    for (unsigned t = 0; t < count_; ++t) {
      if ((begun >> t & 1) != 0 && precedes(beginnings[t], t, each.before)) can_begin = false;
    }
    begun |= 1U << each.thread;
    beginnings[each.thread] = static_cast<std::uint16_t>(i);
    if (can_begin) initial |= 1U << each.thread;
  }
  initial &= from.enabled;
  if (initial == 0 || (initial & (from.wanted | from.asleep)) != 0) return;
  from.wanted |= 1U << lowest(initial);
}

unsigned explorer::add_location(std::uint64_t initial) {
  if (located_ == locations_most) {
    std::fputs("model: too many locations\n", stderr);
    std::abort();
  }
  if (located_ == locations_.size()) locations_.emplace_back();
  location& added = locations_[located_];
  added.where = naming_;
  ++naming_.member;
  added.history.assign(1, {initial, view()});
  added.floor = 0;
  return located_++;
}

bool succeeds(const access& wanted, std::uint64_t found) {
  if (wanted.what != kind::compare_exchange || wanted.unchecked) return true;
  return ((found ^ wanted.expected) & wanted.compared) == 0;
}

bool changes_nothing(const access& what) {
  return what.what == kind::load || what.what == kind::fence || what.what == kind::barrier;
}

std::uint64_t after(const access& wanted, std::uint64_t found) {
  if (changes_nothing(wanted) || !succeeds(wanted, found)) return found;
  if (wanted.what == kind::add) return found + wanted.value;
  return (wanted.value & wanted.compared) | (found & ~wanted.compared);
}

// What the caller is told; of a compare_exchange it derives from this whether it succeeded.
std::uint64_t told(const access& wanted, std::uint64_t found) {
  return wanted.what == kind::compare_exchange && succeeds(wanted, found) ? wanted.expected : found;
}

std::uint64_t explorer::perform(access wanted) {
  if (planted_) planted_(wanted, locations_[wanted.location].where);
  if (current_ == nobody) {  // before the threads start, or at rest
    auto& value = locations_[wanted.location].history.back().value;
    const auto found = std::exchange(value, after(wanted, value));
    return told(wanted, found);
  }
  threads_[current_].next = wanted;
  threads_[current_].asked_at = locations_[wanted.location].last();
  if (starting_) {
    leave();
  } else {
    go_on();
  }
  now().what = wanted;
  find_races();
  const location& where = locations_[wanted.location];
  const auto index = steps_.size();
  steps_.push_back({.thread = current_, .what = wanted});
  const auto found = carry_out(wanted);
  steps_[index].before = found;
  steps_[index].after = where.history.back().value;
  return told(wanted, found);
}

std::uint64_t explorer::carry_out(const access& wanted) {
  const auto last = locations_[wanted.location].history.back().value;
  switch (wanted.what) {
    case kind::load:
      return read(wanted, wanted.order);
    case kind::fence:
      threads_[current_].known.join(fenced_);
      fenced_.join(threads_[current_].known);
      return last;
    case kind::barrier:
      for (auto& thread : threads_) {
        for (unsigned i = 0; i < located_; ++i) thread.known.raise(i, locations_[i].last());
      }
      return last;
    case kind::compare_exchange:
      if (succeeds(wanted, last)) break;
      return read(wanted, wanted.failure_order);
    case kind::store:
    case kind::add:
    case kind::exchange:
    case kind::wait:
      break;
  }
  write(wanted, after(wanted, last));
  return last;
}

position explorer::oldest_readable(const access& wanted, std::memory_order order) const {
  const auto known = threads_[current_].known.at(wanted.location);
  if (order != std::memory_order_seq_cst) return known;
  return std::max(known, locations_[wanted.location].floor);
}

// What was written since the access became this thread's next: to see an older value then is the
// same as to have gone on before it was written, which is a choice of its own.
unsigned explorer::count_readable(const access& wanted, std::memory_order order) const {
  const auto last = locations_[wanted.location].last();
  if (wanted.what != kind::load || last != threads_[current_].asked_at) return 1;
  return last - oldest_readable(wanted, order) + 1U;
}

// The choice among what may be seen; option 0 is the newest of it.
std::uint64_t explorer::read(const access& wanted, std::memory_order order) {
  location& where = locations_[wanted.location];
  view& known = threads_[current_].known;
  now().options = count_readable(wanted, order);
  const auto seen = static_cast<position>(where.last() - now().option);
  if (order == std::memory_order_seq_cst) where.floor = std::max(where.floor, seen);
  known.raise(wanted.location, seen);
  if (acquires(order)) known.join(where.history[seen].released);
  steps_.back().stale = seen != where.last();
  return where.history[seen].value;
}

// Every write comes last in the history. A read-modify-write continues the release of the value
// that it replaces.
void explorer::write(const access& wanted, std::uint64_t value) {
  location& where = locations_[wanted.location];
  view& known = threads_[current_].known;
  const auto at = static_cast<position>(where.history.size());
  written added{value, view()};
  if (wanted.what != kind::store) {
    added.released = where.history.back().released;
    if (acquires(wanted.order)) known.join(added.released);
  }
  known.raise(wanted.location, at);
  added.released.raise(wanted.location, at);
  if (releases(wanted.order)) added.released.join(known);
  where.history.push_back(added);
  if (wanted.order == std::memory_order_seq_cst) where.floor = at;
}

void explorer::fail(const char* what) {
  if (status_ == status::failed) return;
  status_ = status::failed;
  failure_ = trace(what);
  if (current_ != nobody) leave();
}

std::string hexadecimal(std::uint64_t value) {
  std::array<char, 20> text{};
  std::snprintf(text.data(), text.size(), "%llx", static_cast<unsigned long long>(value));
  return text.data();
}

std::string explorer::trace(const char* what) const {
  static constexpr std::array names{"load", "store", "add",   "exchange", "compare_exchange",
                                    "wait", "fence", "barrier"};
  static constexpr std::array orders{"relaxed", "consume", "acquire",
                                     "release", "acq_rel", "seq_cst"};
  std::string text = what;
  for (const step& each : steps_) {
    const place& where = locations_[each.what.location].where;
    text += "\n  thread " + std::to_string(each.thread) + ": " + std::string(where.owner) + '.' +
            std::to_string(where.member) + ' ' + names[static_cast<std::size_t>(each.what.what)] +
            ' ' + orders[static_cast<std::size_t>(each.what.order)] + ", saw " +
            hexadecimal(each.before);
    if (each.stale) text += " (old)";
    if (!changes_nothing(each.what)) text += ", now " + hexadecimal(each.after);
  }
  for (unsigned i = 0; i < count_; ++i) {
    if (!threads_[i].ended) text += "\n  thread " + std::to_string(i) + " has not ended";
  }
  return text;
}

}  // namespace

outcome explore(unsigned threads, const std::function<std::unique_ptr<scenario>()>& make,
                const mutation& planted, std::uint64_t executions_most) {
  explorer one(threads, make, planted);
  exploring = &one;
  auto result = one.run(executions_most);
  exploring = nullptr;
  return result;
}

void require(bool held, const char* what) {
  if (!held) exploring->fail(what);
}

naming::naming(std::string_view owner) {
  exploring->name(owner);
}

unsigned detail::add_location(std::uint64_t initial) {
  return exploring->add_location(initial);
}

std::uint64_t detail::perform(access wanted) {
  return exploring->perform(wanted);
}

}  // namespace model
