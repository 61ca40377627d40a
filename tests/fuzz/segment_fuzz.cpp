// SPDX-License-Identifier: Apache-2.0
// A real link over shared memory whose peer owns the segment and the arena and keeps to no rule: it
// rewrites any word of them, writes any record and any frame, lends what is not there, and returns
// what it never had, while the application sends, lends, takes, holds and reads. The link goes on
// or ends; nothing outside of the memory is touched, and nothing of it is left behind.
//
// The runtime is driven by the thread of the peer, so that a file does the same each time. What
// happens between two reads of one word only threads show: tests/link_memory_test.cpp has those.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/input.hpp"
#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "shm/arena.hpp"
#include "shm/segment.hpp"
#include "support/folder.hpp"
#include "support/raw_socket.hpp"
#include "support/rewriting.hpp"

// ---- memory between pages that nobody may touch -----------------------------------------------

extern "C" {
void* __real_mmap(void*, std::size_t, int, int, int, off_t);
int __real_munmap(void*, std::size_t);
}

namespace {

constexpr std::size_t page = 4096;

std::map<void*, std::size_t>& guarded() {
  static std::map<void*, std::size_t> all;
  return all;
}

}  // namespace

// The linker puts these in the place of the calls that the library makes.
extern "C" void* __wrap_mmap(void* at, std::size_t bytes, int protection, int flags, int file,
                             off_t offset) {
  if (file < 0 || at != nullptr) {
    return __real_mmap(at, bytes, protection, flags, file, offset);
  }
  void* const room =
      __real_mmap(nullptr, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fuzz::require(room != MAP_FAILED, "there is room");
  void* const first = static_cast<std::byte*>(room) + page;
  fuzz::require(__real_mmap(first, bytes, protection, flags | MAP_FIXED, file, offset) == first,
                "it is mapped there");
  guarded()[first] = bytes;
  return first;
}

extern "C" int __wrap_munmap(void* first, std::size_t bytes) {
  const auto found = guarded().find(first);
  if (found == guarded().end()) return __real_munmap(first, bytes);
  fuzz::require(found->second == bytes, "it is unmapped as a whole");
  guarded().erase(found);
  return __real_munmap(static_cast<std::byte*>(first) - page, bytes + 2 * page);
}

namespace {

using hawser::task;
namespace shm = hawser::shm;
namespace wire = hawser::wire;

constexpr shm::ring_sizes rings{page, page, page, page};
constexpr std::size_t arena_bytes = shm::arena_bytes_min;
constexpr std::size_t held_most = 64;

hawser::listen_options small() {
  hawser::listen_options made;
  made.link.max_message_bytes.fill(64 << 10);
  made.link.window_bytes.fill(128 << 10);
  made.link.queue_bytes = 128 << 10;
  made.link.reassembly_bytes = 1 << 20;
  made.link.pinned_bytes = 64 << 10;
  made.link.arena_bytes = arena_bytes;
  made.link.lend_from_bytes = 6000;
  return made;
}

/// A runtime with a listener, for all runs.
struct host {
  host() : listener(hawser::listen(runtime, "unix:" + (place / "s"), small())) {}

  static hawser::executor_config config() {
    hawser::executor_config made;
    made.backend = hawser::backend::asio;
    return made;
  }
  /// All that is to happen has happened.
  void settle() {
    unsigned turns = 0;
    while (runtime.run_ready()) fuzz::require(++turns < 100'000, "it comes to rest");
  }

  test::folder place;
  hawser::driven_runtime runtime{config()};
  hawser::listener listener;
};

// ---- the application --------------------------------------------------------------------------

/// What tasks of a link leave behind; they outlive no run.
struct application {
  hawser::link link;
  std::deque<hawser::message> held;
  std::optional<hawser::failure> why;
  unsigned under_way = 0;
};

task<void> accept(hawser::listener& from, application& into) {
  into.link = co_await from.accept();
}

task<void> await_end(application& of) {
  hawser::failure why = co_await of.link.ended();
  of.why = std::move(why);
}

task<void> take(application& into, std::size_t channel) {
  for (;;) {
    auto got = co_await hawser::as_result(into.link.at(hawser::priority(channel)).recv());
    if (!got.has_value() || !got->has_value()) break;
    into.held.push_back(std::move(**got));
    if (into.held.size() > held_most) into.held.pop_front();
  }
  --into.under_way;
}

task<void> send(application& from, std::size_t channel, std::size_t bytes, hawser::lane via) {
  const std::vector<std::byte> payload(bytes, std::byte{7});
  auto& to = from.link.at(hawser::priority(channel));
  static_cast<void>(co_await hawser::as_result(to.send(std::span(payload), via)));
  --from.under_way;
}

task<void> lend(application& from, std::size_t channel, std::size_t bytes) {
  auto& to = from.link.at(hawser::priority(channel));
  auto room = co_await hawser::as_result(to.loan(bytes));
  if (room.has_value()) {
    fuzz::require(room->size() == bytes, "a loan has the size that was asked for");
    std::memset(room->data(), 9, bytes);
    static_cast<void>(co_await hawser::as_result(to.send(std::move(*room))));
  }
  --from.under_way;
}

task<void> forward(application& from, std::size_t channel, hawser::message what) {
  auto& to = from.link.at(hawser::priority(channel));
  static_cast<void>(co_await hawser::as_result(to.send(std::move(what))));
  --from.under_way;
}

// ---- the peer ---------------------------------------------------------------------------------

class attacker {
 public:
  attacker(host& at, fuzz::input& from)
      : at_(at),
        from_(from),
        control_(at.listener.uri()),
        memory_(shm::segment::create(rings, false)),
        arena_(shm::arena_memory::create(arena_bytes)) {
    hawser::start(at_.runtime, accept(at_.listener, application_));
    for (std::size_t i = 0; i < shm::ring_count; ++i) {
      fuzz::require(!memory_.reserve(i), "there is memory");
      writers_[i].emplace(memory_.writer(i, shm::side::client));
      readers_[i].emplace(memory_.reader(i, shm::side::server));
    }
    fuzz::require(arena_.reserve(0, arena_bytes), "there is memory");
    shake_hands();
    hawser::start(at_.runtime, await_end(application_));
    for (std::size_t i = 0; i < wire::channel_count; ++i) {
      start([&] { return take(application_, i); });
    }
  }

  /// False: the input has ended.
  bool step() {
    if (from_.empty()) return false;
    const std::uint8_t what = from_.byte();
    act(what % 16);
    if (what < 0xc0) at_.settle();
    return true;
  }

  /// The sockets end, and with them the link, whatever was written.
  void leave() {
    offering_.close();
    control_.close();
    at_.settle();
    fuzz::require(application_.why.has_value(), "the link ends with its sockets");
    fuzz::require(application_.why->code() != hawser::errc::resource_exhausted || peer_gave_up_,
                  "nothing was used up");
    read_held();
    application_.held.clear();
    application_.link = {};
    at_.settle();
    fuzz::require(application_.under_way == 0, "no operation is left behind");
  }

 private:
  template <class Make>
  void start(Make make) {
    if (application_.under_way > 100) return;
    ++application_.under_way;
    hawser::start(at_.runtime, make());
  }

  void shake_hands() {
    static std::uint64_t number = 0;
    wire::hello hello;
    ++number;
    std::memcpy(hello.link_id.data(), &number, sizeof(number));
    hello.limits.window.fill(1 << 30);
    hello.features = wire::feature::share | wire::feature::lend;
    control_.send(wire::encode(hello));
    at_.settle();
    const auto answer = control_.next(wire::kind::welcome);
    const auto welcome = answer ? wire::decode_welcome(answer->header) : std::nullopt;
    fuzz::require(welcome.has_value(), "a welcome");
    offering_ = test::raw_socket(at_.listener.uri());
    wire::share offer{hello.link_id, welcome->attach_secret, shm::layout_version, {}, arena_bytes};
    offer.ring_bytes.fill(page);
    offering_.send(wire::encode(offer), std::array{memory_.handle(), arena_.handle()});
    at_.settle();
    const auto taken = offering_.next();
    fuzz::require(taken && taken->kind == wire::kind::attached, "it shares memory");
    control_.send(wire::encode_moved(0, wire::shared_main, 1, 1));
    at_.settle();
    fuzz::require(control_.next(wire::kind::moved).has_value(), "it has moved");
  }

  void act(unsigned what) {
    switch (what) {
      case 0:
      case 1: {
        const auto below = [&](std::uint64_t limit) { return this->below(limit); };
        test::next_rewrite(below, page).apply(memory_);
        return wake();
      }
      case 2:
        return put_data();
      case 3:
        return put_lent();
      case 4:
        return put_returned();
      case 5: {
        const auto some = from_.bytes(from_.byte());
        return put(from_.byte() % shm::ring_count, some);
      }
      case 6:
        return read_ring(from_.byte() % shm::ring_count);
      case 7: {
        const std::uint8_t detail = from_.byte();
        const auto via = detail / 4 % 8 == 0 ? hawser::lane::urgent : hawser::lane::normal;
        const std::size_t bytes = via == hawser::lane::urgent ? detail : 37U * from_.byte();
        return start([&] { return send(application_, detail % 4, bytes, via); });
      }
      case 8: {
        const std::uint8_t detail = from_.byte();
        const std::size_t bytes = 1 + 300U * from_.byte();
        return start([&] { return lend(application_, detail % 4, bytes); });
      }
      case 9:
        return let_go(from_.byte());
      case 10:
        return move(1 + from_.byte() % 3);
      case 11:
        return put_other();
      case 12: {
        const auto some = from_.bytes(from_.byte() % 16);
        const auto to = below(arena_bytes - 16);
        std::copy(some.begin(), some.end(), arena_.own() + to);
        return read_held();
      }
      case 13: {
        const auto some = from_.bytes(1 + from_.byte());
        static_cast<void>(from_.byte() == 0 ? control_.send(some) : offering_.send(some));
        return;
      }
      case 14:
        return wake();
      default:
        memory_.header().rings[from_.byte() % 4][from_.byte() % 2].consumed.store(number());
        return wake();
    }
  }

  // ---- frames ---------------------------------------------------------------------------------

  void put_data() {
    const std::uint8_t detail = from_.byte();
    wire::data_header header;
    header.channel = detail % 4;
    if (detail / 4 % 4 == 0) header.flags = detail / 16;
    if (detail / 4 % 4 == 1) header.flags = wire::flag::urgent;
    if ((header.flags & 5) != 0) header.total = number();
    const std::vector<std::byte> payload(from_.byte() * (detail >= 0x80 ? 16U : 1U));
    count(header);
    put(pipe_of_[detail % 4], test::data_frame(header, payload));
  }

  void put_lent() {
    const std::uint8_t detail = from_.byte();
    wire::data_header header;
    header.channel = detail % 4;
    header.flags = wire::flag::lent;
    header.at = detail / 4 % 4 == 0 ? number() : below(arena_bytes / 8) * 8;
    header.total = detail / 16 % 4 == 0 ? number() : 1 + below(30'000);
    count(header);
    put(pipe_of_[detail % 4], test::data_frame(header, {}));
  }

  void put_returned() {
    std::vector<std::uint64_t> places;
    for (unsigned i = 1 + from_.byte() % 4; i != 0; --i) {
      if (from_.byte() % 4 != 0 && !lent_.empty()) {
        places.push_back(lent_.front());
        lent_.pop_front();
      } else {
        places.push_back(number());
      }
    }
    put(0, wire::encode_returned(places));
  }

  // Each lane is numbered from 1.
  void move(std::size_t channel) {
    if (std::exchange(pipe_of_[channel], channel) == channel) return;
    put(0,
        wire::encode_moved(channel, channel, 1 + sent_[2 * channel], 1 + sent_[2 * channel + 1]));
  }

  void put_other() {
    const std::uint8_t detail = from_.byte();
    switch (detail % 8) {
      case 0:
        return put(0, wire::encode_token(wire::kind::ping, number()));
      case 1:
        return put(0, wire::encode_end(detail / 8 % 4, sent_[detail / 8 % 4 * 2],
                                       sent_[detail / 8 % 4 * 2 + 1]));
      case 2:
        return put(0, wire::encode_moved(from_.byte() % 5, from_.byte() % 6, number(), number()));
      case 3:
        peer_gave_up_ = true;
        return put(0, wire::encode_close(static_cast<hawser::errc>(detail / 8), "", sent_));
      case 4:
        peer_gave_up_ = true;
        return put(0, wire::encode_closed(sent_, sent_));
      default: {
        const wire::grant one{detail / 8U % 8U, number(), from_.byte(), number()};
        return put(0, wire::encode(std::span(&one, 1)));
      }
    }
  }

  void count(const wire::data_header& of) {
    if ((of.flags & wire::flag::continued) == 0) ++sent_[wire::lane_of(of)];
  }

  // In records of what the ring has room for.
  void put(std::size_t ring, std::span<const std::byte> bytes) {
    auto& to = *writers_[ring];
    while (!bytes.empty()) {
      const std::size_t some = std::min(bytes.size(), to.largest());
      const std::size_t at = to.claim(some);
      if (at == shm::ring_writer<>::no_room) break;
      std::memcpy(to.memory().at(at), bytes.data(), some);
      to.commit(some);
      bytes = bytes.subspan(some);
    }
    to.publish();
    wake();
  }

  // Takes note of what was lent.
  void read_ring(std::size_t ring) {
    auto& reader = *readers_[ring];
    for (unsigned i = 0; i < 64 && reader.look() == shm::ring_reader<>::found::record; ++i) {
      const std::byte* const first = reader.memory().at(reader.offset());
      const std::vector<std::byte> copy(first, first + reader.bytes());
      note_lent(copy);
      static_cast<void>(reader.pop());
    }
    static_cast<void>(reader.give_back());
    static_cast<void>(reader.take_waiting());
    wake();
  }

  void note_lent(std::span<const std::byte> record) {
    while (record.size() > 8) {
      const std::size_t length = wire::load_length(record.data());
      if (length > record.size() - wire::length_bytes) return;
      const auto data = wire::decode_data(record.subspan(wire::length_bytes, length));
      if (data && (data->header.flags & wire::flag::lent) != 0) lent_.push_back(data->header.at);
      record = record.subspan(std::min(record.size(), wire::align8(wire::length_bytes + length)));
    }
  }

  // ---- the application ------------------------------------------------------------------------

  void let_go(std::uint8_t detail) {
    auto& held = application_.held;
    if (held.empty()) return;
    const std::size_t which = detail / 8U % held.size();
    hawser::message gone = std::move(held[which]);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    if (detail % 8 < 4) return;
    start([&] { return forward(application_, detail % 4, std::move(gone)); });
  }

  void read_held() {
    unsigned sum = 0;
    for (const auto& each : application_.held) {
      for (const std::byte one : each.bytes()) sum += static_cast<unsigned>(one);
    }
    volatile unsigned seen = sum;
    static_cast<void>(seen);
  }

  void wake() {
    test::wake(memory_, shm::side::server, [&] {
      const std::byte once{1};
      offering_.send({&once, 1});
    });
  }

  // ---- numbers --------------------------------------------------------------------------------

  std::size_t below(std::uint64_t limit) {
    if (limit == 0) return std::uint64_t{from_.number()} << 32 | from_.number();
    if (limit <= 256) return static_cast<std::size_t>(from_.byte() % limit);
    return static_cast<std::size_t>(from_.number() % limit);
  }

  // Around nothing, the arena, the end of all numbers; or any.
  std::uint64_t number() {
    const std::uint8_t detail = from_.byte();
    switch (detail % 4) {
      case 0:
        return detail / 4;
      case 1:
        return arena_bytes - 32 + detail / 4;
      case 2:
        return ~std::uint64_t{0} - detail / 4;
      default:
        return below(0) >> detail / 4 % 64;
    }
  }

  host& at_;
  fuzz::input& from_;
  test::raw_socket control_;
  test::raw_socket offering_{-1};
  shm::segment memory_;
  shm::arena_memory arena_;
  std::array<std::optional<shm::ring_writer<>>, shm::ring_count> writers_;
  std::array<std::optional<shm::ring_reader<>>, shm::ring_count> readers_;
  std::array<std::size_t, wire::channel_count> pipe_of_{};
  wire::lane_numbers sent_{};
  std::deque<std::uint64_t> lent_;  // by the application
  application application_;
  bool peer_gave_up_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static host at;
  fuzz::input from(data, size);
  {
    attacker peer(at, from);
    while (peer.step()) {
    }
    peer.leave();
  }
  fuzz::require(guarded().empty(), "all memory is given back");
  return 0;
}
