// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "hawser/executor_config.hpp"

namespace hawser::detail {

/// Checks every field and puts defaults in the place of zeros.
///
/// Errors: throws errc::bad_config naming field, value and range.
[[nodiscard]] executor_config checked(executor_config config);

}  // namespace hawser::detail
