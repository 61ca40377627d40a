// SPDX-License-Identifier: Apache-2.0
#include "shm/file_view.hpp"

#include <memory>
#include <string>

#include "hawser/errc.hpp"

namespace hawser::shm {
namespace {

class unmapper final : public detail::block_owner {
 public:
  void take_back(detail::block& unused) noexcept override {
    platform::unmap_memory(unused.first, unused.capacity);
    delete &unused;
  }
};

unmapper owner_of_all;

}  // namespace

shared_buffer view_file(platform::native_handle file, std::uint64_t offset, std::size_t bytes) {
  const auto before = static_cast<std::size_t>(offset % platform::page_bytes());
  auto made = std::make_unique<detail::block>();
  made->capacity = before + bytes;
  made->owner = &owner_of_all;
  made->first = platform::map_memory(file, static_cast<std::size_t>(offset - before),
                                     made->capacity, platform::access::read);
  const std::byte* const first = made->first + before;
  return {made.release(), {first, bytes}};
}

platform::file_facts require_part(platform::native_handle file, std::uint64_t offset,
                                  std::size_t bytes) {
  const platform::file_facts facts = platform::inspect_file(file);
  if (offset <= facts.bytes && bytes <= facts.bytes - offset) return facts;
  failure(std::make_error_code(std::errc::invalid_argument),
          "file: it has " + std::to_string(facts.bytes) + " bytes, and no " +
              std::to_string(bytes) + " at " + std::to_string(offset))
      .raise();
}

}  // namespace hawser::shm
