// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace hawser::detail {

class worker;

/// Memory in which something may appear without a word of the system: a worker looks there while
/// it is awake. Before it sleeps the source tells its peers, which then have to wake it.
///
///             worker::watch()                 doze(), and nothing has stirred
///   nobody looks ----------> watched -----------------------------------------> nobody looks
///
/// Threads: the worker's.
class memory_source {
 public:
  memory_source(const memory_source&) = delete;
  memory_source& operator=(const memory_source&) = delete;

  /// Acts upon what has come. True: there was something.
  virtual bool look() noexcept = 0;
  /// The worker is about to sleep. From now on peers see to it that it wakes up, and that watch()
  /// is called then. False: they cannot; the worker stays awake.
  [[nodiscard]] virtual bool doze() noexcept = 0;
  /// After doze() and a barrier: something has come that no peer will wake anybody for.
  [[nodiscard]] virtual bool has_stirred() noexcept = 0;
  /// The worker does not sleep after all.
  virtual void stay_awake() noexcept = 0;
  /// Its peers rely on the barrier of platform::pass_barrier() between doze() and has_stirred(),
  /// and not on a fence alone. Asked between the two, behind such a fence.
  [[nodiscard]] virtual bool wants_barrier() const noexcept = 0;

 protected:
  memory_source() = default;
  ~memory_source() = default;

 private:
  friend class worker;

  memory_source* next_ = nullptr;
  bool watched_ = false;
};

}  // namespace hawser::detail
