// SPDX-License-Identifier: Apache-2.0
#include "hawser/shm_stream.hpp"

#include <string>
#include <system_error>
#include <utility>

#include "shm/stream_core.hpp"

namespace hawser {
namespace {

using namespace std::chrono_literals;
using moved = result<std::optional<std::size_t>>;
using timing = shm::stream_core::timing;

void require(bool holds, const char* what) {
  if (!holds) failure(errc::bad_config, what).raise();
}

void check(const shm_stream_options& options) {
  require(shm::is_stream_ring(options.ring_bytes),
          "shm_stream_options::ring_bytes: a power of two, 4 KiB..1 GiB");
  require(options.peer_check >= 100us && options.peer_check <= 1h,
          "shm_stream_options::peer_check: 100 us..1 h");
  require(options.spin.limit >= 100ns && options.spin.limit <= 10ms,
          "shm_stream_options::spin: 100 ns..10 ms");
}

shm::stream_segment::wishes wishes_of(const shm_stream_options& options) noexcept {
  return {options.ring_bytes, options.huge_pages, options.touch};
}

failure too_large(std::size_t largest) {
  return {errc::too_large, "a record may have " + std::to_string(largest) + " bytes"};
}

}  // namespace

shm_batch::shm_batch(std::size_t bytes)
    : bytes_(std::make_unique_for_overwrite<std::byte[]>(bytes)), capacity_(bytes) {}

shm_stream::shm_stream(std::unique_ptr<shm::stream_core> core) noexcept : core_(std::move(core)) {}
shm_stream::shm_stream(shm_stream&& gone) noexcept = default;
shm_stream& shm_stream::operator=(shm_stream&& gone) noexcept = default;
shm_stream::~shm_stream() = default;

shm_stream shm_stream::create(std::string_view name, const shm_stream_options& options) {
  check(options);
  return shm_stream(std::make_unique<shm::stream_core>(
      shm::stream_segment::create(name, wishes_of(options)), options));
}

shm_stream shm_stream::open(std::string_view name, const shm_stream_options& options) {
  check(options);
  return shm_stream(std::make_unique<shm::stream_core>(
      shm::stream_segment::open(name, wishes_of(options)), options));
}

result<void> shm_stream::wait_for_peer(timeout limit) {
  if (const auto why = core_->wait_for_peer(limit)) return failure(why);
  return {};
}

std::size_t shm_stream::record_bytes_max() const noexcept {
  return core_->largest();
}

result<void> shm_stream::write(std::span<const std::byte> record, timeout limit) {
  const auto why = core_->write(record, limit);
  if (!why) [[likely]]
    return {};
  if (why == errc::too_large) return too_large(core_->largest());
  return failure(why);
}

// What was done counts; why it was not all is seen by the next call.
result<std::size_t> shm_stream::write_batch(std::span<const std::span<const std::byte>> records,
                                            timeout limit) {
  std::size_t written = 0;
  const auto why = core_->write_batch(records, limit, written);
  if (!why || written != 0) [[likely]]
    return written;
  if (why == errc::too_large) return too_large(core_->largest());
  return failure(why);
}

moved shm_stream::read(std::span<std::byte> into, timeout limit) {
  const timing timed(*core_, timing::call::read);
  std::error_code error;
  if (!core_->await_record(limit, error)) {
    if (error) return failure(error);
    return moved(std::nullopt);
  }
  const std::size_t bytes = core_->record_bytes();
  if (bytes > into.size()) {
    return failure(errc::too_large, "the record has " + std::to_string(bytes) + " bytes");
  }
  core_->take(into.data());
  return moved(bytes);
}

moved shm_stream::read(std::vector<std::byte>& into, timeout limit) {
  const timing timed(*core_, timing::call::read);
  std::error_code error;
  if (!core_->await_record(limit, error)) {
    if (error) return failure(error);
    return moved(std::nullopt);
  }
  into.resize(core_->record_bytes());
  core_->take(into.data());
  return moved(into.size());
}

moved shm_stream::read_batch(shm_batch& into, std::size_t most, timeout limit) {
  std::error_code error;
  if (core_->read_batch(into, most, limit, error)) return moved(into.size());
  if (error) return failure(error);
  return moved(std::nullopt);
}

result<std::size_t> shm_stream::write_all(std::span<const std::byte> bytes, timeout limit) {
  std::size_t written = 0;
  const auto why = core_->write_all(bytes, limit, written);
  if (!why || written != 0) return written;
  return failure(why);
}

moved shm_stream::read_exact(std::span<std::byte> into, timeout limit) {
  std::size_t read = 0;
  std::error_code error;
  if (core_->read_exact(into, limit, read, error) || read != 0) return moved(read);
  if (error) return failure(error);
  return moved(std::nullopt);
}

void shm_stream::close_writing() noexcept {
  core_->close_writing();
}

void shm_stream::close() noexcept {
  core_->close();
}

shm_stream_stats shm_stream::stats() const noexcept {
  return core_->stats();
}

}  // namespace hawser
