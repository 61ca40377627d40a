// SPDX-License-Identifier: Apache-2.0
#include "shm/file_passage.hpp"

#include <new>
#include <span>

#include "hawser/errc.hpp"
#include "shm/file_view.hpp"
#include "shm/handle_owner.hpp"

namespace hawser::shm {
namespace {

// What goes along with a handle, in the byte order of the host.
struct notice {
  std::uint64_t slot;
  std::uint64_t offset;
  std::uint64_t bytes;
};

}  // namespace

file_passage::~file_passage() {
  if (socket_ != platform::no_handle) platform::close(socket_);
  for (auto& each : came_) {
    if (each.has_value()) platform::release_handle(each->file);
  }
}

bool file_passage::pass(std::uint32_t slot, const passed& which) noexcept {
  const notice said{slot, which.offset, which.bytes};
  const auto words = std::as_bytes(std::span(&said, 1));
  std::error_code error;
  const std::size_t written =
      platform::write_with_handles(socket_, {words.data(), words.size()}, {&which.file, 1}, error);
  if (written == sizeof said) return true;
  if (written != 0) platform::close(std::exchange(socket_, platform::no_handle));
  return false;
}

// One handle with one notice, as they were written.
bool file_passage::take_next() {
  notice said{};
  platform::handle_list came;
  std::error_code error;
  const std::size_t got = platform::read_with_handles(
      socket_, std::as_writable_bytes(std::span(&said, 1)), came, error);
  for (std::size_t i = 1; i < came.count; ++i) platform::release_handle(came.handles[i]);
  handle_owner file(came.count == 0 ? platform::no_handle : came.handles[0]);
  if (came.cut_short || (error && platform::is_exhaustion(error))) throw std::bad_alloc();
  if (got != sizeof said || came.count != 1 || said.slot >= slots) return false;
  auto& place = came_[static_cast<std::size_t>(said.slot)];
  if (place.has_value()) return false;
  place = passed{file.give(), said.offset, said.bytes};
  return true;
}

shared_buffer file_passage::receive(std::uint64_t slot, std::uint64_t bytes) {
  if (slot >= slots || socket_ == platform::no_handle) return {};
  auto& place = came_[static_cast<std::size_t>(slot)];
  while (!place.has_value()) {
    if (!take_next()) return {};
  }
  const passed found = *std::exchange(place, {});
  const handle_owner file(found.file);
  if (bytes == 0 || found.bytes != bytes || found.offset % 8 != 0) return {};
  try {
    const auto size = static_cast<std::size_t>(bytes);
    if (!may_pass(require_part(file.get(), found.offset, size))) return {};
    return view_file(file.get(), found.offset, size);
  } catch (const std::system_error& error) {
    if (platform::is_exhaustion(error.code())) throw std::bad_alloc();
    return {};  // not what it was said to be
  }
}

}  // namespace hawser::shm
