// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hawser/hawser.hpp>

#include <cstdint>
#include <functional>
#include <set>
#include <string>

#include "courier/target.hpp"

namespace courier {

struct serve_options {
  std::string folder;
  bool once = false;  ///< end after the first complete transfer
  target_options target;
};

/// What the transfers of one server share.
///
/// Threads: the runtime has one worker, which keeps the links and all that is here.
struct server {
  serve_options options;
  std::function<void()> request_stop;
  std::set<std::uint64_t> trees;  ///< that are being received
  std::uint64_t completed = 0;
  std::uint64_t interrupted = 0;  ///< by the end of the server
};

/// Receives trees from whoever connects, until stopped.
///
/// Cancel: by the stop token; what is half received stays for the next time.
[[nodiscard]] hawser::task<void> serve_trees(hawser::scope& transfers, hawser::listener listener,
                                             server& shared);

}  // namespace courier
