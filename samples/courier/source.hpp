// SPDX-License-Identifier: Apache-2.0
#pragma once

// The sender's half of the disk. All of it blocks: call it through hawser::offload().

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "courier/files.hpp"
#include "courier/hash.hpp"
#include "courier/protocol.hpp"

namespace courier {

/// What could not be sent, and what was left out on purpose.
///
/// Shape:   `lines` keeps the first hundred; `count` counts all.
/// Threads: any.
class complaints {
 public:
  void add(std::string line);
  [[nodiscard]] std::size_t count() const;
  [[nodiscard]] std::vector<std::string> lines() const;

 private:
  mutable std::mutex mutex_;
  std::size_t count_ = 0;
  std::vector<std::string> lines_;
};

/// Lists a tree, parents before what is in them, folders sorted by name.
///
/// Sockets, pipes and devices are left out and told to `skipped`; what cannot be read is told to
/// `failed`, and the rest goes on. Hard links are listed as files of their own.
///
/// Shape:   all parameters outlive the object.
/// Threads: one at a time.
class tree_walk {
 public:
  tree_walk(int root, complaints& failed, complaints& skipped);

  /// The next entries, about as many as fill `bytes_most` of an offer. Empty: that was all.
  ///
  /// Errors: throws std::bad_alloc; trouble with single entries goes to `failed`.
  [[nodiscard]] std::vector<entry> next(std::size_t bytes_most);

 private:
  void list(const std::string& folder);
  void add(int folder, const std::string& path, const std::string& name);

  int root_;
  complaints& failed_;
  complaints& skipped_;
  std::vector<std::string> folders_;  // still to be listed, the next at the back
  std::deque<entry> found_;           // listed, not yet handed out
};

/// The files whose contents are due, in the order of the listing.
///
/// Threads: add() before the first take(); then any.
class work_list {
 public:
  struct item {
    std::uint64_t number = 0;
    std::string path;
    std::uint64_t size = 0;
    timestamp modified;
    std::uint64_t arrived = 0;  ///< bytes of it that the receiver kept from a killed transfer
  };

  void add(item one);
  [[nodiscard]] std::optional<item> take();
  /// The receiver gave up on the file: whoever reads it may stop.
  void drop(std::uint64_t number);
  [[nodiscard]] bool dropped(std::uint64_t number) const;

 private:
  mutable std::mutex mutex_;
  std::deque<item> items_;
  std::set<std::uint64_t> dropped_;
};

/// Fills messages with records, file after file. One for each lane.
///
/// Shape:   all parameters outlive the object.
/// Threads: one at a time; several readers may share a list.
class contents_reader {
 public:
  enum class outcome : std::uint8_t {
    filled,      ///< send this and come again
    prefix_due,  ///< send this; then the prefix of current() has to be compared
    finished,    ///< send this; nothing is left
  };

  contents_reader(int root, work_list& list, complaints& failed);

  /// Fills `message` as far as files allow. `used` says how many bytes are records; may be 0.
  [[nodiscard]] outcome fill(std::span<std::byte> message, std::size_t& used);

  /// The file that waits for its prefix to be compared.
  [[nodiscard]] const work_list::item& current() const noexcept { return open_->file; }
  /// Hashes as much of current() as the receiver has.
  [[nodiscard]] digest hash_prefix();
  /// Goes on after the prefix.
  void resume();
  /// Starts from the beginning: the receiver has something else.
  void restart();

  /// Contents put into messages, without holes.
  [[nodiscard]] std::uint64_t bytes_sent() const noexcept { return bytes_sent_; }

 private:
  struct open_file {
    work_list::item file;
    descriptor handle;
    std::uint64_t offset = 0;
    std::uint32_t flags = record_first;  // of the next record
    bool sparse = false;
    hasher hash;
  };

  [[nodiscard]] bool open(work_list::item file);
  [[nodiscard]] std::size_t put_piece(std::span<std::byte> room);
  [[nodiscard]] std::size_t put_abandoned(std::span<std::byte> room, std::uint64_t number);
  void skip_hole();
  [[nodiscard]] bool unchanged() const;
  void give_up(const work_list::item& file, const std::string& why);

  int root_;
  work_list& list_;
  complaints& failed_;
  std::unique_ptr<open_file> open_;
  std::uint64_t bytes_sent_ = 0;
};

}  // namespace courier
