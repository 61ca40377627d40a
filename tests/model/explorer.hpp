// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

/// A small checker that runs lock-free code through every interleaving, and through what weak
/// memory adds to it: model::atomic in the place of std::atomic, fibers in the place of threads.
///
/// Each execution starts anew, follows the choices of the one before up to the last that has
/// another way, and takes that. A choice is which thread goes on, and which of the values that a
/// load may return it does return: a location keeps all values it ever had, and a load may return
/// any that is not older than what its thread has to know (own accesses, and what came with an
/// acquire from a release). So stores become visible late and in any order unless the code
/// prevents it: store buffers, and more. seq_cst follows C++20: such a load of a location is not
/// older than what seq_cst accesses of that location wrote or read before.
///
/// Left out: a load that sees a later store of a thread that depends on it (load buffering), a
/// compare_exchange that fails with an old value or for no reason, consume, and of fences what
/// they add to the relaxed accesses around them: a fence here only orders itself with the others.
///
/// Interleavings that differ only in the order of accesses that do not touch each other are
/// explored once (dynamic partial-order reduction with sleep sets). Nothing else is left out, so
/// what explore() passes holds for all executions.
///
/// Source: P. Abdulla and others, "Optimal dynamic partial order reduction" (its source sets).
namespace model {

enum class kind : std::uint8_t {
  load, store, add, exchange, compare_exchange, wait,
  fence,   // of one thread, seq_cst
  barrier  // of all threads at once, as membarrier(2)
};

/// One access, before it happens. A mutation may change it.
struct access {
  kind what = kind::load;
  unsigned location = 0;
  std::memory_order order = std::memory_order_seq_cst;
  std::memory_order failure_order = std::memory_order_seq_cst;
  std::uint64_t value = 0;                     // stored, added or desired
  std::uint64_t expected = 0;                  // of a compare_exchange
  std::uint64_t compared = ~std::uint64_t{0};  // the bits that it compares and changes
  bool unchecked = false;                      // it succeeds whatever it finds
};

/// Which location it is: the name of its owner, and where it comes in the order of construction.
struct place {
  std::string_view owner;
  unsigned member = 0;
};

/// A planted error: may change any access.
using mutation = std::function<void(access&, place)>;

/// What is checked: made anew for each execution.
class scenario {
 public:
  scenario() = default;
  scenario(const scenario&) = delete;
  scenario& operator=(const scenario&) = delete;
  virtual ~scenario() = default;

  /// The life of a thread. Besides accesses of model::atomic it may do only what commutes with
  /// what other threads do. A thread that is left in event::wait() is not unwound.
  virtual void run(unsigned thread) = 0;
  /// Called when every thread has ended or waits; accesses then see the last values.
  virtual void at_rest() = 0;
};

struct outcome {
  std::uint64_t executions = 0;  // complete ones
  std::uint64_t cut_short = 0;   // found to repeat another
  bool complete = false;         // all there are were explored
  std::string failure;           // empty: none; otherwise with a trace
};

/// Explores until all is explored, something fails, or `executions_most` is reached.
///
/// Threads: one exploration at a time in a process.
outcome explore(unsigned threads, const std::function<std::unique_ptr<scenario>()>& make,
                const mutation& planted = {}, std::uint64_t executions_most = 1'000'000);

/// Unless it held, ends the execution, and the exploration, as a failure.
void require(bool held, const char* what);

/// The locations that are made after it belong to `owner`, up to the next one.
struct naming {
  explicit naming(std::string_view owner);
};

namespace detail {
unsigned add_location(std::uint64_t initial);
/// The value before; of a compare_exchange the value found.
std::uint64_t perform(access wanted);
}  // namespace detail

/// What std::atomic is to a real thread.
template <class T>
class atomic {
 public:
  atomic() noexcept : atomic(T()) {}
  atomic(T initial) noexcept : location_(detail::add_location(bits(initial))) {}
  atomic(const atomic&) = delete;
  atomic& operator=(const atomic&) = delete;

  T load(std::memory_order order) const noexcept {
    return value(detail::perform({.what = kind::load, .location = location_, .order = order}));
  }
  void store(T desired, std::memory_order order) noexcept {
    detail::perform(
        {.what = kind::store, .location = location_, .order = order, .value = bits(desired)});
  }
  T exchange(T desired, std::memory_order order) noexcept {
    return value(detail::perform(
        {.what = kind::exchange, .location = location_, .order = order, .value = bits(desired)}));
  }
  T fetch_add(T operand, std::memory_order order) noexcept {
    return value(detail::perform(
        {.what = kind::add, .location = location_, .order = order, .value = bits(operand)}));
  }
  T fetch_sub(T operand, std::memory_order order) noexcept {
    return value(detail::perform(
        {.what = kind::add, .location = location_, .order = order, .value = 0 - bits(operand)}));
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order order,
                               std::memory_order failure_order) noexcept {
    const access wanted{.what = kind::compare_exchange,
                        .location = location_,
                        .order = order,
                        .failure_order = failure_order,
                        .value = bits(desired),
                        .expected = bits(expected)};
    const auto found = detail::perform(wanted);
    const bool changed = found == wanted.expected;
    if (!changed) expected = value(found);
    return changed;
  }
  bool compare_exchange_weak(T& expected, T desired, std::memory_order order,
                             std::memory_order failure_order) noexcept {
    return compare_exchange_strong(expected, desired, order, failure_order);
  }

 private:
  static_assert(sizeof(T) <= sizeof(std::uint64_t));

  static std::uint64_t bits(T from) noexcept {
    if constexpr (std::is_pointer_v<T>) {
      return reinterpret_cast<std::uintptr_t>(from);
    } else {
      return static_cast<std::uint64_t>(from);
    }
  }
  static T value(std::uint64_t from) noexcept {
    if constexpr (std::is_pointer_v<T>) {
      return reinterpret_cast<T>(static_cast<std::uintptr_t>(from));
    } else {
      return static_cast<T>(from);
    }
  }

  unsigned location_;
};

/// What orders accesses without being one.
class barriers {
 public:
  barriers() : location_(detail::add_location(0)) {}
  barriers(const barriers&) = delete;
  barriers& operator=(const barriers&) = delete;

  void fence() noexcept { detail::perform({.what = kind::fence, .location = location_}); }
  void everywhere() noexcept { detail::perform({.what = kind::barrier, .location = location_}); }

 private:
  unsigned location_;
};

/// What a worker sleeps on, in the place of its reactor: a signal is kept until it is waited for.
class event {
 public:
  event() : location_(detail::add_location(0)) {}
  event(const event&) = delete;
  event& operator=(const event&) = delete;

  void signal() noexcept {
    detail::perform({.what = kind::exchange,
                     .location = location_,
                     .order = std::memory_order_acq_rel,
                     .value = 1});
  }
  void wait() noexcept {
    detail::perform(
        {.what = kind::wait, .location = location_, .order = std::memory_order_acquire});
  }

 private:
  unsigned location_;
};

}  // namespace model
