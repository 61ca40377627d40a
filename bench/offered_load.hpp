// SPDX-License-Identifier: Apache-2.0
// One round of the benchmark `load`, for clients that are no coroutines.
#pragma once

#include <cstdint>
#include <future>
#include <thread>

#include "bench.hpp"

namespace bench {

/// Which messages of a round are due, and how long their answers took; see bench::schedule.
///
///     while (load.is_due(now)) send(load.next());
///     while (received()) load.answered(taken());
///
/// Threads: one may send while another takes answers.
class offered_load {
 public:
  offered_load(client_seat& seat, std::uint64_t count) noexcept
      : seat_(&seat), schedule_(seat.schedule()), count_(count) {}

  [[nodiscard]] bool all_sent() const noexcept { return sent_ == count_; }
  /// Shape: not once all_sent().
  [[nodiscard]] clock::time_point next_due() const noexcept { return schedule_.due(sent_); }
  [[nodiscard]] bool is_due(clock::time_point now) const noexcept {
    return !all_sent() && next_due() <= now;
  }
  /// What to send now.
  [[nodiscard]] note next() noexcept { return {sent_++, 0}; }

  [[nodiscard]] bool all_answered() const noexcept { return received_ == count_; }
  /// Answers come in the order of the messages.
  void answered(note answer, clock::time_point arrived = clock::now()) {
    expect_number(received_++, answer.number);
    seat_->record(arrived - schedule_.due(answer.number));
  }

 private:
  client_seat* seat_;
  bench::schedule schedule_;
  std::uint64_t count_;
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
};

/// A round on two threads, for libraries whose own timers are whole milliseconds: this one sleeps
/// until the next message is due and calls `send`; the other calls `take` for each answer.
template <class Send, class Take>
void offer_on_two_threads(offered_load& round, Send send, Take take) {
  auto answers = std::async(std::launch::async, [&round, &take] {
    while (!round.all_answered()) take();
  });
  while (!round.all_sent()) {
    std::this_thread::sleep_until(round.next_due());
    send();
  }
  answers.get();
}

}  // namespace bench
