// SPDX-License-Identifier: Apache-2.0
#include "exec/timer_wheel.hpp"

#include <algorithm>
#include <bit>
#include <functional>

namespace hawser::detail {
namespace {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;

std::uint64_t nanoseconds_of(clock::time_point when) noexcept {
  return static_cast<std::uint64_t>(
      std::max(duration_cast<nanoseconds>(when.time_since_epoch()).count(), nanoseconds::rep{0}));
}

// A deadline counts from the end of its tick, now from the start: never early.
std::uint64_t ticks_down(clock::time_point when) noexcept {
  return nanoseconds_of(when) >> timer_wheel::tick_shift;
}

std::uint64_t ticks_up(clock::time_point when) noexcept {
  const std::uint64_t whole = std::uint64_t{1} << timer_wheel::tick_shift;
  return (nanoseconds_of(when) + (whole - 1)) >> timer_wheel::tick_shift;
}

clock::time_point time_of(std::uint64_t ticks) noexcept {
  return clock::time_point(duration_cast<clock::duration>(
      nanoseconds(static_cast<nanoseconds::rep>(ticks << timer_wheel::tick_shift))));
}

void link_before(timer& place, timer& entry) noexcept {
  entry.previous = place.previous;
  entry.next = &place;
  place.previous->next = &entry;
  place.previous = &entry;
}

}  // namespace

timer_wheel::timer_wheel(clock::time_point start) noexcept : now_ticks_(ticks_down(start)) {}

void timer_wheel::begin(clock::time_point start) noexcept {
  now_ticks_ = ticks_down(start);
}

void timer_wheel::arm(timer& entry, clock::time_point deadline) noexcept {
  disarm(entry);
  entry.deadline = deadline;
  insert(entry);
  ++armed_;
}

void timer_wheel::disarm(timer& entry) noexcept {
  if (!entry.armed()) return;
  unlink(entry);
  --armed_;
}

void timer_wheel::insert(timer& entry) noexcept {
  const auto wanted = std::max(ticks_up(entry.deadline), now_ticks_);
  const auto when = std::min(wanted, now_ticks_ | (horizon - 1));
  const auto differing = (when ^ now_ticks_) | slot_mask;
  const auto level = static_cast<unsigned>(std::bit_width(differing) - 1) / level_bits;
  const auto slot = static_cast<std::size_t>((when >> (level * level_bits)) & slot_mask);
  link_before(slots_[level][slot], entry);
  occupied_[level] |= std::uint64_t{1} << slot;
}

void timer_wheel::unlink(timer& entry) noexcept {
  timer* const neighbour = entry.next;
  entry.previous->next = entry.next;
  entry.next->previous = entry.previous;
  entry.previous = entry.next = nullptr;
  if (neighbour->next != neighbour) return;
  // The list is empty, so the neighbour is its sentinel; one of a slot has a bit to clear, that
  // of advance() has none.
  const auto* const first = &slots_.front().front();
  const auto* const last = &slots_.back().back();
  const auto* const head = static_cast<const list_head*>(neighbour);
  if (std::less<>()(head, first) || std::less<>()(last, head)) return;
  const auto index = static_cast<std::size_t>(head - first);
  occupied_[index / slots_per_level] &= ~(std::uint64_t{1} << (index % slots_per_level));
}

// Within a level, the slots ahead are those above the digit of now: what was at or below it has
// been moved down when now reached it. Every tick of a lower level comes before those of a higher.
std::optional<timer_wheel::slot_place> timer_wheel::next_slot() const noexcept {
  for (unsigned level = 0; level < level_count; ++level) {
    if (occupied_[level] == 0) continue;
    const auto slot = static_cast<std::size_t>(std::countr_zero(occupied_[level]));
    const auto shift = level * level_bits;
    const auto above = now_ticks_ >> (shift + level_bits) << (shift + level_bits);
    return slot_place{level, slot, above | (static_cast<std::uint64_t>(slot) << shift)};
  }
  return std::nullopt;
}

std::optional<clock::time_point> timer_wheel::next() const noexcept {
  const auto place = next_slot();
  if (!place) return std::nullopt;
  return time_of(place->tick);
}

void timer_wheel::take(const slot_place& place, list_head& into) noexcept {
  list_head& head = slots_[place.level][place.slot];
  occupied_[place.level] &= ~(std::uint64_t{1} << place.slot);
  into.next = head.next;
  into.previous = head.previous;
  into.next->previous = &into;
  into.previous->next = &into;
  head.previous = head.next = &head;
}

// What fires is taken off its slot first, so that a timer that is armed for the past inside `fire`
// waits for the next call instead of keeping this one busy for ever: now moves on only at the end.
std::size_t timer_wheel::advance(clock::time_point now) noexcept {
  const auto target = std::max(ticks_down(now), now_ticks_);
  std::size_t fired = 0;
  list_head due;
  for (auto place = next_slot(); place && place->tick <= target; place = next_slot()) {
    now_ticks_ = std::max(now_ticks_, place->tick);
    list_head moved;
    take(*place, moved);
    while (moved.next != &moved) {
      timer& entry = *moved.next;
      unlink(entry);
      if (ticks_up(entry.deadline) <= now_ticks_) {
        link_before(due, entry);
      } else {
        insert(entry);
      }
    }
  }
  now_ticks_ = target;
  while (due.next != &due) {
    timer& entry = *due.next;
    unlink(entry);
    --armed_;
    ++fired;
    entry.fire(entry);
  }
  return fired;
}

}  // namespace hawser::detail
