// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace hawser::detail {

/// True: memory goes back to the system at once, so that the sanitizer sees a use after free that
/// a recycling cache would hide.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
#else
inline constexpr bool sanitized = false;
#endif

}  // namespace hawser::detail
