// SPDX-License-Identifier: Apache-2.0
#include "courier/calls.hpp"

#include <algorithm>

namespace courier {
namespace {

constexpr std::size_t latencies_kept = 1'000'000;
constexpr std::size_t pings_on_their_way_max = 100;

}  // namespace

void latencies::add(std::chrono::nanoseconds took) {
  const auto value = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
  const auto stored = static_cast<std::uint32_t>(std::min<std::int64_t>(value, UINT32_MAX));
  const auto at = static_cast<std::size_t>(count_++ % latencies_kept);
  if (at < microseconds_.size()) {
    microseconds_[at] = stored;
  } else {
    microseconds_.push_back(stored);
  }
}

double latencies::percentile(double share) const {
  if (microseconds_.empty()) return 0;
  auto sorted = microseconds_;
  const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(sorted.size() - 1));
  std::nth_element(sorted.begin(), sorted.begin() + at, sorted.end());
  return sorted[static_cast<std::size_t>(at)] / 1000.0;
}

// What asks awaits. It is in the table before the question leaves, because the answer may be read
// before the one who asked runs again.
class calls::answer {
 public:
  answer(calls& owner, std::uint64_t id) : owner_(owner), id_(id) { owner.waiting_[id] = this; }
  answer(const answer&) = delete;
  answer& operator=(const answer&) = delete;
  ~answer() { owner_.waiting_.erase(id_); }

  [[nodiscard]] bool await_ready() const noexcept { return came_ || owner_.ended_; }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
  [[nodiscard]] hawser::message await_resume() {
    if (!came_) hawser::failure(hawser::errc::link_lost, "no answer").raise();
    return std::move(*came_);
  }
  // Both continue the waiter right here, until it awaits something else.
  void deliver(hawser::message&& message) {
    came_ = std::move(message);
    go_on();
  }
  void go_on() {
    if (waiter_) std::exchange(waiter_, {}).resume();
  }

 private:
  calls& owner_;
  std::uint64_t id_;
  std::coroutine_handle<> waiter_;
  std::optional<hawser::message> came_;
};

// Tells everybody who waits when read() ends, also by an exception or a stop request.
class calls::reading {
 public:
  explicit reading(calls& owner) noexcept : owner_(owner) {}
  reading(const reading&) = delete;
  reading& operator=(const reading&) = delete;
  ~reading() {
    owner_.ended_ = true;
    // A waiter takes itself off the table when it goes on, others perhaps too: look anew.
    while (!owner_.waiting_.empty()) {
      auto* one = owner_.waiting_.begin()->second;
      owner_.waiting_.erase(owner_.waiting_.begin());
      one->go_on();
    }
  }

 private:
  calls& owner_;
};

hawser::task<hawser::shared_buffer> calls::ask(bytes question) {
  const auto id = ++last_id_;
  answer pending(*this, id);
  co_await link_.rpc().send(question, {.id = id});
  const auto message = co_await pending;
  auto words = message.to_owned();  // or the peer could change them behind the checks
  if (tag_of(words.bytes()) != tag::answer) throw bad_message("not an answer");
  co_return words;
}

hawser::task<void> calls::ping() {
  if (on_their_way_.size() >= pings_on_their_way_max) co_return;
  const auto id = ++last_id_;
  const auto question = encode(tag::ping);
  on_their_way_.emplace_back(id, std::chrono::steady_clock::now());
  co_await link_.rpc().send(question, {.id = id});
}

// Pings are answered in their order, whatever else is asked in between.
hawser::task<void> calls::read() {
  const reading until_the_end(*this);
  while (auto message = co_await link_.rpc().recv()) {
    if (!on_their_way_.empty() && on_their_way_.front().first == message->id()) {
      pings_.add(std::chrono::steady_clock::now() - on_their_way_.front().second);
      on_their_way_.pop_front();
    } else if (const auto found = waiting_.find(message->id()); found != waiting_.end()) {
      found->second->deliver(std::move(*message));
    } else {
      throw bad_message("an answer that nobody waits for");
    }
  }
}

}  // namespace courier
