// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/lender.hpp"
#include "hawser/buffer.hpp"
#include "hawser/executor.hpp"
#include "os/birthmark.hpp"
#include "os/platform.hpp"
#include "shm/buddies.hpp"
#include "shm/file_passage.hpp"
#include "shm/segment.hpp"

namespace hawser::shm {

/// The memory of an arena, mapped: what this side may write, and what it may only read.
///
/// The client makes it and hands it over together with the rings; each side has one half, of which
/// nothing is set aside before it is used.
class arena_memory {
 public:
  /// Errors: throws std::system_error.
  [[nodiscard]] static arena_memory create(std::size_t bytes_a_side);
  /// Takes over what a peer has created.
  ///
  /// Errors: throws std::system_error: errc::unsupported if it is no such memory or not of that
  ///         size. The handle is the caller's still then.
  [[nodiscard]] static arena_memory adopt(platform::native_handle& memory,
                                          std::size_t bytes_a_side);
  /// Nothing: there is none.
  arena_memory() noexcept = default;
  arena_memory(arena_memory&& gone) noexcept
      : handle_(std::exchange(gone.handle_, platform::no_handle)),
        bytes_(std::exchange(gone.bytes_, 0)),
        own_(std::exchange(gone.own_, nullptr)),
        peers_(std::exchange(gone.peers_, nullptr)),
        own_at_(gone.own_at_) {}
  arena_memory& operator=(arena_memory&& other) noexcept;
  ~arena_memory();

  /// Of each side.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] platform::native_handle handle() const noexcept { return handle_; }
  [[nodiscard]] std::byte* own() const noexcept { return own_; }
  [[nodiscard]] std::byte* peers() const noexcept { return peers_; }  // not to be written to
  /// Of the own half.
  [[nodiscard]] bool reserve(std::size_t offset, std::size_t bytes) noexcept;
  void unreserve() noexcept;

 private:
  arena_memory(platform::native_handle handle, std::size_t bytes, side own);

  platform::native_handle handle_ = platform::no_handle;
  std::size_t bytes_ = 0;
  std::byte* own_ = nullptr;
  std::byte* peers_ = nullptr;
  std::size_t own_at_ = 0;
};

inline constexpr std::size_t granule_bytes = 4096;
inline constexpr std::size_t arena_bytes_min = 256 << 10;
inline constexpr std::size_t arena_bytes_max = std::size_t{1} << 30;
[[nodiscard]] constexpr bool is_arena_size(std::uint64_t bytes) noexcept {
  return bytes >= arena_bytes_min && bytes <= arena_bytes_max && std::has_single_bit(bytes);
}

class arena_events {
 public:
  /// Home's thread: a borrowed payload was let go; the peer is to be told.
  virtual void on_let_go(std::uint64_t at) noexcept = 0;
  /// Home's thread: memory to lend has come free.
  virtual void on_room() noexcept = 0;
  /// Any thread: home shall call collect(). Not again before it has.
  virtual void on_let_go_elsewhere() noexcept = 0;

 protected:
  ~arena_events() = default;
};

/// Payloads that do not travel: each side writes them where the other can read them, and says
/// where.
///
/// What is lent is a block like any other, and goes back on whichever thread lets go of it last;
/// so the arena lives until the last one has, though its link is long gone. What is borrowed the
/// peer can still write to.
///
/// A payload may also lie in a file, whose handle crosses instead: then the place is a slot of the
/// passage.
///
/// Of the peer only numbers are believed, after they were checked; what is free is written down
/// in memory of our own.
///
/// Threads: home's, unless it says otherwise.
class arena final : public detail::block_owner, public detail::lender {
 public:
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] static arena* make(arena_memory memory, file_passage files, arena_events& owner) {
    return new arena(std::move(memory), std::move(files), owner);
  }
  /// The link is gone: the peer has nothing of ours any more. Whoever called make() does this once.
  void abandon() noexcept;

