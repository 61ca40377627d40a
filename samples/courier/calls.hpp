// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hawser/hawser.hpp>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "courier/protocol.hpp"

namespace courier {

/// How long answers took: percentiles of the last million.
class latencies {
 public:
  void add(std::chrono::nanoseconds took);
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// Milliseconds; `share` of the answers were faster. 0 without any.
  [[nodiscard]] double percentile(double share) const;

 private:
  std::vector<std::uint32_t> microseconds_;
  std::uint64_t count_ = 0;
};

/// Questions on the rpc channel, and the answers that come back in any order.
///
/// One task runs read(); it alone receives. When it ends, for whatever reason, all who wait for an
/// answer get errc::link_lost: so a cancelled transfer leaves nobody waiting.
///
/// Threads: the home worker of the link, where everyone is who has awaited its rpc channel last.
class calls {
 public:
  explicit calls(hawser::link link) : link_(std::move(link)) {}
  calls(const calls&) = delete;
  calls& operator=(const calls&) = delete;

  /// Sends a question and completes with its answer.
  ///
  /// Errors: errc::link_lost, errc::cancelled, bad_message.
  /// Cancel: as read() is: it ends, and with it all questions.
  [[nodiscard]] hawser::task<hawser::shared_buffer> ask(bytes question);
  /// Sends a ping; read() takes its time. Skips it while a hundred are on their way.
  ///
  /// Cancel: by the stop token.
  [[nodiscard]] hawser::task<void> ping();
  /// Receives answers until the channel ends.
  ///
  /// Cancel: by the stop token.
  [[nodiscard]] hawser::task<void> read();

  [[nodiscard]] const latencies& pings() const noexcept { return pings_; }

 private:
  class answer;
  class reading;

  hawser::link link_;
  std::uint64_t last_id_ = 0;
  bool ended_ = false;
  std::map<std::uint64_t, answer*> waiting_;
  std::deque<std::pair<std::uint64_t, std::chrono::steady_clock::time_point>> on_their_way_;
  latencies pings_;
};

}  // namespace courier
