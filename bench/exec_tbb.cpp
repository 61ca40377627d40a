// SPDX-License-Identifier: Apache-2.0
// oneTBB: an arena for what is posted, and two of different priority where one shall pass the
// other: within an arena TBB knows no priorities.
#include <tbb/global_control.h>
#include <tbb/parallel_invoke.h>
#include <tbb/task_arena.h>

#include "exec.hpp"

namespace {

using bench::exec::level;
using bench::exec::seat;

/// Lets TBB have so many threads of its own. It takes the poster for one, which only posts.
class threads {
 public:
  explicit threads(unsigned workers)
      : limit_(tbb::global_control::max_allowed_parallelism, workers + 1) {}

 private:
  tbb::global_control limit_;
};

/// An arena without a place for the poster.
class arena : public tbb::task_arena {
 public:
  explicit arena(unsigned workers, priority urgency = priority::normal)
      : task_arena(static_cast<int>(workers), 0, urgency) {}
};

class tbb_pool {
 public:
  explicit tbb_pool(unsigned workers) : threads_(workers), arena_(workers) {}

  template <class F>
  void post(F function, level /*urgency*/) {
    arena_.enqueue(std::move(function));
  }

 private:
  threads threads_;
  arena arena_;
};

class tbb_priorities {
 public:
  explicit tbb_priorities(unsigned workers)
      : threads_(workers),
        high_(workers, arena::priority::high),
        low_(workers, arena::priority::low) {}

  template <class F>
  void post(F function, level urgency) {
    (urgency == level::low ? low_ : high_).enqueue(std::move(function));
  }

 private:
  threads threads_;
  arena high_;
  arena low_;
};

void ask_hop(seat& seat) {
  const threads two(2);
  std::array<arena, 2> sides{arena(1), arena(1)};
  bench::exec::ask_hop(
      seat, [&](unsigned side, auto function) { sides[side].enqueue(std::move(function)); });
}

std::uint64_t fib(unsigned n) {
  if (n < 2) return n;
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  tbb::parallel_invoke([&] { first = fib(n - 1); }, [&] { second = fib(n - 2); });
  return first + second;
}

// The calling thread is one of the workers here: TBB is meant to be used so.
void ask_fork_join(seat& seat) {
  const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, seat.workers());
  tbb::task_arena all(static_cast<int>(seat.workers()));
  bench::exec::ask_fork_join(seat, [&](unsigned n) { return all.execute([n] { return fib(n); }); });
}

void ask_flood(seat& seat) {
  tbb_priorities pool(seat.workers());
  static_cast<void>(bench::exec::ask_flood(seat, pool));
}

constexpr std::array entries{
    bench::exec::entry{&bench::exec::post_closure, "tbb", bench::exec::ask_post_closure<tbb_pool>},
    bench::exec::entry{&bench::exec::hop, "tbb", ask_hop},
    bench::exec::entry{&bench::exec::fork_join, "tbb", ask_fork_join},
    bench::exec::entry{&bench::exec::urgent, "tbb", bench::exec::ask_urgent<tbb_priorities>},
    bench::exec::entry{&bench::exec::flood, "tbb", ask_flood},
    bench::exec::entry{&bench::exec::idle_wake, "tbb", bench::exec::ask_idle_wake<tbb_pool>},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::exec::main_of(argc, argv, entries);
}
