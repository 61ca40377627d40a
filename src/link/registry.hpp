// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <mutex>

#include "hawser/errc.hpp"
#include "wire/frame.hpp"

namespace hawser::detail {

class link_core;

/// The links that came in through one listener: how many, whose, and where an attach belongs.
///
/// Keys are chosen by peers, so they live in a tree: no peer can make it slow.
///
/// Threads: any.
class link_registry {
 public:
  link_registry(unsigned max_links, unsigned max_links_per_user) noexcept
      : max_links_(max_links), max_links_per_user_(max_links_per_user) {}

  /// A newcomer begins. False: a bound is reached, nothing is counted.
  [[nodiscard]] bool reserve(std::uint32_t user, bool has_user);
  /// A newcomer that came to nothing.
  void give_back(std::uint32_t user, bool has_user) noexcept;
  /// A reserved newcomer has become a link. False: its id is taken.
  [[nodiscard]] bool add(const wire::secret& id, link_core& added, std::uint32_t user,
                         bool has_user);
  /// From now on an attach must prove `secret`.
  void renew(link_core& resumed, const wire::secret& secret) noexcept;
  /// Also gives its reservation back.
  void remove(link_core& gone) noexcept;
  /// The link that the attach proves to belong to, kept alive by a visit; null: no such link, or
  /// the secret is wrong. The comparison takes the same time wherever secrets differ.
  [[nodiscard]] link_core* find(const wire::attach& wanted) noexcept;
  /// The same for a hello that is to resume.
  [[nodiscard]] link_core* find(const wire::hello& wanted) noexcept;

 private:
  struct entry {
    link_core* core = nullptr;
    wire::secret secret{};  // of an attach
    wire::secret resume_secret{};
    std::uint32_t user = 0;
    bool has_user = false;
  };

  const unsigned max_links_;
  const unsigned max_links_per_user_;
  std::mutex mutex_;
  std::map<wire::secret, entry> links_;
  std::map<std::uint32_t, unsigned> by_user_;
  unsigned reserved_ = 0;
};

}  // namespace hawser::detail
