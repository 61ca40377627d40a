// SPDX-License-Identifier: Apache-2.0
#include "courier/target.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>

namespace courier {
namespace {

constexpr std::size_t troubles_at_once = 256;
constexpr std::uint64_t zeros_at_once = 64 << 20;
constexpr std::size_t link_target_max = 4095;

[[noreturn]] void throw_error(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

struct ::stat look_at(int folder, const std::string& name) {
  struct ::stat found {};
  if (::fstatat(folder, name.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno != ENOENT) throw_errno("looking at " + printable(name));
    found.st_nlink = 0;  // nothing there
  }
  return found;
}

bool same_time(const ::timespec& one, const timestamp& other) {
  return timestamp{one.tv_sec, static_cast<std::uint32_t>(one.tv_nsec)} == other;
}

std::array<::timespec, 2> times(const timestamp& modified) {
  ::timespec access{};
  access.tv_nsec = UTIME_OMIT;
  ::timespec change{};
  change.tv_sec = static_cast<time_t>(modified.seconds);
  change.tv_nsec = static_cast<long>(modified.nanoseconds);
  return {access, change};
}

descriptor make_own_folder(int parent, const std::string& name) {
  if (::mkdirat(parent, name.c_str(), 0700) != 0 && errno != EEXIST) throw_errno(name);
  descriptor folder(
      ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct ::stat found {};
  if (!folder || ::fstat(folder.get(), &found) != 0) throw_errno(name);
  if (found.st_uid != ::geteuid()) throw_error(EPERM, name + " belongs to another user");
  return folder;
}

std::string staged_name(const entry& what) {
  return to_hex(hash_of(what.path));
}

offer_answer complete_answer() {
  return {.state = standing::complete, .bytes = 0, .why = {}};
}

}  // namespace

bool ends_transfer(const std::error_code& code) noexcept {
  if (code.category() != std::generic_category()) return true;
  switch (code.value()) {
    case ENOSPC:
    case EDQUOT:
    case EROFS:
    case EIO:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ECANCELED:
      return true;
    default:
      return false;
  }
}

// Takes an item for one thread. A well-meaning peer keeps a file in one lane, so nobody waits.
class target_tree::claim {
 public:
  claim(target_tree& owner, std::uint64_t number) : owner_(owner) {
    const std::lock_guard lock(owner.mutex_);
    if (!owner.listed()) throw bad_message("contents before the end of the listing");
    if (number >= owner.items_.size()) throw bad_message("a file that was not listed");
    auto& one = owner.items_[static_cast<std::size_t>(number)];
    if (one.what.type != kind::file) throw bad_message("contents of what is no file");
    if (one.busy) throw bad_message("a file in two lanes");
    one.busy = true;
    item_ = &one;
  }
  claim(const claim&) = delete;
  claim& operator=(const claim&) = delete;
  ~claim() {
    const std::lock_guard lock(owner_.mutex_);
    item_->busy = false;
  }
  [[nodiscard]] item& operator*() const noexcept { return *item_; }

 private:
  target_tree& owner_;
  item* item_;
};

target_tree::target_tree(const std::string& root, const hello& opening, target_options options)
    : root_path_(root), root_(open_folder(root)), opening_(opening), options_(options) {
  static constexpr std::string_view digits = "0123456789abcdef";
  for (int shift = 60; shift >= 0; shift -= 4)
    staging_folder_ += digits[opening.tree >> shift & 15];
  open_staging();
}

void target_tree::open_staging() {
  const std::string all_stagings(staging_name);
  try {
    const auto all = make_own_folder(root_.get(), all_stagings);
    staging_ = make_own_folder(all.get(), staging_folder_);
    const auto names = names_in(staging_.get());
    left_over_.insert(names.begin(), names.end());
  } catch (const std::system_error& error) {
    static_cast<void>(::unlinkat(root_.get(), all_stagings.c_str(), AT_REMOVEDIR));
    throw std::system_error(error.code(), root_path_ + ": cannot create the staging folder");
  }
}

// ---- listing --------------------------------------------------------------------------------

std::vector<offer_answer> target_tree::take_offer(const offer& part) {
  std::vector<item*> fresh;
  {
    const std::lock_guard lock(mutex_);
    if (listed()) throw bad_message("an offer after the end of the listing");
    if (part.first != items_.size()) throw bad_message("an offer out of order");
    if (items_.size() + part.entries.size() > options_.entries_max) {
      throw bad_message("more entries than this server takes");
    }
    for (const auto& what : part.entries) {
      items_.emplace_back().what = what;
      fresh.push_back(&items_.back());
    }
  }
  beneath folders(root_.get());
  std::vector<offer_answer> answers;
  answers.reserve(fresh.size());
  for (auto* one : fresh) answers.push_back(create(*one, folders));
  return answers;
}

offer_answer target_tree::create(item& one, beneath& folders) {
  try {
    const auto at = folders.find(one.what.path);
    switch (one.what.type) {
      case kind::folder:
        return create_folder(one.what, at);
      case kind::symlink:
        return create_symlink(one.what, at);
      case kind::file:
        break;
    }
    return look_for_file(one, at);
  } catch (const std::system_error& error) {
    if (ends_transfer(error.code())) throw;
    close(one);
    one.now = state::failed;
    static_cast<void>(::unlinkat(staging_.get(), staged_name(one.what).c_str(), 0));
    return {.state = standing::refused, .bytes = 0, .why = error.what()};
  }
}

// A folder is open to us until finish() gives it its own mode.
offer_answer target_tree::create_folder(const entry& what, const beneath::place& at) {
  if (::mkdirat(at.folder, at.name.c_str(), 0700) == 0) return complete_answer();
  if (errno != EEXIST) throw_errno(printable(what.path));
  const auto found = look_at(at.folder, at.name);
  if (!S_ISDIR(found.st_mode)) throw_error(ENOTDIR, printable(what.path) + " is in the way");
  if ((found.st_mode & 0700U) != 0700U) {
    const auto open = static_cast<mode_t>((found.st_mode & 07777U) | 0700U);
    if (::fchmodat(at.folder, at.name.c_str(), open, AT_SYMLINK_NOFOLLOW) != 0) {
      throw_errno(printable(what.path));
    }
  }
  return complete_answer();
}

offer_answer target_tree::create_symlink(const entry& what, const beneath::place& at) {
  const auto& target = what.link_target;
  if (target.empty() || target.size() > link_target_max || target.find('\0') != target.npos) {
    throw_error(EINVAL, printable(what.path) + ": a symbolic link to an impossible path");
  }
  const auto found = look_at(at.folder, at.name);
  if (found.st_nlink > 0 && S_ISLNK(found.st_mode) && same_time(found.st_mtim, what.modified)) {
    std::array<char, link_target_max + 1> there{};
    const auto size = ::readlinkat(at.folder, at.name.c_str(), there.data(), there.size());
    if (size > 0 && target == std::string_view(there.data(), static_cast<std::size_t>(size))) {
      return complete_answer();
    }
  }
  const auto name = staged_name(what);
  const auto modified = times(what.modified);
  static_cast<void>(::unlinkat(staging_.get(), name.c_str(), 0));
  if (::symlinkat(target.c_str(), staging_.get(), name.c_str()) != 0 ||
      ::utimensat(staging_.get(), name.c_str(), modified.data(), AT_SYMLINK_NOFOLLOW) != 0 ||
      ::renameat(staging_.get(), name.c_str(), at.folder, at.name.c_str()) != 0) {
    const int error = errno;
    static_cast<void>(::unlinkat(staging_.get(), name.c_str(), 0));
    throw_error(error, printable(what.path));
  }
  return complete_answer();
}

// A file with the right size and time was verified when it got its name.
offer_answer target_tree::look_for_file(item& one, const beneath::place& at) {
  const auto& what = one.what;
  const auto found = look_at(at.folder, at.name);
  if (found.st_nlink > 0 && S_ISREG(found.st_mode) &&
      static_cast<std::uint64_t>(found.st_size) == what.size &&
      same_time(found.st_mtim, what.modified)) {
    const auto mode = static_cast<mode_t>(mode_for(what, -1));
    if ((found.st_mode & 07777U) != mode) {
      if (::fchmodat(at.folder, at.name.c_str(), mode, AT_SYMLINK_NOFOLLOW) != 0) {
        throw_errno(printable(what.path));
      }
    }
    one.now = state::done;
    return complete_answer();
  }
  if (found.st_nlink > 0 && S_ISDIR(found.st_mode)) {
    throw_error(EISDIR, printable(what.path) + " is in the way");
  }
  if (!left_over_.empty() && left_over_.count(staged_name(what)) != 0) {
    const auto staged = look_at(staging_.get(), staged_name(what));
    const auto size = static_cast<std::uint64_t>(staged.st_size);
    if (staged.st_nlink > 0 && S_ISREG(staged.st_mode) && size > 0 && size <= what.size) {
      one.partial = size;
      return {.state = standing::partial, .bytes = size, .why = {}};
    }
  }
  if (what.size > 0) return {.state = standing::wanted, .bytes = 0, .why = {}};

  begin(one);
  move_in(one, one.open->handle.get(), at);
  return complete_answer();
}

void target_tree::close_listing(std::uint64_t count) {
  const std::lock_guard lock(mutex_);
  if (listed() || count != items_.size()) throw bad_message("a listing of another length");
  listed_.store(true);
}

// ---- contents -------------------------------------------------------------------------------

prefix_answer target_tree::take_prefix(std::uint64_t number) {
  const claim claimed(*this, number);
  auto& one = *claimed;
  if (one.now != state::wanted || one.partial == 0) throw bad_message("no partial file");
  descriptor handle(
      ::openat(staging_.get(), staged_name(one.what).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (!handle) return {};  // gone meanwhile: no hash fits, the sender starts again
  count_open(1);
  one.open = std::make_unique<open_file>();
  one.open->handle = std::move(handle);
  one.now = state::open;
  std::vector<std::byte> piece(bulk_message_bytes);
  auto& at = one.open->offset;
  while (at < one.partial && !hurried_.load()) {
    const auto want = std::min<std::uint64_t>(piece.size(), one.partial - at);
    const auto got =
        read_at(one.open->handle.get(), std::span(piece).first(static_cast<std::size_t>(want)), at,
                one.what.path);
    if (got == 0) break;
    one.open->hash.add(std::span(piece).first(got));
    at += got;
  }
  return {.bytes = at, .hash = one.open->hash.value()};
}

void target_tree::take_records(std::span<const std::byte> message) {
  beneath folders(root_.get());
  while (!message.empty()) {
    const auto piece = take_record(message);
    const claim claimed(*this, piece.header.number);
    auto& one = *claimed;
    arrived_.fetch_add(piece.contents.size());
    if (one.now == state::failed) continue;  // what was on its way when it failed
    try {
      apply(one, piece, folders);
    } catch (const std::system_error& error) {
      if (ends_transfer(error.code())) {
        throw std::system_error(error.code(), root_path_ + '/' + printable(one.what.path));
      }
      fail(one, piece.header.number, error.what());
    }
  }
}

void target_tree::apply(item& one, const parsed_record& piece, beneath& folders) {
  const auto flags = piece.header.flags;
  if (one.now == state::done) throw bad_message("contents of a file that is complete");
  if ((flags & record_abandoned) != 0) {
    close(one);
    one.now = state::failed;
    static_cast<void>(::unlinkat(staging_.get(), staged_name(one.what).c_str(), 0));
    return;
  }
  if ((flags & record_first) != 0) begin(one);
  if (one.now != state::open) throw bad_message("contents without their beginning");
  write(one, piece);
  if ((flags & record_last) != 0) complete(one, piece.header.hash, folders);
}

void target_tree::begin(item& one) {
  if (one.partial > 0) resent_.fetch_add(std::exchange(one.partial, 0));
  close(one);
  constexpr int flags = O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
  descriptor handle(::openat(staging_.get(), staged_name(one.what).c_str(), flags, 0600));
  if (!handle) throw_errno(printable(one.what.path));
  count_open(1);
  one.open = std::make_unique<open_file>();
  one.open->handle = std::move(handle);
  one.now = state::open;
}

// The file is as long as what is written and hashed, holes included: if we are killed, its size
// is the place to go on from.
void target_tree::write(item& one, const parsed_record& piece) {
  auto& file = *one.open;
  const auto to = piece.header.offset;
  if (to < file.offset || to > one.what.size || piece.contents.size() > one.what.size - to) {
    throw bad_message("contents outside of their file");
  }
  const auto before = file.offset;
  if (to > file.offset && ::ftruncate(file.handle.get(), static_cast<off_t>(to)) != 0) {
    throw_errno(printable(one.what.path));
  }
  while (file.offset < to) {
    if (hurried_.load()) throw_error(ECANCELED, printable(one.what.path));
    const auto step = std::min(zeros_at_once, to - file.offset);
    file.hash.add_zeros(step);
    file.offset += step;
  }
  write_at(file.handle.get(), piece.contents, to, one.what.path);
  file.hash.add(piece.contents);
  file.offset += piece.contents.size();
  bytes_.fetch_add(file.offset - before);
}

void target_tree::complete(item& one, const digest& expected, beneath& folders) {
  if (one.open->offset != one.what.size) throw bad_message("a file of another size");
  if (one.open->hash.value() != expected) {
    throw_error(EBADMSG, printable(one.what.path) + ": arrived damaged, its hash differs");
  }
  move_in(one, one.open->handle.get(), folders.find(one.what.path));
  files_.fetch_add(1);
}

void target_tree::move_in(item& one, int handle, const beneath::place& at) {
  const auto name = staged_name(one.what);
  const auto modified = times(one.what.modified);
  if (::fchmod(handle, static_cast<mode_t>(mode_for(one.what, handle))) != 0 ||
      ::futimens(handle, modified.data()) != 0 || (options_.sync && ::fsync(handle) != 0) ||
      ::renameat(staging_.get(), name.c_str(), at.folder, at.name.c_str()) != 0) {
    throw_errno(printable(one.what.path));
  }
  close(one);
  one.now = state::done;
}

// As cp -a does: the set-id bits of a file give its owner's rights away, so they stay only where
// the copy has the owner that the original has.
std::uint32_t target_tree::mode_for(const entry& what, int handle) const {
  std::uint32_t mode = what.mode;
  if ((mode & 06000U) == 0) return mode;
  struct ::stat found {};
  found.st_uid = ::geteuid();
  found.st_gid = ::getegid();
  if (handle >= 0 && ::fstat(handle, &found) != 0) mode &= 01777U;
  if (!options_.keep_set_id || found.st_uid != what.owner) mode &= ~04000U;
  if (!options_.keep_set_id || found.st_gid != what.group) mode &= ~02000U;
  return mode;
}

void target_tree::fail(item& one, std::uint64_t number, const std::string& what) {
  close(one);
  one.now = state::failed;
  static_cast<void>(::unlinkat(staging_.get(), staged_name(one.what).c_str(), 0));
  const std::lock_guard lock(mutex_);
  troubles_.push_back({.number = number, .what = what});
}

void target_tree::close(item& one) noexcept {
  if (!one.open) return;
  one.open.reset();
  const std::lock_guard lock(mutex_);
  --open_files_;
}

void target_tree::count_open(int change) {
  const std::lock_guard lock(mutex_);
  if (open_files_ + static_cast<std::size_t>(change) > options_.open_files_max) {
    throw bad_message("more files at once than a sender has lanes");
  }
  open_files_ += static_cast<std::size_t>(change);
}

// ---- reports and the end --------------------------------------------------------------------

progress target_tree::reached() const noexcept {
  return {.files = files_.load(), .bytes = bytes_.load(), .arrived = arrived_.load()};
}

std::uint64_t target_tree::resent() const noexcept {
  return resent_.load();
}

std::vector<trouble> target_tree::take_troubles() {
  const std::lock_guard lock(mutex_);
  const auto count = std::min(troubles_.size(), troubles_at_once);
  const auto end = troubles_.begin() + static_cast<std::ptrdiff_t>(count);
  std::vector<trouble> taken(std::make_move_iterator(troubles_.begin()),
                             std::make_move_iterator(end));
  troubles_.erase(troubles_.begin(), end);
  return taken;
}

std::uint64_t target_tree::finish() {
  std::uint64_t missing = 0;
  for (const auto& one : items_) {
    if (one.what.type == kind::file && (one.now == state::wanted || one.now == state::open)) {
      ++missing;
    }
  }
  remove_staging();
  // Backwards, so that what is inside comes before its folder: writing there changes the time.
  beneath folders(root_.get());
  for (auto one = items_.rbegin(); one != items_.rend(); ++one) {
    const auto& what = one->what;
    if (what.type != kind::folder || one->now == state::failed) continue;
    try {
      const auto at = folders.find(what.path);
      const descriptor folder(
          ::openat(at.folder, at.name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      const auto modified = times(what.modified);
      if (!folder || ::fchmod(folder.get(), static_cast<mode_t>(what.mode)) != 0 ||
          ::futimens(folder.get(), modified.data()) != 0) {
        throw_errno(printable(what.path));
      }
    } catch (const std::system_error& error) {
      troubles_.push_back({.number = 0, .what = error.what()});
    }
  }
  struct ::stat root {};
  const auto user = ::geteuid();
  const bool ours = ::fstat(root_.get(), &root) == 0 && (user == 0 || root.st_uid == user);
  const auto modified = times(opening_.modified);
  if (!ours) return missing;  // a folder of somebody else keeps what it has
  if (::fchmod(root_.get(), static_cast<mode_t>(opening_.mode)) != 0 ||
      ::futimens(root_.get(), modified.data()) != 0) {
    troubles_.push_back({.number = 0, .what = root_path_ + ": cannot set its mode and time"});
  }
  return missing;
}

void target_tree::discard() {
  remove_staging();
}

void target_tree::leave() {
  for (auto& one : items_) one.open.reset();
  if (::unlinkat(root_.get(), (std::string(staging_name) + '/' + staging_folder_).c_str(),
                 AT_REMOVEDIR) == 0) {
    static_cast<void>(::unlinkat(root_.get(), std::string(staging_name).c_str(), AT_REMOVEDIR));
  }
}

// Only our own names are in there. The folder of all stagings stays while another tree has one.
void target_tree::remove_staging() {
  for (auto& one : items_) one.open.reset();
  try {
    for (const auto& name : names_in(staging_.get())) {
      static_cast<void>(::unlinkat(staging_.get(), name.c_str(), 0));
    }
  } catch (const std::system_error&) {
    // It cannot be listed: leave() cannot remove it then either, and the next transfer finds it.
  }
  leave();
}

}  // namespace courier
