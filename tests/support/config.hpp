// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hawser/runtime.hpp"
#include "os/reactor.hpp"

namespace test {

/// Keeps what a runtime logs.
///
/// Threads: any.
class log_book {
 public:
  struct entry {
    hawser::log_level level;
    std::string area;
    std::string text;
  };

  [[nodiscard]] hawser::log_sink sink();
  [[nodiscard]] std::vector<entry> entries() const;
  [[nodiscard]] std::size_t count(hawser::log_level level) const;

 private:
  mutable std::mutex mutex_;
  std::vector<entry> entries_;
};

/// The configuration of a runtime on the backend this run is about.
[[nodiscard]] hawser::executor_config config(unsigned threads = 1);

/// A reactor of the backend this run is about, for the calling thread. Null after skip(), if this
/// machine does not offer it: return then.
[[nodiscard]] std::unique_ptr<hawser::reactor> make_reactor();

}  // namespace test
