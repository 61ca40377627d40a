// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include "hawser/executor_config.hpp"
#include "hawser/shm_stream.hpp"

namespace hawser {

namespace shm {
class pool_worker;
}  // namespace shm

struct shm_workers_options {
  unsigned threads = 1;  ///< 1..64
  /// Binds thread i to the i-th of `cores`, or of those that the process may use; around again.
  bool pin = true;
  std::vector<unsigned> cores{};
  /// How long a thread looks at all its streams before it sleeps.
  spin_policy spin{};
  std::size_t batch_records = 64;  ///< handed over at once, at most
  std::size_t batch_bytes = std::size_t{64} << 10;
};

struct shm_workers_stats {
  std::uint64_t batches = 0;
  std::uint64_t records = 0;
  std::uint64_t spins = 0;
  std::uint64_t spins_paid = 0;
  std::uint64_t sleeps = 0;
};

/// Threads that read streams and hand over what has come.
///
/// Each stream belongs to one thread, the one that had the fewest when it came, so its records are
/// handed over in order and never by two threads at once. A thread that finds nothing in any of its
/// streams looks for a while, then sleeps for all of them at once.
///
/// Threads: any, but not handlers: those may not call stop() or the destructor.
class shm_workers {
 public:
  using records_handler = std::function<void(shm_stream& from, const shm_batch& records)>;
  /// `why` is zero where the peer has closed in order.
  using end_handler = std::function<void(shm_stream& from, std::error_code why)>;

  static constexpr std::size_t streams_per_thread_max = 127;

  /// Errors: throws errc::bad_config; std::system_error if a thread cannot be had.
  explicit shm_workers(const shm_workers_options& options = {});
  /// stop().
  ~shm_workers();
  shm_workers(const shm_workers&) = delete;
  shm_workers& operator=(const shm_workers&) = delete;

  /// From now on, nobody else reads the stream. It lives, and is not moved, until `on_end` was
  /// called or stop() has returned. Handlers may write to it and to others; they may block, and
  /// hold up the other streams of their thread then. They do not throw: that ends the process.
  ///
  /// Errors: throws errc::limit_reached when all threads have streams_per_thread_max;
  ///         errc::closed after stop(); std::bad_alloc.
  void serve(shm_stream& stream, records_handler on_records, end_handler on_end = {});
  /// Closes the streams that are still served, so that handlers that wait in them go on, and ends
  /// the threads. `on_end` is not called for them. Returns when the last handler has.
  void stop() noexcept;

  /// The core that each thread was bound to; empty: the system has refused, or was not asked.
  [[nodiscard]] std::vector<std::optional<unsigned>> cores() const;
  /// Of all threads.
  [[nodiscard]] shm_workers_stats stats() const noexcept;

 private:
  std::vector<std::unique_ptr<shm::pool_worker>> workers_;
};

}  // namespace hawser
