// SPDX-License-Identifier: Apache-2.0
#include "support/raw_peer.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace test {

namespace wire = hawser::wire;

bytes bytes_of(std::string_view text) {
  const auto from = std::as_bytes(std::span(text));
  return {from.begin(), from.end()};
}

bytes operator+(bytes left, std::span<const std::byte> right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

bytes frame_of(std::span<const std::byte> header, std::span<const std::byte> payload) {
  const std::size_t prefix = payload.empty() ? wire::length_bytes + header.size()
                                             : wire::align8(wire::length_bytes + header.size());
  const std::size_t length = prefix - wire::length_bytes + payload.size();
  bytes made(wire::align8(wire::length_bytes + length));
  for (std::size_t i = 0; i < wire::length_bytes; ++i) {
    made[i] = static_cast<std::byte>(length >> (8 * i));
  }
  std::copy(header.begin(), header.end(), made.begin() + wire::length_bytes);
  std::copy(payload.begin(), payload.end(), made.begin() + static_cast<std::ptrdiff_t>(prefix));
  return made;
}

bytes data_frame(const wire::data_header& header, std::span<const std::byte> payload) {
  bytes made(wire::data_prefix_max);
  made.resize(wire::encode_data_prefix(made, header, payload.size()));
  made.insert(made.end(), payload.begin(), payload.end());
  made.resize(wire::align8(made.size()));
  return made;
}

raw_peer raw_peer::of_server(const wire::settings& settings, const wire::hello& greeting) {
  return raw_peer(std::make_unique<machine>(settings, greeting, simulated_start()));
}

raw_peer raw_peer::of_client(const wire::settings& settings) {
  return raw_peer(std::make_unique<machine>(settings, simulated_start()));
}

void raw_peer::feed(std::span<const std::byte> from, std::size_t pipe, std::size_t split) {
  while (!from.empty()) {
    const auto part = from.first(std::min(from.size(), split));
    auto* const block = hawser::detail::allocate_block(part.size());
    std::memcpy(block->data(), part.data(), part.size());
    machine_->receive(pipe, block, part.size(), now_);
    from = from.subspan(part.size());
  }
}

bytes raw_peer::output(std::size_t pipe) {
  bytes all;
  std::array<std::span<const std::byte>, 16> pieces;
  while (const std::size_t count = machine_->gather(pipe, pieces)) {
    for (std::size_t i = 0; i < count; ++i) all = std::move(all) + pieces[i];
    machine_->written(pipe);
  }
  return all;
}

std::vector<seen_frame> raw_peer::frames(std::size_t pipe) {
  return parse_frames(output(pipe));
}

std::vector<seen_frame> parse_frames(std::span<const std::byte> all) {
  std::vector<seen_frame> found;
  while (!all.empty()) {
    if (all.size() < wire::length_bytes) throw std::runtime_error("a cut length");
    const std::size_t length = wire::load_length(all.data());
    const std::size_t padded = wire::align8(wire::length_bytes + length);
    if (padded > all.size()) throw std::runtime_error("a cut frame");
    const auto body = all.subspan(wire::length_bytes, length);
    const auto start = wire::peek_kind(body);
    if (!start.has_value()) throw std::runtime_error("a frame without a header");
    seen_frame& frame = found.emplace_back();
    frame.kind = start->kind;
    frame.size = padded;
    auto header = body;
    if (frame.kind == wire::kind::data) {
      const auto data = wire::decode_data(body);
      if (!data.has_value()) throw std::runtime_error("a malformed data frame");
      frame.data = data->header;
      const std::size_t prefix = wire::align8(wire::length_bytes + data->header_bytes);
      const auto payload = body.subspan(std::min(prefix - wire::length_bytes, body.size()));
      frame.payload.assign(payload.begin(), payload.end());
      header = body.first(data->header_bytes);
    }
    frame.header.assign(header.begin(), header.end());
    for (const std::byte pad : all.subspan(wire::length_bytes + length, padded - length - 4)) {
      if (pad != std::byte{0}) throw std::runtime_error("padding that is not zero");
    }
    all = all.subspan(padded);
  }
  return found;
}

std::optional<seen_frame> raw_peer::only(wire::kind what) {
  std::optional<seen_frame> found;
  for (seen_frame& frame : frames()) {
    if (frame.kind != what) continue;
    if (found.has_value()) return std::nullopt;
    found = std::move(frame);
  }
  return found;
}

std::optional<hawser::errc> raw_peer::close_code() {
  const auto all = frames();
  if (all.empty() || all.back().kind != wire::kind::close) return std::nullopt;
  const auto from = wire::decode_close(all.back().header);
  if (!from.has_value()) return std::nullopt;
  return static_cast<hawser::errc>(from->code);
}

}  // namespace test
