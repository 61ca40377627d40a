// SPDX-License-Identifier: Apache-2.0
// hawser's runtime: default configuration but for HAWSER_* variables, so many workers.
#include <hawser/hawser.hpp>
#include <hawser/hop.hpp>

#include <functional>
#include <stdexcept>
#include <tuple>

#include "exec.hpp"
#include "exec/runtime_core.hpp"

namespace {

using bench::exec::level;
using bench::exec::seat;
using hawser::priority;
using hawser::task;

constexpr priority priority_of(level urgency) {
  switch (urgency) {
    case level::high:
      return priority::control;
    case level::normal:
      return priority::rpc;
    case level::low:
      break;
  }
  return priority::bulk;
}

hawser::executor_config config_of(unsigned workers) {
  auto config = hawser::executor_config::from_environment();
  config.threads = workers;
  return config;
}

class hawser_pool {
 public:
  explicit hawser_pool(unsigned workers) : hawser_pool(config_of(workers)) {}
  explicit hawser_pool(hawser::executor_config config) : runtime_(std::move(config)) {}

  template <class F>
  void post(F function, level urgency) {
    runtime_.post(std::move(function), priority_of(urgency));
  }

 private:
  hawser::runtime runtime_;
};

// ---- posting what lives in the poster's memory ------------------------------------------------

// A cache line each, as coroutine frames are apart, too.
class alignas(64) item final : public hawser::detail::work {
 public:
  item() noexcept : work(&item::run_item) {}

  [[nodiscard]] bool is_free() const noexcept { return free_.load(std::memory_order_acquire); }
  void prepare(bench::exec::counter& ran, std::uint64_t number) noexcept {
    ran_ = &ran;
    number_ = number;
    free_.store(false, std::memory_order_relaxed);
  }

 private:
  static void run_item(work& self) noexcept {
    auto& own = static_cast<item&>(self);
    auto* const ran = own.ran_;
    const auto number = own.number_;
    own.free_.store(true, std::memory_order_release);  // it may be posted again at once
    ran->add(number);
  }

  bench::exec::counter* ran_ = nullptr;
  std::uint64_t number_ = 0;
  std::atomic<bool> free_{true};
};

void ask_post_item(seat& seat) {
  std::vector<item> items(bench::exec::window::size);
  hawser::runtime runtime(config_of(seat.workers()));
  double messages = 0;
  while (const auto round = seat.next_round()) {
    bench::exec::counter ran;
    const bench::exec::window ahead(ran);
    for (std::uint64_t i = 0; i < round; ++i) {
      ahead.before_post(i);
      auto& next = items[i % items.size()];
      // With two workers a few run out of order.
      while (!next.is_free()) std::this_thread::yield();
      next.prepare(ran, i);
      runtime.core().inject(next, priority::rpc);
    }
    ran.expect_all(round);
    messages = static_cast<double>(round);
  }
  seat.add_rate(messages);
}

// ---- coroutines -------------------------------------------------------------------------------

task<void> yield_rounds(seat& seat) {
  double yields = 0;
  while (const auto round = seat.next_round()) {
    for (std::uint64_t i = 0; i < round; ++i) co_await hawser::this_task::yield();
    yields = static_cast<double>(round);
  }
  seat.add_time(yields);
}

void ask_yield(seat& seat) {
  hawser::runtime runtime(config_of(seat.workers()));
  hawser::run(runtime, yield_rounds, std::ref(seat));
}

task<void> hop_rounds(hawser::detail::runtime_core& core, seat& seat) {
  double hops = 0;
  unsigned side = 0;
  co_await hawser::detail::hop_to(core.worker(side));
  while (const auto round = seat.next_round()) {
    for (std::uint64_t i = 0; i < round; ++i) {
      side = 1 - side;
      co_await hawser::detail::hop_to(core.worker(side));
    }
    hops = static_cast<double>(round);
  }
  seat.add_time(hops);
}

void ask_hop(seat& seat) {
  hawser::runtime runtime(config_of(seat.workers()));
  hawser::run(runtime, hop_rounds, std::ref(runtime.core()), std::ref(seat));
}

task<std::uint64_t> fib(unsigned n) {
  if (n < 2) co_return n;
  const auto both = co_await hawser::parallel(fib(n - 1), fib(n - 2));
  co_return std::get<0>(both) + std::get<1>(both);
}

void ask_fork_join(seat& seat) {
  hawser::runtime runtime(config_of(seat.workers()));
  bench::exec::ask_fork_join(seat, [&](unsigned n) { return hawser::sync_wait(runtime, fib(n)); });
}

// ---- priorities -------------------------------------------------------------------------------

void ask_urgent_capped(seat& seat) {
  auto config = config_of(seat.workers());
  config.max_workers = {0, 0, 0, 1};
  hawser_pool pool(std::move(config));
  bench::exec::ask_urgent(seat, pool);
}

void ask_flood(seat& seat) {
  const auto config = config_of(seat.workers());
  const auto bound = hawser::longest_wait(config, priority::bulk);
  if (!bound) throw std::logic_error("the default configuration lets bulk tasks starve");
  hawser_pool pool(config);
  const auto found = bench::exec::ask_flood(seat, pool);
  if (found.waits.empty()) return;
  seat.add(
      "dispatches_over_bound", "",
      static_cast<double>(found.dispatches_max) / (static_cast<double>(*bound) * seat.workers()));
}

constexpr std::array entries{
    bench::exec::entry{&bench::exec::post_closure, "hawser",
                       bench::exec::ask_post_closure<hawser_pool>},
    bench::exec::entry{&bench::exec::post_item, "hawser", ask_post_item},
    bench::exec::entry{&bench::exec::yield, "hawser", ask_yield},
    bench::exec::entry{&bench::exec::hop, "hawser", ask_hop},
    bench::exec::entry{&bench::exec::fork_join, "hawser", ask_fork_join},
    bench::exec::entry{&bench::exec::urgent, "hawser", bench::exec::ask_urgent<hawser_pool>},
    bench::exec::entry{&bench::exec::urgent_capped, "hawser", ask_urgent_capped},
    bench::exec::entry{&bench::exec::flood, "hawser", ask_flood},
    bench::exec::entry{&bench::exec::idle_wake, "hawser", bench::exec::ask_idle_wake<hawser_pool>},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::exec::main_of(argc, argv, entries);
}
