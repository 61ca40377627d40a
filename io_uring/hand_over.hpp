// SPDX-License-Identifier: Apache-2.0
#pragma once

// What goes into a ring on one thread and comes out of one on another is ordered by the kernel,
// which the thread sanitizer cannot see. Its own wrappers of send() and recv() order all sockets by
// one common object; this does the same for all rings, and only when it is watching.

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#endif
#endif

namespace hawser {

#if defined(SANITIZER_TSAN_INTERFACE_H)
inline char kernel_side;
inline void hand_to_kernel() noexcept {
  __tsan_release(&kernel_side);
}
inline void take_from_kernel() noexcept {
  __tsan_acquire(&kernel_side);
}
#else
inline void hand_to_kernel() noexcept {}
inline void take_from_kernel() noexcept {}
#endif

}  // namespace hawser
