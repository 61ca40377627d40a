// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <type_traits>
#include <utility>

#include "hawser/executor.hpp"
#include "hawser/task.hpp"

namespace hawser::detail {

/// A function that waits to run, in a block of the frame allocator.
struct posted_work : work {
  using work::work;
  void (*drop)(posted_work&) noexcept = nullptr;  ///< destroys it without running it
};

/// Reports the exception being handled as a failure of independent work.
void report_posted_failure() noexcept;

template <class F>
class posted_function final : public posted_work {
 public:
  template <class G>
  explicit posted_function(G&& callable)
      : posted_work(&posted_function::run_function), function_(std::forward<G>(callable)) {
    drop = &posted_function::drop_function;
  }

  static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
  static void operator delete(void* memory, std::size_t bytes) noexcept {
    release_frame(memory, bytes);
  }

 private:
  static void run_function(work& self) noexcept {
    auto* const own = static_cast<posted_function*>(&self);
    try {
      std::invoke(own->function_);
    } catch (...) {
      report_posted_failure();
    }
    delete own;
  }
  static void drop_function(posted_work& self) noexcept {
    delete static_cast<posted_function*>(&self);
  }

  F function_;
};

template <class F>
[[nodiscard]] posted_work& make_posted(F&& function) {
  return *new posted_function<std::decay_t<F>>(std::forward<F>(function));
}

}  // namespace hawser::detail