  // lender
  [[nodiscard]] bool may_lend(std::size_t bytes) const noexcept override {
    return !failed_ && bytes != 0 && bytes <= memory_.bytes();
  }
  [[nodiscard]] std::optional<buffer> loan(std::size_t bytes) override;
  [[nodiscard]] bool has_lent(const shared_buffer& payload) const noexcept override;
  [[nodiscard]] std::uint64_t place_of(const shared_buffer& payload) const noexcept override;
  [[nodiscard]] bool prepare(const shared_buffer& payload) noexcept override;
  void hand_over(const shared_buffer& payload) noexcept override;
  [[nodiscard]] bool take_return(std::uint64_t at) noexcept override;
  [[nodiscard]] shared_buffer borrow(std::uint64_t at, std::uint64_t bytes) override;
  void shed() noexcept override;

  /// Whether lend_file() takes a file of that kind.
  [[nodiscard]] bool may_lend_file(const platform::file_facts& facts) const noexcept {
    return files_.may_pass(facts);
  }
  /// A payload that the peer will map, once it is sent; where it cannot be passed after all, the
  /// bytes of `view` go. Takes over the handle if it returns.
  ///
  /// Shape:  `view` is what the file has at `offset`; may_lend_file().
  /// Errors: throws std::bad_alloc.
  [[nodiscard]] shared_buffer lend_file(platform::native_handle file, std::uint64_t offset,
                                        shared_buffer view);
  [[nodiscard]] std::uint64_t files_passed() const noexcept { return files_passed_; }

  [[nodiscard]] std::size_t lent_bytes() const noexcept {
    return granules_.taken() * granule_bytes;
  }
  /// What was let go of elsewhere.
  void collect() noexcept;

  /// Any thread.
  void take_back(detail::block& unused) noexcept override;

 private:
  enum class kind : std::uint8_t { lent, lent_file, borrowed };
  // Of what is lent or borrowed.
  struct loaned : detail::block {
    ~loaned() { platform::release_handle(file); }

    std::uint64_t at = 0;
    std::uint32_t granules = 0;
    std::uint32_t handed_over = 0;  // times; one reference in all
    kind what = kind::borrowed;
    loaned* next = nullptr;
    shared_buffer view;                                  // of a file
    platform::native_handle file = platform::no_handle;  // lent, and not passed yet
    std::uint64_t offset = 0;
  };
  // Places above all of an arena.
  static constexpr std::uint64_t first_file = std::uint64_t{1} << 62;

  arena(arena_memory memory, file_passage files, arena_events& owner);
  ~arena() = default;

  [[nodiscard]] loaned& new_loaned(kind what);
  [[nodiscard]] loaned** place(std::uint64_t at) noexcept;
  void keep_spare(loaned& unused) noexcept;
  void settle(loaned& unused) noexcept;
  [[nodiscard]] bool reserve(std::uint32_t first, std::uint32_t count);
  void let_go() noexcept;

  arena_memory memory_;
  file_passage files_;
  std::array<loaned*, file_passage::slots> by_slot_{};  // what was passed there
  std::uint64_t files_passed_ = 0;
  detail::executor& home_;
  arena_events* owner_;  // home's; none once abandoned
  buddies granules_;
  std::vector<bool> reserved_;       // by steps of reserve_step
  std::vector<loaned*> by_granule_;  // what is lent there
  loaned* spare_ = nullptr;
  std::size_t spares_ = 0;
  bool failed_ = false;
  const birthmark birthmark_;

  std::size_t out_ = 0;  // lent and borrowed; settled at home, or in references_
  std::mutex mutex_;
  std::atomic<std::size_t> references_{0};  // once abandoned: for each that is out, and the link's
  bool abandoned_ = false;      // under the mutex, what follows, too
  loaned* returned_ = nullptr;  // elsewhere
};

}  // namespace hawser::shm
