// SPDX-License-Identifier: Apache-2.0
#include "courier/paths.hpp"

#include <fcntl.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace courier {
namespace {

std::string_view component_fault(std::string_view name) noexcept {
  if (name.empty()) return "an empty component, or a path from the root";
  if (name == "." || name == "..") return "a component that is . or ..";
  if (name.size() > name_bytes_max) return "a component above 255 bytes";
  return {};
}

// How many bytes the UTF-8 character at the start takes, 0 if they are none or a control character.
std::size_t character_bytes(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const std::size_t count = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < count) return 0;
  std::uint32_t point = first & (0xffU >> (count + 1));
  for (std::size_t i = 1; i < count; ++i) {
    if ((byte(i) & 0xc0U) != 0x80U) return 0;
    point = point << 6 | (byte(i) & 0x3fU);
  }
  const bool shortest = count == 2 || (count == 3 && point >= 0x800) || point >= 0x10000;
  const bool surrogate = point >= 0xd800 && point < 0xe000;
  // C1 controls steer terminals; 200e..202e and 2066..2069 turn the direction of writing around.
  const bool steers = point < 0xa0 || (point >= 0x200e && point <= 0x202e && point != 0x2010) ||
                      (point >= 0x2066 && point <= 0x2069);
  return shortest && !surrogate && point <= 0x10ffff && !steers ? count : 0;
}

}  // namespace

std::string_view path_fault(std::string_view path) noexcept {
  if (path.empty()) return "an empty path";
  if (path.size() > path_bytes_max) return "a path above 4096 bytes";
  if (path.find('\0') != path.npos) return "a NUL byte in a path";
  const auto first = path.substr(0, path.find('/'));
  if (first == staging_name) return "the courier's own folder";
  for (std::size_t from = 0;;) {
    const auto slash = path.find('/', from);
    if (const auto fault = component_fault(path.substr(from, slash - from)); !fault.empty()) {
      return fault;
    }
    if (slash == path.npos) return {};
    from = slash + 1;
  }
}

std::string printable(std::string_view bytes) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  while (!bytes.empty()) {
    const auto count = character_bytes(bytes);
    if (count > 0) {
      text += bytes.substr(0, count);
    } else {
      const auto byte = static_cast<unsigned char>(bytes.front());
      text += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
    bytes.remove_prefix(count > 0 ? count : 1);
  }
  return text;
}

beneath::place beneath::find(std::string_view path) {
  if (const auto fault = path_fault(path); !fault.empty()) {
    throw std::system_error(EINVAL, std::generic_category(),
                            printable(path) + " would leave the target: " + std::string(fault));
  }
  const auto slash = path.rfind('/');
  if (slash == path.npos) return {root_, std::string(path)};
  return {enter(path.substr(0, slash)), std::string(path.substr(slash + 1))};
}

// O_NOFOLLOW concerns the last component only, so every component is opened by itself.
int beneath::enter(std::string_view folder) {
  if (open_ && folder == folder_) return open_.get();
  descriptor inner;
  for (std::size_t from = 0; from <= folder.size();) {
    const auto end = std::min(folder.find('/', from), folder.size());
    const std::string name(folder.substr(from, end - from));
    const int outer = inner ? inner.get() : root_;
    descriptor next(::openat(outer, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next) {
      const bool linked = errno == ELOOP || errno == ENOTDIR;
      throw_errno(printable(folder.substr(0, end)) +
                  (linked ? " is a symbolic link or no folder in the target" : ""));
    }
    inner = std::move(next);
    from = end + 1;
  }
  folder_ = folder;
  open_ = std::move(inner);
  return open_.get();
}

}  // namespace courier
