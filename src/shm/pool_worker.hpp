// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/counter.hpp"
#include "exec/spin_budget.hpp"
#include "hawser/shm_workers.hpp"
#include "shm/stream_core.hpp"

namespace hawser::shm {

/// One thread of shm_workers.
class pool_worker {
 public:
  struct served {
    shm_stream& stream;
    stream_core& core;
    shm_workers::records_handler on_records;
    shm_workers::end_handler on_end;
  };

  /// Returns once the thread runs and is bound, or is not.
  ///
  /// Errors: throws std::system_error.
  pool_worker(const shm_workers_options& options, std::optional<unsigned> core);
  ~pool_worker();
  pool_worker(const pool_worker&) = delete;
  pool_worker& operator=(const pool_worker&) = delete;

  // Threads: any.
  [[nodiscard]] std::size_t stream_count() const noexcept;
  /// Zero: it was taken. Errors: throws std::bad_alloc.
  [[nodiscard]] errc add(std::unique_ptr<served>& more);
  /// Closes the streams; join() follows.
  void request_stop() noexcept;
  void join() noexcept;
  [[nodiscard]] std::optional<unsigned> core() const noexcept { return core_; }
  void add_to(shm_workers_stats& all) const noexcept;

 private:
  void run() noexcept;
  /// Hands over what has come. False: nothing had.
  bool serve_all();
  bool serve(served& each);
  void finish(served& each, std::error_code why);
  /// False: it is being stopped.
  [[nodiscard]] bool adopt();
  [[nodiscard]] bool has_stirred() noexcept;
  [[nodiscard]] bool spin() noexcept;
  void sleep();
  /// A peer is gone, or something is there after all.
  [[nodiscard]] bool look_after_sleep();

  const shm_workers_options options_;
  std::optional<unsigned> core_;

  mutable std::mutex mutex_;  // the next three
  std::vector<std::unique_ptr<served>> all_;
  std::size_t adopted_ = 0;
  bool stopping_ = false;

  /// 1: nobody has called. What the thread sleeps on beside the words of its streams.
  std::atomic<std::uint32_t> quiet_{0};

  // The thread's own.
  std::vector<served*> mine_;
  std::vector<const std::atomic<std::uint32_t>*> words_;
  shm_batch batch_;
  detail::spin_budget spin_;
  detail::counter batches_;
  detail::counter records_;
  detail::counter spins_;
  detail::counter spins_paid_;
  detail::counter sleeps_;

  std::thread thread_;
};

}  // namespace hawser::shm
