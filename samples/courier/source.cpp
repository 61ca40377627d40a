// SPDX-License-Identifier: Apache-2.0
#include "courier/source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "courier/paths.hpp"

namespace courier {
namespace {

constexpr std::size_t complaints_kept = 100;
constexpr std::size_t link_target_max = 4095;
constexpr std::size_t entry_bytes = 64;  // of an entry in an offer, without its texts

std::string why(int error) {
  return std::generic_category().message(error);
}

timestamp to_timestamp(const ::timespec& time) {
  return {time.tv_sec, static_cast<std::uint32_t>(time.tv_nsec)};
}

std::string join(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : folder + '/' + name;
}

[[noreturn]] void throw_changed(const std::string& path) {
  throw std::runtime_error(printable(path) + ": changed while it was read");
}

}  // namespace

// ---- complaints -----------------------------------------------------------------------------

void complaints::add(std::string line) {
  const std::lock_guard lock(mutex_);
  ++count_;
  if (lines_.size() < complaints_kept) lines_.push_back(std::move(line));
}

std::size_t complaints::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

std::vector<std::string> complaints::lines() const {
  const std::lock_guard lock(mutex_);
  return lines_;
}

// ---- tree_walk ------------------------------------------------------------------------------

tree_walk::tree_walk(int root, complaints& failed, complaints& skipped)
    : root_(root), failed_(failed), skipped_(skipped), folders_{""} {}

std::vector<entry> tree_walk::next(std::size_t bytes_most) {
  std::vector<entry> batch;
  for (std::size_t size = 0; size < bytes_most;) {
    while (found_.empty() && !folders_.empty()) {
      const auto folder = std::move(folders_.back());
      folders_.pop_back();
      list(folder);
    }
    if (found_.empty()) break;
    size += entry_bytes + found_.front().path.size() + found_.front().link_target.size();
    batch.push_back(std::move(found_.front()));
    found_.pop_front();
  }
  return batch;
}

void tree_walk::list(const std::string& folder) {
  try {
    const char* path = folder.empty() ? "." : folder.c_str();
    const descriptor open(::openat(root_, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!open) throw_errno({});
    const auto names = names_in(open.get());
    const auto subfolders = folders_.size();
    for (const auto& name : names) add(open.get(), join(folder, name), name);
    // The last is listed next: turn them around, so that the first name comes first.
    std::reverse(folders_.begin() + static_cast<std::ptrdiff_t>(subfolders), folders_.end());
  } catch (const std::system_error& error) {
    failed_.add(printable(folder) + ": cannot be listed: " + why(error.code().value()));
  }
}

void tree_walk::add(int folder, const std::string& path, const std::string& name) {
  struct ::stat found {};
  if (::fstatat(folder, name.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
    failed_.add(printable(path) + ": " + why(errno));
    return;
  }
  if (path == staging_name) {
    skipped_.add(printable(path) + ": skipped, it is a courier's own folder");
    return;
  }
  if (const auto fault = path_fault(path); !fault.empty()) {
    failed_.add(printable(path) + ": " + std::string(fault));
    return;
  }
  entry one{.path = path,
            .type = kind::file,
            .mode = found.st_mode & 07777U,
            .owner = found.st_uid,
            .group = found.st_gid,
            .modified = to_timestamp(found.st_mtim),
            .size = 0,
            .link_target = {}};
  if (S_ISDIR(found.st_mode)) {
    one.type = kind::folder;
    folders_.push_back(path);
  } else if (S_ISLNK(found.st_mode)) {
    std::array<char, link_target_max + 1> target{};
    const auto size = ::readlinkat(folder, name.c_str(), target.data(), target.size());
    if (size <= 0 || static_cast<std::size_t>(size) > link_target_max) {
      failed_.add(printable(path) + ": cannot read the symbolic link");
      return;
    }
    one.type = kind::symlink;
    one.link_target.assign(target.data(), static_cast<std::size_t>(size));
  } else if (S_ISREG(found.st_mode)) {
    one.size = static_cast<std::uint64_t>(found.st_size);
  } else {
    skipped_.add(printable(path) + ": skipped, it is a socket, pipe or device");
    return;
  }
  found_.push_back(std::move(one));
}

// ---- work_list ------------------------------------------------------------------------------

void work_list::add(item one) {
  const std::lock_guard lock(mutex_);
  items_.push_back(std::move(one));
}

std::optional<work_list::item> work_list::take() {
  const std::lock_guard lock(mutex_);
  if (items_.empty()) return std::nullopt;
  auto one = std::move(items_.front());
  items_.pop_front();
  return one;
}

void work_list::drop(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  dropped_.insert(number);
}

bool work_list::dropped(std::uint64_t number) const {
  const std::lock_guard lock(mutex_);
  return dropped_.count(number) != 0;
}

// ---- contents_reader ------------------------------------------------------------------------

contents_reader::contents_reader(int root, work_list& list, complaints& failed)
    : root_(root), list_(list), failed_(failed) {}

contents_reader::outcome contents_reader::fill(std::span<std::byte> message, std::size_t& used) {
  used = 0;
  // Less room than this is not worth a piece of its own.
  const auto least = record_header_bytes + std::min<std::size_t>(message.size() / 8, 4096);
  while (message.size() - used >= least) {
    const auto room = message.subspan(used);
    if (open_) {
      used += put_piece(room);
      continue;
    }
    auto file = list_.take();
    if (!file) return outcome::finished;
    const auto number = file->number;
    if (!open(std::move(*file))) {
      used += put_abandoned(room, number);
    } else if (open_->file.arrived > 0) {
      return outcome::prefix_due;
    }
  }
  return outcome::filled;
}

bool contents_reader::open(work_list::item file) {
  // Were it a pipe by now, the flag keeps the open from waiting for a writer.
  constexpr int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
  descriptor handle(::openat(root_, file.path.c_str(), flags));
  if (!handle) {
    give_up(file, why(errno));
    return false;
  }
  open_ = std::make_unique<open_file>();
  open_->file = std::move(file);
  open_->handle = std::move(handle);
  if (!unchanged()) {
    give_up(open_->file, "changed since it was listed");
    open_.reset();
    return false;
  }
  struct ::stat found {};
  static_cast<void>(::fstat(open_->handle.get(), &found));
  open_->sparse = found.st_blocks * 512 < found.st_size;
  return true;
}

bool contents_reader::unchanged() const {
  struct ::stat found {};
  if (::fstat(open_->handle.get(), &found) != 0) return false;
  return S_ISREG(found.st_mode) && static_cast<std::uint64_t>(found.st_size) == open_->file.size &&
         to_timestamp(found.st_mtim) == open_->file.modified;
}

// One record: what lies before the next hole, the end of the file or the end of the room.
std::size_t contents_reader::put_piece(std::span<std::byte> room) {
  auto& file = *open_;
  record header{.number = file.file.number, .offset = 0, .bytes = 0, .flags = 0, .hash = {}};
  try {
    if (list_.dropped(file.file.number)) {
      open_.reset();
      return 0;
    }
    auto piece = room.subspan(record_header_bytes);
    std::uint64_t end = file.file.size;
    if (file.sparse) {
      skip_hole();
      const auto hole = ::lseek(file.handle.get(), static_cast<off_t>(file.offset), SEEK_HOLE);
      if (hole >= 0 && static_cast<std::uint64_t>(hole) > file.offset) {
        end = std::min(end, static_cast<std::uint64_t>(hole));
      }
    }
    piece = piece.first(
        static_cast<std::size_t>(std::min<std::uint64_t>(piece.size(), end - file.offset)));
    if (read_at(file.handle.get(), piece, file.offset, file.file.path) != piece.size()) {
      throw_changed(file.file.path);
    }
    file.hash.add(piece);
    header.offset = file.offset;
    header.bytes = static_cast<std::uint32_t>(piece.size());
    header.flags = std::exchange(file.flags, 0);
    file.offset += piece.size();
    if (file.offset == file.file.size) {
      if (!unchanged()) {
        throw_changed(file.file.path);
      }
      header.flags |= record_last;
      header.hash = file.hash.value();
    }
  } catch (const std::runtime_error& error) {
    const auto number = file.file.number;
    failed_.add(error.what());
    open_.reset();
    return put_abandoned(room, number);
  }
  bytes_sent_ += header.bytes;
  put_record(room.first<record_header_bytes>(), header);
  if ((header.flags & record_last) != 0) open_.reset();
  return record_header_bytes + header.bytes;
}

void contents_reader::skip_hole() {
  auto& file = *open_;
  const auto data = ::lseek(file.handle.get(), static_cast<off_t>(file.offset), SEEK_DATA);
  std::uint64_t to = file.offset;
  if (data >= 0) {
    to = std::min(file.file.size, static_cast<std::uint64_t>(data));
  } else if (errno == ENXIO) {
    to = file.file.size;  // nothing but a hole from here
  }
  if (to > file.offset) file.hash.add_zeros(to - file.offset);
  file.offset = std::max(file.offset, to);
}

std::size_t contents_reader::put_abandoned(std::span<std::byte> room, std::uint64_t number) {
  const record header{
      .number = number, .offset = 0, .bytes = 0, .flags = record_abandoned, .hash = {}};
  put_record(room.first<record_header_bytes>(), header);
  return record_header_bytes;
}

void contents_reader::give_up(const work_list::item& file, const std::string& why) {
  failed_.add(printable(file.path) + ": " + why);
}

digest contents_reader::hash_prefix() {
  auto& file = *open_;
  std::vector<std::byte> piece(bulk_message_bytes);
  const auto end = std::min(file.file.arrived, file.file.size);
  try {
    for (std::uint64_t at = 0; at < end;) {
      const auto want = std::min<std::uint64_t>(piece.size(), end - at);
      const auto got =
          read_at(file.handle.get(), std::span(piece).first(static_cast<std::size_t>(want)), at,
                  file.file.path);
      if (got == 0) break;
      file.hash.add(std::span(piece).first(got));
      at += got;
    }
  } catch (const std::system_error&) {
    // The same read fails again when the contents are due, and is told then.
  }
  return file.hash.value();
}

void contents_reader::resume() {
  open_->offset = open_->file.arrived;
  open_->flags = 0;
  open_->file.arrived = 0;
}

void contents_reader::restart() {
  open_->hash = hasher();
  open_->file.arrived = 0;
}

}  // namespace courier
