// SPDX-License-Identifier: Apache-2.0
#include "hawser/shm_workers.hpp"

#include <algorithm>
#include <utility>

#include "os/platform.hpp"
#include "shm/pool_worker.hpp"

namespace hawser {
namespace {

void require(bool holds, const char* what) {
  if (!holds) failure(errc::bad_config, what).raise();
}

}  // namespace

shm_workers::shm_workers(const shm_workers_options& options) {
  require(options.threads >= 1 && options.threads <= 64, "shm_workers_options::threads: 1..64");
  require(options.batch_records >= 1, "shm_workers_options::batch_records: 1 or more");
  const auto cores = options.cores.empty() ? platform::usable_core_list() : options.cores;
  for (unsigned i = 0; i < options.threads; ++i) {
    std::optional<unsigned> core;
    if (options.pin) core = cores[i % cores.size()];
    workers_.push_back(std::make_unique<shm::pool_worker>(options, core));
  }
}

shm_workers::~shm_workers() {
  stop();
}

void shm_workers::serve(shm_stream& stream, records_handler on_records, end_handler on_end) {
  auto more = std::make_unique<shm::pool_worker::served>(
      shm::pool_worker::served{stream, *stream.core_, std::move(on_records), std::move(on_end)});
  const auto least =
      std::min_element(workers_.begin(), workers_.end(), [](const auto& one, const auto& other) {
        return one->stream_count() < other->stream_count();
      });
  const errc refusal = (*least)->add(more);
  if (refusal != errc{}) failure(refusal, "shm_workers::serve").raise();
}

// All are told before any is waited for.
void shm_workers::stop() noexcept {
  for (const auto& each : workers_) each->request_stop();
  for (const auto& each : workers_) each->join();
}

std::vector<std::optional<unsigned>> shm_workers::cores() const {
  std::vector<std::optional<unsigned>> all;
  for (const auto& each : workers_) all.push_back(each->core());
  return all;
}

shm_workers_stats shm_workers::stats() const noexcept {
  shm_workers_stats all;
  for (const auto& each : workers_) each->add_to(all);
  return all;
}

}  // namespace hawser
