// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "hawser/shm_stream.hpp"
#include "hawser/task.hpp"

namespace hawser {

/// Reads one record in a coroutine; empty at the end.
///
/// What is there is taken at once. To wait, a blocking thread of the runtime does so, as in
/// offload(): one for each stream that waits. Between processes that both have a runtime, a link
/// over shared memory waits without one.
///
/// Shape:   the stream lives until the task has ended, and nobody else reads it meanwhile.
/// Errors:  as shm_stream::read() and offload().
/// Cancel:  by the stop token, within 20 ms; no record is lost.
/// Cost:    an allocation a record; two thread switches where it waits.
[[nodiscard]] task<std::optional<std::vector<std::byte>>> shm_recv(shm_stream& from);

/// Writes one record in a coroutine.
///
/// Shape:   stream and record live until the task has ended, and nobody else writes meanwhile.
/// Errors:  as shm_stream::write() and offload().
/// Cancel:  by the stop token, within 20 ms; the record was not written then.
[[nodiscard]] task<void> shm_send(shm_stream& to, std::span<const std::byte> record);

}  // namespace hawser
