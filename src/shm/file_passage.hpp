// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "hawser/buffer.hpp"
#include "os/platform.hpp"

namespace hawser::shm {

/// Which files may cross as they are, instead of their contents: as link_options says.
enum class passable : std::uint8_t { none, sealed, any };

/// The socket that handles of files cross: each goes ahead of the frame that speaks of it, under
/// the number of a slot, which is taken until the peer has given the file back.
///
/// Shape:   what a peer sends need not be true; it can take up no more than one handle a slot here.
/// Threads: one.
class file_passage {
 public:
  static constexpr std::uint32_t slots = 64;

  /// A file whose handle was passed.
  struct passed {
    platform::native_handle file = platform::no_handle;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };

  /// Nothing can be passed.
  file_passage() noexcept = default;
  /// Takes over the socket.
  file_passage(platform::native_handle socket, passable what) noexcept
      : socket_(socket), what_(what) {}
  file_passage(file_passage&& gone) noexcept
      : socket_(std::exchange(gone.socket_, platform::no_handle)), what_(gone.what_) {}
  file_passage& operator=(file_passage&& other) noexcept {
    std::swap(socket_, other.socket_);
    std::swap(what_, other.what_);
    std::swap(came_, other.came_);
    return *this;
  }
  ~file_passage();

  [[nodiscard]] bool may_pass(const platform::file_facts& facts) const noexcept {
    return socket_ != platform::no_handle &&
           (what_ == passable::any || (what_ == passable::sealed && facts.keeps_size));
  }
  /// Passes a copy of the handle. False: not now, or not at all.
  ///
  /// Shape: `slot` below slots, and free.
  [[nodiscard]] bool pass(std::uint32_t slot, const passed& which) noexcept;
  /// What the peer has passed under that number, mapped. Empty: nothing that may be.
  ///
  /// Errors: throws std::bad_alloc, also where the system has no descriptors or mappings left.
  [[nodiscard]] shared_buffer receive(std::uint64_t slot, std::uint64_t bytes);

 private:
  [[nodiscard]] bool take_next();

  platform::native_handle socket_ = platform::no_handle;
  passable what_ = passable::none;
  std::array<std::optional<passed>, slots> came_;
};

}  // namespace hawser::shm
