// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <string>

#include "model/explorer.hpp"

namespace model {

using maker = std::function<std::unique_ptr<scenario>()>;

/// Explores all there is, says how much that was, and finds nothing wrong.
inline void passes(const std::string& name, unsigned threads, const maker& make) {
  const auto done = explore(threads, make);
  MESSAGE(name << ": explored " << done.executions << " executions, cut short " << done.cut_short);
  CHECK_MESSAGE(done.failure.empty(), name << ": " << done.failure);
  CHECK(done.complete);
}

/// Finds the planted error.
inline void finds(const std::string& name, unsigned threads, const maker& make,
                  const mutation& planted = {}) {
  const auto done = explore(threads, make, planted);
  const auto reason = done.failure.substr(0, done.failure.find('\n'));
  MESSAGE(name << ": after " << done.executions << " executions: " << reason);
  CHECK(!reason.empty());
}

/// A planted error: accesses of this kind and place get another order.
inline mutation reordered(kind what, std::string_view owner, std::memory_order order) {
  return [=](access& each, place where) {
    if (each.what != what || where.owner != owner) return;
    each.order = order;
  };
}

}  // namespace model
