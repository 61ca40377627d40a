// SPDX-License-Identifier: Apache-2.0
// Asio: `asio_pool` is asio::thread_pool and asio::post; `asio` is an io_context that the workers
// run, with its concrete executor type, which costs less than any_io_executor.
#include <asio.hpp>

#include "exec.hpp"

namespace {

using bench::exec::level;
using bench::exec::seat;
using executor = asio::io_context::executor_type;

/// It knows no priorities.
class asio_pool {
 public:
  explicit asio_pool(unsigned workers) : pool_(workers) {}

  template <class F>
  void post(F function, level /*urgency*/) {
    asio::post(pool_, std::move(function));
  }

 private:
  asio::thread_pool pool_;
};

/// An io_context and the threads that run it.
class context {
 public:
  explicit context(unsigned workers) : io_(static_cast<int>(workers)) {
    for (unsigned i = 0; i < workers; ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
  }
  ~context() {
    work_.reset();
    for (auto& one : threads_) one.join();
  }
  context(const context&) = delete;
  context& operator=(const context&) = delete;

  [[nodiscard]] executor where() noexcept { return io_.get_executor(); }

 private:
  asio::io_context io_;
  asio::executor_work_guard<executor> work_ = asio::make_work_guard(io_);
  std::vector<std::thread> threads_;
};

// Without an executor as argument post() takes the coroutine's own, which is faster by a fifth.
asio::awaitable<void, executor> yield_rounds(seat& seat) {
  double yields = 0;
  while (const auto round = seat.next_round()) {
    for (std::uint64_t i = 0; i < round; ++i) {
      co_await asio::post(asio::use_awaitable_t<executor>());
    }
    yields = static_cast<double>(round);
  }
  seat.add_time(yields);
}

void ask_yield(seat& seat) {
  context io(seat.workers());
  asio::co_spawn(io.where(), yield_rounds(seat), asio::use_future).get();
}

void ask_hop(seat& seat) {
  std::array<context, 2> sides{context(1), context(1)};
  bench::exec::ask_hop(seat, [&](unsigned side, auto function) {
    asio::post(sides[side].where(), std::move(function));
  });
}

constexpr std::array entries{
    bench::exec::entry{&bench::exec::post_closure, "asio_pool",
                       bench::exec::ask_post_closure<asio_pool>},
    bench::exec::entry{&bench::exec::yield, "asio", ask_yield},
    bench::exec::entry{&bench::exec::hop, "asio", ask_hop},
    bench::exec::entry{&bench::exec::urgent, "asio_pool", bench::exec::ask_urgent<asio_pool>},
    bench::exec::entry{&bench::exec::idle_wake, "asio_pool", bench::exec::ask_idle_wake<asio_pool>},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::exec::main_of(argc, argv, entries);
}
