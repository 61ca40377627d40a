// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace hawser::wire {

/// Bugs that the tests of the simulation plant, to prove that it finds them. A build of users has
/// none: the questions below are constants there.
enum class planted : std::uint8_t {
  none,
  stash_lost,        // what came before its MOVED is forgotten
  credit_forgotten,  // what was released is not granted again on urgent lanes
  delivered_twice,   // one in ten of those that come alone
  closed_too_soon,   // CLOSE does not wait for what is queued
  wakeup_lost,       // credit comes, and who waits for it is not told
  due_for_ever,      // something is due behind the last word
  resent_twice,      // what has arrived before a link is resumed is sent again, too
  loss_uncounted,    // what is not sent again is not counted
  debt_forgotten,    // a half message of a broken connection keeps its credit
};

#ifdef HAWSER_PLANTED
extern planted planted_bug;  // of tests/sim/planted_test.cpp
#else
inline constexpr planted planted_bug = planted::none;
#endif

[[nodiscard]] inline bool has(planted bug) noexcept {
  return planted_bug == bug;
}

}  // namespace hawser::wire
