// SPDX-License-Identifier: Apache-2.0
// Every decoder of a frame's header, on any bytes: nothing or a value, never more.
#include <cstdint>

#include "fuzz/input.hpp"
#include "wire/frame.hpp"

namespace wire = hawser::wire;

namespace {

// What was understood can be said again and means the same.
template <class Value, class Decode>
void require_round_trip(const std::optional<Value>& decoded, Decode decode) {
  if (!decoded.has_value()) return;
  const auto frame = wire::encode(*decoded);
  const auto header = std::span<const std::byte>(frame).subspan(wire::length_bytes);
  fuzz::require(decode(header).has_value(), "what was decoded can be said again");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> header(reinterpret_cast<const std::byte*>(data), size);
  static_cast<void>(wire::peek_kind(header));
  require_round_trip(wire::decode_hello(header), wire::decode_hello);
  require_round_trip(wire::decode_welcome(header), wire::decode_welcome);
  require_round_trip(wire::decode_refusal(header), wire::decode_refusal);
  require_round_trip(wire::decode_attach(header), wire::decode_attach);
  static_cast<void>(wire::decode_credit(header));
  static_cast<void>(wire::decode_token(header));
  static_cast<void>(wire::decode_end(header));
  static_cast<void>(wire::decode_close(header));
  static_cast<void>(wire::decode_closed(header));
  static_cast<void>(wire::decode_moved(header));
  static_cast<void>(wire::decode_data(header));
  static_cast<void>(wire::decode_opening(header));
  return 0;
}
