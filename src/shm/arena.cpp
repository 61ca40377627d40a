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

arena::arena(arena_memory memory, file_passage files, arena_events& owner)
    : memory_(std::move(memory)),
      files_(std::move(files)),
      home_(*detail::current_executor),
      owner_(&owner),
      granules_(granules_of(memory_.bytes())) {}

std::optional<buffer> arena::loan(std::size_t bytes) {
  const std::uint32_t count = granules_of(bytes);
  if (by_granule_.empty()) {
    reserved_.resize(memory_.bytes() / reserve_step);
    by_granule_.resize(granules_.size());
  }
  loaned& made = new_loaned(kind::lent);
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
  ++out_;
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

// Of a file all of it, or nothing: who reads a part of it may do so in a mapping of his own.
bool arena::has_lent(const shared_buffer& payload) const noexcept {
  if (payload.block() == nullptr || payload.block()->owner != this || payload.empty()) return false;
  const auto& out = static_cast<const loaned&>(*payload.block());
  switch (out.what) {
    case kind::lent:
      return (payload.data() - out.first) % 8 == 0;
    case kind::lent_file:
      return out.file != platform::no_handle && payload.size() == out.capacity;
    case kind::borrowed:
      break;
  }
  return false;
}

std::uint64_t arena::place_of(const shared_buffer& payload) const noexcept {
  const auto& out = static_cast<const loaned&>(*payload.block());
  return out.at + static_cast<std::uint64_t>(payload.data() - out.first);
}

// A file is passed as soon as it is sure that a frame will speak of it: what is passed and never
// spoken of would take up a slot for ever.
bool arena::prepare(const shared_buffer& payload) noexcept {
  auto& out = static_cast<loaned&>(*payload.block());
  if (out.what != kind::lent_file) return true;
  const auto free = std::find(by_slot_.begin(), by_slot_.end(), nullptr);
  if (free == by_slot_.end()) return false;
  const auto slot = static_cast<std::uint32_t>(free - by_slot_.begin());
  if (!files_.pass(slot, {out.file, out.offset, out.capacity})) return false;
  platform::release_handle(std::exchange(out.file, platform::no_handle));
  out.at = first_file + 8 * std::uint64_t{slot};
  *free = &out;
  ++files_passed_;
  return true;
}

void arena::hand_over(const shared_buffer& payload) noexcept {
  auto& out = static_cast<loaned&>(*payload.block());
  if (out.handed_over++ == 0) detail::retain(&out);
}

// Where it is written down what was lent there.
arena::loaned** arena::place(std::uint64_t at) noexcept {
  if (at >= first_file) {
    const std::uint64_t slot = (at - first_file) / 8;
    return slot < by_slot_.size() ? &by_slot_[static_cast<std::size_t>(slot)] : nullptr;
  }
  const std::uint64_t granule = at / granule_bytes;
  return granule < by_granule_.size() ? &by_granule_[static_cast<std::size_t>(granule)] : nullptr;
}

bool arena::take_return(std::uint64_t at) noexcept {
  loaned** const there = place(at);
  if (there == nullptr || *there == nullptr || (*there)->handed_over == 0) return false;
  loaned* const out = *there;
  if (out->what == kind::lent_file) *there = nullptr;  // whatever else keeps the bytes
  if (--out->handed_over == 0) detail::release(out);
  return true;
}

shared_buffer arena::lend_file(platform::native_handle file, std::uint64_t offset,
                               shared_buffer view) {
  loaned& made = new_loaned(kind::lent_file);
  made.first = const_cast<std::byte*>(view.data());  // lent, not borrowed: it is never written to
  made.capacity = view.size();
  made.view = std::move(view);
  made.file = file;
  made.offset = offset;
  ++out_;
  return {&made, {made.first, made.capacity}};
}

void arena::shed() noexcept {
  if (granules_.taken() != 0) return;
  if (std::find(reserved_.begin(), reserved_.end(), true) == reserved_.end()) return;
  memory_.unreserve();
  std::fill(reserved_.begin(), reserved_.end(), false);
}

// ---- borrowing ------------------------------------------------------------------------------

shared_buffer arena::borrow(std::uint64_t at, std::uint64_t bytes) {
  if (bytes == 0 || at % 8 != 0) return {};
  shared_buffer view;
  std::byte* first = nullptr;
  if (at >= first_file) {
    view = files_.receive((at - first_file) / 8, bytes);
    if (view.empty()) return {};
    first = const_cast<std::byte*>(view.data());  // of a message, which is only read
  } else {
    if (at > memory_.bytes() || bytes > memory_.bytes() - at) return {};
    first = memory_.peers() + at;
  }
  loaned& made = new_loaned(kind::borrowed);
  made.at = at;
  made.first = first;
  made.capacity = static_cast<std::size_t>(bytes);
  made.view = std::move(view);
  ++out_;
  return {&made, {made.first, made.capacity}};
}

// ---- what comes back ------------------------------------------------------------------------

arena::loaned& arena::new_loaned(kind what) {
  if (spare_ == nullptr) {
    auto* const made = new loaned;
    made->owner = this;
    made->what = what;
    return *made;
  }
  loaned& made = *std::exchange(spare_, spare_->next);
  --spares_;
  made.references.store(1, std::memory_order_relaxed);  // nobody else knows it
  made.what = what;
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
  const kind what = unused.what;
  if (const std::uint32_t count = std::exchange(unused.granules, 0); count != 0) {
    const auto first = static_cast<std::uint32_t>(at / granule_bytes);
    std::fill_n(by_granule_.begin() + first, count, nullptr);
    granules_.give_back(first, count);
  }
  if (what == kind::lent_file && at != 0) {
    loaned** const slot = place(at);
    if (*slot == &unused) *slot = nullptr;  // passed, and never spoken of
  }
  unused.view = {};
  unused.at = 0;
  platform::release_handle(std::exchange(unused.file, platform::no_handle));
  keep_spare(unused);
  --out_;
  if (what == kind::lent) owner_->on_room();
  if (what == kind::borrowed) owner_->on_let_go(at);
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
  const auto note = [&handed_over](loaned* out) {
    if (out != nullptr && out->handed_over != 0) out->next = std::exchange(handed_over, out);
  };
  for (std::size_t i = 0; i < by_granule_.size();) {
    loaned* const out = by_granule_[i];
    i += out == nullptr ? 1 : out->granules;
    note(out);
  }
  for (loaned* const out : by_slot_) note(out);
  loaned* next = nullptr;
  {
    const std::lock_guard guard(mutex_);
    next = std::exchange(returned_, nullptr);
    for (const loaned* each = next; each != nullptr; each = each->next) --out_;
    references_.store(out_ + 1, std::memory_order_relaxed);
    abandoned_ = true;
    owner_ = nullptr;
  }
  while (next != nullptr) delete std::exchange(next, next->next);
  while (spare_ != nullptr) delete std::exchange(spare_, spare_->next);
  while (handed_over != nullptr) {
    loaned& out = *std::exchange(handed_over, handed_over->next);
    out.handed_over = 0;
    detail::release(&out);
  }
  let_go();
}

}  // namespace hawser::shm
