// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace hawser::detail {

/// Between two looks at memory that another core will write: leaves the other thread of this core
/// its turn, and saves what a wrong guess would cost when the loop ends.
inline void spin_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

}  // namespace hawser::detail
