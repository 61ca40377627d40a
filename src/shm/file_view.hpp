// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "hawser/buffer.hpp"
#include "os/platform.hpp"

namespace hawser::shm {

/// A part of a file as bytes: mapped, until the last reference goes, on whichever thread.
///
/// Shape:  not empty, and inside the file. Who cuts the file short meanwhile ends the process that
///         touches what is gone.
/// Errors: throws std::system_error, std::bad_alloc.
[[nodiscard]] shared_buffer view_file(platform::native_handle file, std::uint64_t offset,
                                      std::size_t bytes);
/// Before it is viewed or passed.
///
/// Errors: throws std::system_error: errc::unsupported if it is no regular file,
///         std::errc::invalid_argument if it has no such part.
[[nodiscard]] platform::file_facts require_part(platform::native_handle file, std::uint64_t offset,
                                                std::size_t bytes);

}  // namespace hawser::shm
