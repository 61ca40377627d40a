// SPDX-License-Identifier: Apache-2.0
#include "shm/arena.hpp"

#include <algorithm>
#include <string>

#include "core/current_executor.hpp"
#include "hawser/errc.hpp"
#include "shm/handle_owner.hpp"

namespace hawser::shm {
namespace {

constexpr std::size_t reserve_step = 256 << 10;  // so much at a time is set aside, and touched
constexpr std::size_t spares_most = 512;

std::uint32_t granules_of(std::size_t bytes) noexcept {
  return static_cast<std::uint32_t>((bytes + granule_bytes - 1) / granule_bytes);
}

}  // namespace

// ---- the memory -----------------------------------------------------------------------------

arena_memory arena_memory::create(std::size_t bytes_a_side) {
  handle_owner memory(platform::create_memory(2 * bytes_a_side));
  arena_memory made(memory.get(), bytes_a_side, side::client);
  static_cast<void>(memory.give());
  return made;
}

arena_memory arena_memory::adopt(platform::native_handle& memory, std::size_t bytes_a_side) {
  const std::size_t there = platform::inspect_memory(memory);
  if (there != 2 * bytes_a_side) {
    failure(errc::unsupported, "shared memory: an arena of " + std::to_string(there) + " bytes")
        .raise();
  }
  arena_memory made(memory, bytes_a_side, side::server);
  memory = platform::no_handle;
  return made;
}

arena_memory::arena_memory(platform::native_handle handle, std::size_t bytes, side own)
    : handle_(handle), bytes_(bytes), own_at_(own == side::client ? 0 : bytes) {
  own_ = platform::map_memory(handle, own_at_, bytes, platform::access::read_write);
  try {
    peers_ = platform::map_memory(handle, bytes - own_at_, bytes, platform::access::read);
  } catch (...) {
    platform::unmap_memory(own_, bytes);
    throw;
  }
}

arena_memory& arena_memory::operator=(arena_memory&& other) noexcept {
  arena_memory taken(std::move(other));
  std::swap(handle_, taken.handle_);
  std::swap(bytes_, taken.bytes_);
  std::swap(own_, taken.own_);
  std::swap(peers_, taken.peers_);
  std::swap(own_at_, taken.own_at_);
  return *this;
}

arena_memory::~arena_memory() {
  if (own_ != nullptr) platform::unmap_memory(own_, bytes_);
  if (peers_ != nullptr) platform::unmap_memory(peers_, bytes_);
  platform::release_handle(handle_);
}

bool arena_memory::reserve(std::size_t offset, std::size_t bytes) noexcept {
  if (platform::reserve_memory(handle_, own_at_ + offset, bytes)) return false;
  platform::touch_memory(own_ + offset, bytes);
  return true;
}

void arena_memory::unreserve() noexcept {
  platform::unreserve_memory(handle_, own_at_, bytes_);
}

// ---- lending --------------------------------------------------------------------------------

arena::arena(arena_memory memory, arena_events& owner)
    : memory_(std::move(memory)),
      home_(*detail::current_executor),
      owner_(&owner),
      granules_(granules_of(memory_.bytes())) {}

std::optional<buffer> arena::loan(std::size_t bytes) {
  const std::uint32_t count = granules_of(bytes);
  if (by_granule_.empty()) {
    reserved_.resize(memory_.bytes() / reserve_step);
    by_granule_.resize(granules_.size());
  }
  loaned& made = new_loaned();
  std::uint32_t first = buddies::none;
  try {
    first = granules_.take(count);
  } catch (...) {
    keep_spare(made);
    throw;
  }
  if (first == buddies::none || !reserve(first, count)) {
    if (first != buddies::none) granules_.give_back(first, count);
    keep_spare(made);
    return std::nullopt;
  }
  made.at = std::uint64_t{first} * granule_bytes;
  made.first = memory_.own() + made.at;
  made.granules = count;
  made.capacity = std::size_t{count} * granule_bytes;
  std::fill_n(by_granule_.begin() + first, count, &made);
  references_.fetch_add(1, std::memory_order_relaxed);
  return buffer(made, bytes);
}

bool arena::reserve(std::uint32_t first, std::uint32_t count) {
  const std::size_t from = first * granule_bytes / reserve_step;
  const std::size_t to = ((std::size_t{first} + count) * granule_bytes - 1) / reserve_step;
  for (std::size_t step = from; step <= to; ++step) {
    if (reserved_[step]) continue;
    if (!memory_.reserve(step * reserve_step, reserve_step)) {
      failed_ = true;
      return false;
    }
    reserved_[step] = true;
  }
  return true;
}

bool arena::has_lent(const shared_buffer& payload) const noexcept {
  if (payload.block() == nullptr || payload.block()->owner != this || payload.empty()) return false;
  const auto& out = static_cast<const loaned&>(*payload.block());
  return out.granules != 0 && (payload.data() - out.first) % 8 == 0;
}

std::uint64_t arena::place_of(const shared_buffer& payload) const noexcept {
  const auto& out = static_cast<const loaned&>(*payload.block());
  return out.at + static_cast<std::uint64_t>(payload.data() - out.first);
}

void arena::hand_over(const shared_buffer& payload) noexcept {
  auto& out = static_cast<loaned&>(*payload.block());
  detail::retain(&out);
  ++out.handed_over;
}

bool arena::take_return(std::uint64_t at) noexcept {
  const std::uint64_t granule = at / granule_bytes;
  if (granule >= by_granule_.size()) return false;
  loaned* const out = by_granule_[static_cast<std::size_t>(granule)];
  if (out == nullptr || out->handed_over == 0) return false;
  --out->handed_over;
  detail::release(out);
  return true;
}

void arena::shed() noexcept {
  if (granules_.taken() != 0) return;
  if (std::find(reserved_.begin(), reserved_.end(), true) == reserved_.end()) return;
  memory_.unreserve();
  std::fill(reserved_.begin(), reserved_.end(), false);
}

// ---- borrowing ------------------------------------------------------------------------------

shared_buffer arena::borrow(std::uint64_t at, std::uint64_t bytes) {
  if (bytes == 0 || at % 8 != 0 || at > memory_.bytes() || bytes > memory_.bytes() - at) return {};
  loaned& made = new_loaned();
  made.at = at;
  made.first = memory_.peers() + at;
  made.granules = 0;
  made.capacity = static_cast<std::size_t>(bytes);
  references_.fetch_add(1, std::memory_order_relaxed);
  return {&made, {made.first, made.capacity}};
}

// ---- what comes back ------------------------------------------------------------------------

arena::loaned& arena::new_loaned() {
  if (spare_ == nullptr) {
    auto* const made = new loaned;
    made->owner = this;
    return *made;
  }
  loaned& made = *std::exchange(spare_, spare_->next);
  --spares_;
  made.references.store(1, std::memory_order_relaxed);  // nobody else knows it
  return made;
}

void arena::keep_spare(loaned& unused) noexcept {
  if (spares_ == spares_most) {
    delete &unused;
    return;
  }
  unused.next = std::exchange(spare_, &unused);
  ++spares_;
}

// Home's thread.
void arena::settle(loaned& unused) noexcept {
  const std::uint64_t at = unused.at;
  const std::uint32_t count = std::exchange(unused.granules, 0);
  if (count != 0) {
    const auto first = static_cast<std::uint32_t>(at / granule_bytes);
    std::fill_n(by_granule_.begin() + first, count, nullptr);
    granules_.give_back(first, count);
  }
  keep_spare(unused);
  references_.fetch_sub(1, std::memory_order_relaxed);  // the link's is there still
  if (count != 0) {
    owner_->on_room();
  } else {
    owner_->on_let_go(at);
  }
}

void arena::take_back(detail::block& unused) noexcept {
  auto& gone = static_cast<loaned&>(unused);
  if (detail::current_executor == &home_ && owner_ != nullptr) return settle(gone);
  if (birthmark_.is_inherited()) return;
  {
    const std::lock_guard guard(mutex_);
    if (!abandoned_) {
      gone.next = returned_;
      if (std::exchange(returned_, &gone) == nullptr) owner_->on_let_go_elsewhere();
      return;
    }
  }
  delete &gone;
  let_go();
}

void arena::collect() noexcept {
  loaned* next = nullptr;
  {
    const std::lock_guard guard(mutex_);
    next = std::exchange(returned_, nullptr);
  }
  while (next != nullptr) settle(*std::exchange(next, next->next));
}

void arena::let_go() noexcept {
  // acq_rel pairs with itself: who deletes comes after all other uses
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

// What the peer had is ours again; the application may hold it still. It is looked for while other
// threads only hand in what they let go of: once it is abandoned they delete it.
void arena::abandon() noexcept {
  loaned* handed_over = nullptr;
  for (std::size_t i = 0; i < by_granule_.size();) {
    loaned* const out = by_granule_[i];
    i += out == nullptr ? 1 : out->granules;
    if (out != nullptr && out->handed_over != 0) out->next = std::exchange(handed_over, out);
  }
  loaned* next = nullptr;
  {
    const std::lock_guard guard(mutex_);
    abandoned_ = true;
    owner_ = nullptr;
    next = std::exchange(returned_, nullptr);
  }
  while (next != nullptr) {
    delete std::exchange(next, next->next);
    references_.fetch_sub(1, std::memory_order_relaxed);
  }
  while (spare_ != nullptr) delete std::exchange(spare_, spare_->next);
  while (handed_over != nullptr) {
    loaned& out = *std::exchange(handed_over, handed_over->next);
    for (auto left = std::exchange(out.handed_over, 0U); left != 0; --left) detail::release(&out);
  }
  let_go();
}

}  // namespace hawser::shm
