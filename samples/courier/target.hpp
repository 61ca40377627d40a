// SPDX-License-Identifier: Apache-2.0
#pragma once

// The receiver's half of the disk. All of it blocks: call it through hawser::offload().

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "courier/files.hpp"
#include "courier/hash.hpp"
#include "courier/paths.hpp"
#include "courier/protocol.hpp"

namespace courier {

struct target_options {
  std::uint64_t entries_max = 10'000'000;
  std::size_t open_files_max = 64;
  bool keep_set_id = true;  ///< set-user-id and set-group-id bits, where the owner is the same
  bool sync = false;        ///< fsync every file before it gets its name
};

/// Errors after which going on is pointless: the disk is full, read-only or broken.
[[nodiscard]] bool ends_transfer(const std::error_code& code) noexcept;

/// Receives one tree below a root.
///
/// A file grows under a temporary name in `.courier-partial/<tree>/`, named by the hash of its
/// path. Its contents are hashed as they are written; when hash, mode and time are right, it is
/// renamed to its place, so that whatever has its own name is whole. What lies in the staging
/// folder when a transfer is killed is what the next one goes on with.
///
///   wanted/partial --record_first, prefix()--> open --record_last, hash right--> done
///        |                                       |
///        +--------- abandoned, an error ---------+--> failed: what was written is removed
///
/// Shape:   `root` is a folder that exists; one object a tree and folder at a time.
/// Errors:  bad_message when the peer sends what makes no sense; std::system_error when the disk
///          cannot go on (ends_transfer()); trouble with one file is kept for take_troubles().
/// Threads: any, several at once, except that construction, finish(), discard() and leave() are
///          alone. The destructor leave()s.
class target_tree {
 public:
  target_tree(const std::string& root, const hello& opening, target_options options = {});
  target_tree(const target_tree&) = delete;
  target_tree& operator=(const target_tree&) = delete;
  ~target_tree() { leave(); }

  /// Creates folders, symbolic links and empty files; says what of the files is here already.
  [[nodiscard]] std::vector<offer_answer> take_offer(const offer& part);
  /// No offers come after this; contents may.
  void close_listing(std::uint64_t count);
  [[nodiscard]] bool listed() const noexcept { return listed_.load(); }
  /// Hashes what is here of a partial file, and goes on from there.
  [[nodiscard]] prefix_answer take_prefix(std::uint64_t number);
  /// Writes the records of a bulk message.
  void take_records(std::span<const std::byte> message);

  [[nodiscard]] progress reached() const noexcept;
  [[nodiscard]] std::uint64_t resent() const noexcept;
  /// Files that failed since the last call, a bounded number at a time.
  [[nodiscard]] std::vector<trouble> take_troubles();

  /// Gives the folders their modes and times and removes the staging folder. Returns how many
  /// files never came.
  [[nodiscard]] std::uint64_t finish();
  /// Removes everything that is not whole.
  void discard();
  /// Keeps what is not whole for the next transfer, and nothing that would be of no use to it.
  void leave();
  /// Threads: any; makes calls that run for long end with errc ECANCELED.
  void hurry() noexcept { hurried_.store(true); }

 private:
  enum class state : std::uint8_t { wanted, open, done, failed };
  struct open_file {
    descriptor handle;
    std::uint64_t offset = 0;  ///< all before is written and hashed
    hasher hash;
  };
  struct item {
    entry what;
    state now = state::wanted;
    bool busy = false;  ///< another thread works on it
    std::uint64_t partial = 0;
    std::unique_ptr<open_file> open;
  };
  class claim;

  [[nodiscard]] offer_answer create(item& one, beneath& folders);
  [[nodiscard]] offer_answer create_folder(const entry& what, const beneath::place& at);
  [[nodiscard]] offer_answer create_symlink(const entry& what, const beneath::place& at);
  [[nodiscard]] offer_answer look_for_file(item& one, const beneath::place& at);
  void apply(item& one, const parsed_record& piece, beneath& folders);
  void begin(item& one);
  void write(item& one, const parsed_record& piece);
  void complete(item& one, const digest& expected, beneath& folders);
  void move_in(item& one, int handle, const beneath::place& at);
  void fail(item& one, std::uint64_t number, const std::string& what);
  void close(item& one) noexcept;
  void open_staging();
  void remove_staging();
  void count_open(int change);
  [[nodiscard]] std::uint32_t mode_for(const entry& what, int handle) const;

  std::string root_path_;
  descriptor root_;
  hello opening_;
  target_options options_;
  descriptor staging_;
  std::string staging_folder_;       // its name in the folder of all stagings
  std::set<std::string> left_over_;  // what a killed transfer has left there

  std::mutex mutex_;
  std::deque<item> items_;  // grows only before the listing is closed
  std::atomic<bool> listed_{false};
  std::size_t open_files_ = 0;
  std::vector<trouble> troubles_;

  std::atomic<std::uint64_t> files_{0};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> arrived_{0};
  std::atomic<std::uint64_t> resent_{0};
  std::atomic<bool> hurried_{false};
};

}  // namespace courier
