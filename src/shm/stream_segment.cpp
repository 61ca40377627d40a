// SPDX-License-Identifier: Apache-2.0
#include "shm/stream_segment.hpp"

#include <new>
#include <system_error>
#include <utility>

#include "hawser/errc.hpp"

namespace hawser::shm {
namespace {

[[noreturn]] void unsuitable(const std::string& name, const char* why) {
  failure(errc::unsupported, name + ": " + why).raise();
}

}  // namespace

stream_segment::stream_segment(stream_end end, std::string name, std::size_t ring_bytes) noexcept
    : end_(end), name_(std::move(name)), ring_bytes_(ring_bytes) {}

stream_segment::stream_segment(stream_segment&& gone) noexcept
    : end_(gone.end_),
      name_(std::move(gone.name_)),
      ring_bytes_(gone.ring_bytes_),
      memory_(std::exchange(gone.memory_, platform::no_handle)),
      note_(std::exchange(gone.note_, platform::no_handle)),
      first_(std::exchange(gone.first_, nullptr)) {}

stream_segment::~stream_segment() {
  if (first_ != nullptr) platform::unmap_memory(first_, bytes());
  // Who opens and fails leaves the name to the next.
  if (end_ == stream_end::creator && note_ != platform::no_handle) {
    platform::withdraw_name(name_, note_);
  }
  platform::release_handle(note_);
  platform::release_handle(memory_);
}

// What fails leaves an object behind whose destructor gives back what there is.
stream_segment stream_segment::create(std::string_view name, const wishes& how) {
  stream_segment made(stream_end::creator, platform::memory_name(name), how.ring_bytes);
  made.memory_ = platform::create_memory(made.bytes());
  if (const auto error = platform::reserve_memory(made.memory_, 0, made.bytes())) {
    throw std::system_error(error, "cannot reserve the memory of " + made.name_);
  }
  made.first_ = platform::map_memory(made.memory_, made.bytes());
  ::new (made.first_) stream_header;
  made.header().ring_bytes = how.ring_bytes;
  made.map(how);
  made.attach();
  made.note_ = platform::announce_memory(made.name_, made.memory_);
  return made;
}

// How large the rings are follows from the size, which is sealed.
stream_segment stream_segment::open(std::string_view name, const wishes& how) {
  stream_segment made(stream_end::opener, platform::memory_name(name), 0);
  const platform::found_memory found = platform::find_memory(made.name_);
  made.note_ = found.note;
  made.memory_ = found.memory;
  const std::size_t there = platform::inspect_memory(found.memory);
  if (there < stream_rings_at || !is_stream_ring((there - stream_rings_at) / 2) ||
      (there - stream_rings_at) % 2 != 0) {
    unsuitable(made.name_, "its size is not that of a stream");
  }
  made.ring_bytes_ = (there - stream_rings_at) / 2;
  made.first_ = platform::map_memory(found.memory, there);
  const stream_header& header = made.header();
  if (header.magic != stream_header().magic || header.layout != stream_layout ||
      header.ring_bytes != made.ring_bytes_) {
    unsuitable(made.name_, "it has another layout");
  }
  if (made.side(stream_end::opener).attached.load(std::memory_order_relaxed) != 0) {
    failure(errc::refused, made.name_ + " has a peer already").raise();
  }
  made.map(how);
  made.attach();
  platform::withdraw_name(made.name_, made.note_);
  // The memory needs no name and no handle any more.
  platform::release_handle(std::exchange(made.note_, platform::no_handle));
  platform::release_handle(std::exchange(made.memory_, platform::no_handle));
  return made;
}

void stream_segment::map(const wishes& how) {
  if (how.huge_pages) static_cast<void>(platform::use_huge_pages(first_, bytes()));
  if (how.touch) platform::touch_memory(first_, bytes());
}

void stream_segment::attach() {
  const platform::process_mark self = platform::current_process();
  stream_side& own = side(end_);
  own.process.store(self.number, std::memory_order_relaxed);
  own.started.store(self.started, std::memory_order_relaxed);
  own.has_barriers.store(platform::join_barriers() ? 1 : 0, std::memory_order_relaxed);
  // release pairs with the acquire in stream_core::meet_peer()
  own.attached.store(1, std::memory_order_release);
  platform::wake_all(own.attached);
}

}  // namespace hawser::shm
