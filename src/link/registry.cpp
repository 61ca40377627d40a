// SPDX-License-Identifier: Apache-2.0
#include "link/registry.hpp"

#include "link/link_core.hpp"

namespace hawser::detail {
namespace {

bool same(const wire::secret& left, const wire::secret& right) noexcept {
  unsigned difference = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    difference |= static_cast<unsigned>(left[i] ^ right[i]);
  }
  return difference == 0;
}

}  // namespace

bool link_registry::reserve(std::uint32_t user, bool has_user) {
  const std::lock_guard guard(mutex_);
  if (reserved_ >= max_links_) return false;
  if (has_user) {
    unsigned& count = by_user_[user];
    if (count >= max_links_per_user_) return false;
    ++count;
  }
  ++reserved_;
  return true;
}

void link_registry::give_back(std::uint32_t user, bool has_user) noexcept {
  const std::lock_guard guard(mutex_);
  --reserved_;
  if (!has_user) return;
  const auto found = by_user_.find(user);
  if (found != by_user_.end() && --found->second == 0) by_user_.erase(found);
}

bool link_registry::add(const wire::secret& id, link_core& added, std::uint32_t user,
                        bool has_user) {
  const std::lock_guard guard(mutex_);
  const wire::machine& machine = added.wire();
  return links_
      .try_emplace(id, entry{&added, machine.attach_secret(), machine.resume_secret(), user,
                             has_user})
      .second;
}

void link_registry::renew(link_core& resumed, const wire::secret& secret) noexcept {
  const std::lock_guard guard(mutex_);
  const auto found = links_.find(resumed.wire().link_id());
  if (found != links_.end() && found->second.core == &resumed) found->second.secret = secret;
}

void link_registry::remove(link_core& gone) noexcept {
  entry removed;
  {
    const std::lock_guard guard(mutex_);
    const auto found = links_.find(gone.wire().link_id());
    if (found == links_.end() || found->second.core != &gone) return;
    removed = found->second;
    links_.erase(found);
  }
  give_back(removed.user, removed.has_user);
}

link_core* link_registry::find(const wire::attach& wanted) noexcept {
  const std::lock_guard guard(mutex_);
  const auto found = links_.find(wanted.link_id);
  if (found == links_.end() || !same(found->second.secret, wanted.secret)) return nullptr;
  return found->second.core->begin_visit() ? found->second.core : nullptr;
}

link_core* link_registry::find(const wire::hello& wanted) noexcept {
  const std::lock_guard guard(mutex_);
  const auto found = links_.find(wanted.link_id);
  if (found == links_.end() || !wanted.resume_secret.has_value() ||
      !same(found->second.resume_secret, *wanted.resume_secret)) {
    return nullptr;
  }
  return found->second.core->begin_visit() ? found->second.core : nullptr;
}

}  // namespace hawser::detail
