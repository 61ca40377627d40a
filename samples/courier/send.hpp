// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hawser/hawser.hpp>

#include <atomic>
#include <string>

namespace courier {

struct send_options {
  std::string folder;
  std::string uri;
  unsigned lanes = 3;         ///< files that are read at the same time
  bool keep_partial = false;  ///< when cancelled: the receiver keeps what is not whole
  bool quiet = false;         ///< no progress
  bool json = false;          ///< a line of figures at the end
};

/// Set when the user wants the transfer to be cancelled.
using cancel_flag = std::atomic<bool>;

/// Sends a tree; says on the standard output how it went. Returns the exit code of the program.
///
/// Errors: throws std::system_error when the tree or the peer cannot be reached.
/// Cancel: by the stop token, as a lost link; by `cancelled`, after telling the receiver.
[[nodiscard]] hawser::task<int> send_tree(send_options options, const cancel_flag& cancelled);

}  // namespace courier
