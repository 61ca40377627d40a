// SPDX-License-Identifier: Apache-2.0
#pragma once

// What travels between the two couriers, and on which channel:
//
//   rpc      questions of the sender (hello, offer, listed, prefix, ping), each answered under the
//            same message id; the first byte is the tag
//   bulk     records: contents of files, many small ones in a message or a piece of a large one;
//            the message id is the sender's lane: records of one file stay in one lane, in order
//   stream   reports of the receiver: progress, files that failed, the end
//   control  cancel
//
// All integers are little-endian. Everything is checked when it is read: a decoder throws
// bad_message rather than return what it could not have understood.

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "courier/files.hpp"
#include "courier/hash.hpp"

namespace courier {

inline constexpr std::uint32_t protocol_version = 1;

/// A peer sent what no courier sends.
class bad_message : public std::runtime_error {
 public:
  explicit bad_message(const std::string& what) : runtime_error("bad message: " + what) {}
};

enum class tag : std::uint8_t {
  hello = 1,  // sender, rpc
  offer,      // sender, rpc
  listed,     // sender, rpc
  prefix,     // sender, rpc
  ping,       // sender, rpc
  answer,     // receiver, rpc: to any of the above
  progress,   // receiver, stream
  trouble,    // receiver, stream
  end,        // receiver, stream
  cancel,     // sender, control
};

/// Opens a transfer.
struct hello {
  std::uint32_t version = protocol_version;
  std::uint64_t tree = 0;  ///< names the sender's tree, so that a killed transfer is found again
  std::uint32_t mode = 0;  ///< of the root
  timestamp modified;      ///< of the root
};

/// A part of the listing, parents before what is in them. The number of an entry is its place in
/// the whole listing.
struct offer {
  std::uint64_t first = 0;
  std::vector<entry> entries;
};

enum class standing : std::uint8_t {
  wanted,    ///< nothing of it is here
  partial,   ///< a file of which `bytes` came before
  complete,  ///< nothing to send
  refused,   ///< cannot be created; `why` says so
};

struct offer_answer {
  standing state = standing::wanted;
  std::uint64_t bytes = 0;
  std::string why;
};

/// What a partial file holds.
struct prefix_answer {
  std::uint64_t bytes = 0;
  digest hash;
};

struct progress {
  std::uint64_t files = 0;    ///< whole, verified and in place
  std::uint64_t bytes = 0;    ///< written, holes included
  std::uint64_t arrived = 0;  ///< contents that came over the link
};

struct trouble {
  std::uint64_t number = 0;  ///< of the entry
  std::string what;
};

enum class ending : std::uint8_t { complete, incomplete, failed, cancelled };

/// The last report.
struct end {
  ending how = ending::failed;
  progress reached;
  std::uint64_t resent = 0;  ///< came again although it had arrived before
  std::string what;
};

/// What a record says about its file.
enum record_flag : std::uint32_t {
  record_first = 1,      ///< starts from the beginning: what is there counts for nothing
  record_last = 2,       ///< the file ends after this; `hash` is that of the whole file
  record_abandoned = 4,  ///< the sender cannot read on; `bytes` is zero
};

/// What precedes contents on bulk, in place. Between records of a file there may be holes.
struct record {
  std::uint64_t number = 0;  ///< of the file
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;
  std::uint32_t flags = 0;
  digest hash;
};
inline constexpr std::size_t record_header_bytes = 40;
inline constexpr std::size_t bulk_message_bytes = 1 << 20;

void put_record(std::span<std::byte, record_header_bytes> out, const record& header) noexcept;

/// Takes the first record off `message`; `contents` are its bytes.
struct parsed_record {
  record header;
  std::span<const std::byte> contents;
};
[[nodiscard]] parsed_record take_record(std::span<const std::byte>& message);

/// The tag of a message from the peer.
[[nodiscard]] tag tag_of(std::span<const std::byte> message);

using bytes = std::vector<std::byte>;

[[nodiscard]] bytes encode(tag alone);
[[nodiscard]] bytes encode(const hello& value);
[[nodiscard]] bytes encode(const offer& value);
[[nodiscard]] bytes encode_listed(std::uint64_t count);
[[nodiscard]] bytes encode_prefix(std::uint64_t number);
[[nodiscard]] bytes encode(std::span<const offer_answer> value);
[[nodiscard]] bytes encode(const prefix_answer& value);
[[nodiscard]] bytes encode(const progress& value);
[[nodiscard]] bytes encode(const trouble& value);
[[nodiscard]] bytes encode(const end& value);
[[nodiscard]] bytes encode_cancel(bool keep_partial);

// Errors: throw bad_message unless the message is exactly one of the kind asked for.
[[nodiscard]] hello decode_hello(std::span<const std::byte> message);
[[nodiscard]] offer decode_offer(std::span<const std::byte> message);
[[nodiscard]] std::uint64_t decode_listed(std::span<const std::byte> message);
[[nodiscard]] std::uint64_t decode_prefix(std::span<const std::byte> message);
[[nodiscard]] std::vector<offer_answer> decode_offer_answer(std::span<const std::byte> message);
[[nodiscard]] prefix_answer decode_prefix_answer(std::span<const std::byte> message);
[[nodiscard]] progress decode_progress(std::span<const std::byte> message);
[[nodiscard]] trouble decode_trouble(std::span<const std::byte> message);
[[nodiscard]] end decode_end(std::span<const std::byte> message);
[[nodiscard]] bool decode_cancel(std::span<const std::byte> message);

}  // namespace courier
