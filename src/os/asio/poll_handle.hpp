// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "os/platform.hpp"

namespace asio {
class io_context;
}

namespace hawser::platform {

/// What becomes readable when a handle that `io` waits for is ready; no_handle: there is no such
/// thing on this system. Defined beside the other functions of the platform.
[[nodiscard]] native_handle poll_handle_of(asio::io_context& io);

}  // namespace hawser::platform
