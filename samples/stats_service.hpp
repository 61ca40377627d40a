// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hawser/hawser.hpp>

#include <string>

namespace samples {

/// What a question is answered with: one JSON object.
///
///     {"format": 1, "pid": 4711, "backend": "io_uring",
///      "time_ns": 123,   of a monotonic clock: only differences mean something
///      "cpu_ns": 45,     CPU time of the whole process
///      "open_links": 3, "failed_tasks": 0, "injected": 12, "rejected": 0,
///      "workers": [{"turns": 6, "parks": 2, ...   the fields of hawser::worker_stats
///                   "priorities": {"control": {"executed": 1, "stolen": 0, "queued": 0,
///                                              "queue_wait": [0, 4, ...]}, "rpc": ...}}, ...]}
///
/// `queue_wait` are the counts of hawser::wait_histogram, without zeros at the end. All counters
/// are since the start; who wants rates asks twice. Unknown fields are to be ignored.
[[nodiscard]] std::string stats_as_json(const hawser::runtime& watched);

/// Answers everyone who connects: each message on rpc with stats_as_json(), under the id of the
/// question. Links to it count among `open_links`. Start it with scope::serve(), so that its
/// failure is logged and harms nobody:
///
///     scope.serve(samples::serve_stats(scope, std::move(listener), runtime));
///
/// It runs on the runtime that it shows, and disturbs it little: the workers are not stopped or
/// locked, and an answer is a few ten microseconds on the worker that is home of that link. It
/// takes its turn as rpc does, whose channel it uses. On bulk a question would wait longest
/// where the process has most to do, which is when one asks; on control it would
/// stand before what the application has to say there.
///
/// Shape:   `watched` outlives the task. Who can connect can read: for `unix:` that is the same
///          user.
/// Errors:  as listener::accept().
/// Cancel:  by the stop token.
/// Cost:    one answer of about 1 KiB a worker for each question.
[[nodiscard]] hawser::task<void> serve_stats(hawser::scope& clients, hawser::listener listener,
                                             const hawser::runtime& watched);

}  // namespace samples
