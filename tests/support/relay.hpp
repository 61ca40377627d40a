// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace test {

/// A tcp proxy between the two ends of links: what a network does to connections, at will.
///
/// Threads: any; it has one of its own.
class relay {
 public:
  /// Listens at a port of its own; every connection is passed on to `target`, a `tcp:` address.
  explicit relay(std::string target);
  ~relay();
  relay(const relay&) = delete;
  relay& operator=(const relay&) = delete;

  [[nodiscard]] const std::string& uri() const noexcept { return uri_; }
  /// Breaks every connection that there is: both ends read a reset.
  void cut();
  /// Nothing passes any more, in connections that there are or will be, and nobody is told.
  void part();
  void heal();
  /// New connections go elsewhere.
  void redirect(std::string target);
  /// Connections that there have been.
  [[nodiscard]] std::size_t connections() const;

 private:
  struct route {
    int ends[2] = {-1, -1};
  };

  void run();
  void accept_one();
  [[nodiscard]] static bool pass(int from, int to);
  static void close(route& gone) noexcept;

  mutable std::mutex mutex_;
  std::string target_;
  std::vector<route> routes_;
  std::size_t connections_ = 0;
  bool parted_ = false;
  bool stops_ = false;
  int listener_ = -1;
  int wake_[2] = {-1, -1};
  std::string uri_;
  std::thread thread_;
};

}  // namespace test
