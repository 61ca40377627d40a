// SPDX-License-Identifier: Apache-2.0
// Files as messages: which way their bytes take.
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "hawser/hop.hpp"
#include "hawser/offload.hpp"
#include "link/link_core.hpp"
#include "shm/file_view.hpp"
#include "shm/handle_owner.hpp"

namespace hawser {
namespace {

using detail::link_core;

constexpr std::size_t view_from = 64 << 10;  // a smaller part is copied sooner than mapped

// What may be handed over: another handle, which can only read, and the part that is meant.
struct opened_part {
  opened_part(file_handle from, platform::file_facts found, std::uint64_t offset, std::size_t bytes)
      : file(platform::open_to_read(from)),
        facts(found),
        view(shm::view_file(file.get(), offset, bytes)) {}

  shm::handle_owner file;
  platform::file_facts facts;
  shared_buffer view;
};

// Nothing: it is of a kind that is not handed over, or the system does not let it: then it is read.
std::unique_ptr<opened_part> open_part(shm::passable what, file_handle file, std::uint64_t offset,
                                       std::size_t bytes) {
  const auto facts = shm::require_part(file, offset, bytes);
  if (what != shm::passable::any && !facts.keeps_size) return nullptr;
  try {
    return std::make_unique<opened_part>(file, facts, offset, bytes);
  } catch (const std::system_error&) {
    return nullptr;
  }
}

// By the system's own copy of the file, which is there before anybody waits for it at home. Empty:
// the system does not let it be mapped.
shared_buffer view_part(file_handle file, std::uint64_t offset, std::size_t bytes) {
  static_cast<void>(shm::require_part(file, offset, bytes));
  try {
    shared_buffer view = shm::view_file(file, offset, bytes);
    platform::read_ahead(view.bytes());
    return view;
  } catch (const std::system_error&) {
    return {};
  }
}

// The link may be on another road by now: what cannot be lent any more is sent.
shared_buffer lend_part(link_core& link, std::size_t channel, opened_part& part,
                        std::uint64_t offset) {
  shm::arena* const files = link.files_of(channel);
  if (files == nullptr || !files->may_lend_file(part.facts)) return std::move(part.view);
  shared_buffer lent = files->lend_file(part.file.get(), offset, part.view);
  static_cast<void>(part.file.give());
  return lent;
}

}  // namespace

task<void> channel::send_file(file_handle file, std::uint64_t offset, std::size_t bytes,
                              message_header header, lane via) {
  link_core& link = core_->owner();
  const std::size_t index = core_->index();
  co_await detail::hop_to(link.home());
  if (const auto most = link.wire().peer_limits().message_bytes[index]; bytes > most) {
    failure(errc::too_large, "send_file: " + std::to_string(bytes) + " bytes, the peer takes " +
                                 std::to_string(most))
        .raise();
  }
  const shm::passable what = link.passable();
  if (what != shm::passable::none && link.files_of(index) != nullptr && offset % 8 == 0 &&
      bytes >= link.options().lend_from_bytes) {
    const auto part = co_await offload([=] { return open_part(what, file, offset, bytes); });
    if (part != nullptr) {
      shared_buffer lent = lend_part(link, index, *part, offset);
      co_return co_await send(message(std::move(lent), header), via);
    }
  }
  if (bytes >= view_from && !link.wire().would_share()) {
    shared_buffer view = co_await offload([=] { return view_part(file, offset, bytes); });
    if (!view.empty()) co_return co_await send(message(std::move(view), header), via);
  }
  buffer contents = co_await loan(bytes);
  const auto into = contents.bytes();
  co_await offload([=] {
    static_cast<void>(shm::require_part(file, offset, into.size()));
    platform::read_file(file, offset, into);
  });
  co_await send(message(shared_buffer(std::move(contents)), header), via);
}

}  // namespace hawser
