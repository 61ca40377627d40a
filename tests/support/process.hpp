// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

namespace test {

/// The case "child: `name`" of this executable, running in a process of its own. Ends with SIGKILL
/// at the latest when this object does.
class process {
 public:
  /// The child finds `argument` with process_argument().
  process(std::string_view name, const std::string& argument);
  ~process();
  process(const process&) = delete;
  process& operator=(const process&) = delete;

  [[nodiscard]] pid_t id() const noexcept { return id_; }
  void signal(int number) noexcept;
  /// Waits for its end; true: it ended by itself with success.
  bool join() noexcept;

 private:
  pid_t id_ = -1;
};

[[nodiscard]] std::string process_argument();

}  // namespace test
