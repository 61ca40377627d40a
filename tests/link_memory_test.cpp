// SPDX-License-Identifier: Apache-2.0
// Links whose pipes are rings in shared memory: how they come to be, what is refused, and what a
// peer can do with memory that is its own as well.
#include <doctest/doctest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "shm/arena.hpp"
#include "shm/segment.hpp"
#include "support/config.hpp"
#include "support/environment.hpp"
#include "support/folder.hpp"
#include "support/links.hpp"
#include "support/mappings.hpp"
#include "support/raw_socket.hpp"
#include "support/rewriting.hpp"
#include "support/watchdog.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::task;
using test::kinds;

namespace platform = hawser::platform;
namespace shm = hawser::shm;
namespace wire = hawser::wire;

constexpr std::size_t page = 4096;
constexpr shm::ring_sizes small_rings{page, page, page, page};

task<void> send_patterns(hawser::channel& to, std::vector<std::size_t> sizes) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    co_await to.send(test::make_pattern(i, sizes[i]));
  }
}

task<void> expect_patterns(hawser::channel& from, std::vector<std::size_t> sizes) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto message = co_await from.recv();
    CHECK(message.has_value());
    if (!message.has_value()) co_return;
    CHECK(test::is_pattern(*message, i, sizes[i]));
  }
}

std::vector<std::size_t> sizes_for(hawser::priority kind) {
  std::vector<std::size_t> sizes;
  for (std::size_t i = 0; i < 400; ++i) sizes.push_back(i * 37 % 3000);
  if (kind != hawser::priority::control) sizes.insert(sizes.end(), {300'000, 5, 70'000, 4096});
  return sizes;
}

/// A listener at a unix socket and a runtime; links come by themselves to share memory.
struct host {
  explicit host(const std::string& scheme = "unix:", const hawser::link_options& options = {},
                unsigned threads = 2)
      : guard(60s),
        runtime(test::config(threads, log)),
        listener(hawser::listen(runtime, scheme + (place / "s"),
                                {.link = options, .max_links_per_user = 10'000})) {}

  void connect(const hawser::link_options& options, std::string uri = {}) {
    if (uri.empty()) uri = listener.uri();
    hawser::sync_wait(runtime, test::join(listener, std::move(uri), options, client, server));
  }
  hawser::link accept() { return hawser::sync_wait(runtime, listener.accept()); }
  [[nodiscard]] hawser::link_road road_of(const hawser::link& which) {
    return hawser::sync_wait(runtime, [](hawser::link of) -> task<hawser::link_road> {
      co_await of.opened();
      co_return of.road();
    }(which));
  }
  void await_memory() {
    while (!road_of(client).shared_memory || !road_of(server).shared_memory) {
      std::this_thread::yield();
    }
  }
  /// Both ends send on all channels at once.
  void exchange() {
    hawser::run(runtime, [&](hawser::scope& all) -> task<void> {
      for (const auto kind : kinds) {
        for (const bool back : {false, true}) {
          all.spawn(send_patterns((back ? server : client).at(kind), sizes_for(kind)));
          all.spawn(expect_patterns((back ? client : server).at(kind), sizes_for(kind)));
        }
      }
      co_return;
    });
  }

  test::watchdog guard;
  test::log_book log;
  test::folder place;
  hawser::runtime runtime;
  hawser::listener listener;
  hawser::link client;
  hawser::link server;
};

/// A client written by hand, up to the offer of a segment.
struct raw_sharer {
  explicit raw_sharer(const std::string& uri, const shm::ring_sizes& sizes = small_rings,
                      std::uint64_t further_features = 0)
      : link(uri, greeting(further_features)),
        offering(uri),
        segment(shm::segment::create(sizes, false)) {
    for (std::size_t i = 0; i < shm::ring_count; ++i) CHECK_FALSE(segment.reserve(i));
  }

  static wire::hello greeting(std::uint64_t further_features) {
    auto hello = test::make_hello();
    hello.features = wire::feature::share | further_features;
    return hello;
  }
  [[nodiscard]] wire::share offer() const {
    wire::share made{link.hello.link_id, link.welcome.attach_secret, shm::layout_version, {}};
    std::copy(segment.sizes().begin(), segment.sizes().end(), made.ring_bytes.begin());
    return made;
  }
  /// The answer: clear if it was taken.
  std::optional<errc> propose(const wire::share& what,
                              std::span<const platform::native_handle> handles) {
    offering.send(wire::encode(what), handles);
    const auto answer = offering.next();
    if (!answer.has_value()) return errc::link_lost;
    if (answer->kind == wire::kind::attached) return std::nullopt;
    const auto refused = wire::decode_refusal(answer->header);
    return refused.has_value() ? refused->code : errc::link_lost;
  }
  std::optional<errc> propose() { return propose(offer(), std::array{segment.handle()}); }
  /// All frames go through pipe 4 from now on.
  void move() {
    link.socket.send(wire::encode_moved(0, wire::shared_main, 1, 1));
    CHECK(link.socket.next(wire::kind::moved).has_value());
  }
  void put(std::span<const std::byte> frames) {
    if (!writer.has_value()) writer.emplace(segment.writer(0, shm::side::client));
    const std::size_t at = writer->claim(frames.size());
    REQUIRE(at != shm::ring_writer<>::no_room);
    std::memcpy(writer->memory().at(at), frames.data(), frames.size());
    writer->commit(frames.size());
    writer->publish();
    wake();
  }
  void wake() {
    test::wake(segment, shm::side::server, [&] {
      const std::byte once{1};
      offering.send({&once, 1});
    });
  }
  /// What the server has written into its ring of channel 0, up to a frame of that kind.
  std::optional<test::seen_frame> next(wire::kind what) {
    if (!reader.has_value()) reader.emplace(segment.reader(0, shm::side::server));
    for (int i = 0; i < 5000; ++i) {
      while (reader->look() == shm::ring_reader<>::found::record) {
        const std::byte* const first = reader->memory().at(reader->offset());
        const auto frames = test::parse_frames({first, reader->bytes()});
        static_cast<void>(reader->pop());
        for (const auto& each : frames) {
          if (each.kind == what) return each;
        }
      }
      platform::sleep_on(segment.bell_of(shm::side::client).asleep, 0, 1ms);
    }
    return std::nullopt;
  }

  test::raw_link link;
  test::raw_socket offering;
  shm::segment segment;
  std::optional<shm::ring_writer<>> writer;
  std::optional<shm::ring_reader<>> reader;
};

errc end_of(host& at, const hawser::link& which) {
  return static_cast<errc>(hawser::sync_wait(at.runtime, which.ended()).code().value());
}

task<void> send_until_lost(hawser::link to, hawser::priority kind) {
  for (std::uint64_t i = 0;; ++i) {
    auto sent = co_await hawser::as_result(to.at(kind).send(test::make_pattern(i, i * 37 % 3000)));
    if (!sent.has_value()) co_return;
  }
}

task<void> take_until_lost(hawser::link from, hawser::priority kind) {
  for (;;) {
    const auto got = co_await hawser::as_result(from.at(kind).recv());
    if (!got.has_value() || !got->has_value()) co_return;
  }
}

}  // namespace

TEST_SUITE("link_memory") {
  TEST_CASE("a unix link moves to shared memory in the midst of its traffic") {
    const std::size_t descriptors = test::open_descriptors();
    for (const std::size_t ring : {page, std::size_t{1} << 18}) {
      for (const unsigned channels : {1U, 4U}) {
        host at;
        hawser::link_options options;
        options.ring_bytes.fill(ring);
        options.channels = channels;
        at.connect(options);
        CHECK_FALSE(at.road_of(at.client).shared_memory);
        at.exchange();
        at.await_memory();
        at.exchange();
        CHECK(at.client.sockets() == 1);
        CHECK(at.server.sockets() == 1);
        for (const auto& side : {at.client, at.server}) {
          const auto road = at.road_of(side);
          CHECK(road.wakeups_sent + road.wakeups_spared > 0);
          if (ring == page) CHECK(road.full_stalls > 0);
        }
        hawser::sync_wait(at.runtime, at.client.close());
        CHECK(end_of(at, at.server) == errc::closed);
        for (const auto kind : kinds) {
          const auto sent = at.client.at(kind).counts();
          const auto received = at.server.at(kind).counts();
          CHECK(sent.accepted == 2 * sizes_for(kind).size());
          CHECK(received.taken == sent.accepted);
          CHECK(sent.consumed == sent.accepted);
        }
      }
    }
    CHECK(test::segment_mappings() == 0);
    CHECK(test::open_descriptors() == descriptors);
  }

  TEST_CASE("a link that says little stays on its socket") {
    host at;
    at.connect({});
    hawser::run(at.runtime, [&]() -> task<void> {
      co_await at.client.rpc().send("question");
      const auto question = co_await at.server.rpc().recv();
      CHECK(question.has_value());
      co_await hawser::this_task::sleep_for(10ms);
    });
    CHECK_FALSE(at.road_of(at.client).shared_memory);
    CHECK(test::segment_mappings() == 0);
  }

  TEST_CASE("either side may keep to sockets") {
    for (const bool by_client : {false, true}) {
      hawser::link_options unwilling;
      unwilling.share_memory = false;
      host at("unix:", by_client ? hawser::link_options() : unwilling);
      at.connect(by_client ? unwilling : hawser::link_options());
      at.exchange();
      test::wait_until(at.runtime, [&] { return at.client.sockets() == 4; });
      CHECK_FALSE(at.road_of(at.client).shared_memory);
      CHECK(at.road_of(at.client).why_not.empty());
      CHECK(test::segment_mappings() == 0);
    }
  }

  TEST_CASE("shm: shares memory from the first message on, or fails") {
    host at("shm:");
    CHECK(at.listener.uri().starts_with("shm:"));
    at.connect({});
    CHECK(at.road_of(at.client).shared_memory);
    at.exchange();

    const std::string path = at.listener.uri().substr(4);
    const auto refused = test::outcome_of([&] {
      hawser::sync_wait(at.runtime, hawser::connect("unix:" + path + "?share_memory=0"));
    });
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().code() == errc::unsupported);

    hawser::link_options unwilling;
    unwilling.share_memory = false;
    const host other("unix:", unwilling);
    auto connecting = [&] {
      hawser::sync_wait(at.runtime, hawser::connect("shm:" + other.listener.uri().substr(5)));
    };
    const auto failed = test::outcome_of(connecting);
    REQUIRE_FALSE(failed.has_value());
    CHECK(failed.error().code() == errc::unsupported);
    CHECK(failed.error().text().find("the peer does not want it") != std::string::npos);
  }

  // A write that waits for room would otherwise wait for the end of the turn, and the peer with it.
  TEST_CASE("who sends and sends within a turn fills a ring as it is emptied") {
    constexpr std::size_t count = 2000;
    constexpr std::size_t behind_most = 64;  // of a kilobyte each: many times the ring
    hawser::link_options options;
    options.ring_bytes.fill(page);
    options.window_bytes[0] = 4 << 20;
    host there("shm:", options, 1);
    hawser::runtime here(test::config(1, there.log));
    auto client = hawser::sync_wait(here, hawser::connect(there.listener.uri(), options));
    there.server = there.accept();
    std::atomic<std::size_t> received{0};

    hawser::start(there.runtime,
                  [](hawser::link from, std::atomic<std::size_t>& seen) -> task<void> {
                    while (const auto message = co_await from.control().recv()) ++seen;
                  }(there.server, received));
    hawser::run(here, [&]() -> task<void> {
      const std::vector<std::byte> bytes(1000);
      for (std::size_t i = 0; i < count; ++i) {
        co_await client.control().send(bytes);
        while (i > received + behind_most) std::this_thread::yield();
      }
      co_await client.close();
    });

    while (received != count) std::this_thread::yield();
    CHECK(received == count);
  }

  TEST_CASE("a segment larger than is allowed is refused, and the link goes on over sockets") {
    hawser::link_options strict;
    strict.shared_bytes = 64 << 10;
    host at("unix:", strict);
    at.connect({});
    at.exchange();
    test::wait_until(at.runtime, [&] { return at.client.sockets() == 4; });
    const auto road = at.road_of(at.client);
    CHECK_FALSE(road.shared_memory);
    CHECK(road.why_not.find("more shared memory than is allowed") != std::string::npos);
    CHECK(test::segment_mappings() == 0);
  }

  TEST_CASE("an offer that is wrong is refused by name, and harms nothing") {
    host at;
    at.connect({});
    const std::size_t descriptors = test::open_descriptors();
    const auto outcome = [&](const auto& spoil) {
      raw_sharer peer(at.listener.uri());
      const auto link = at.accept();
      wire::share offer = peer.offer();
      std::vector<platform::native_handle> handles{peer.segment.handle()};
      const auto got = spoil(peer, offer, handles);
      // The link goes on where it was.
      peer.link.socket.send(test::data_frame({1}, test::bytes_of("still here")));
      const auto message = hawser::run(at.runtime, [&] { return link.rpc().recv(); });
      CHECK(message->text() == "still here");
      return got;
    };
    using handle_vector = std::vector<platform::native_handle>;
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            offer.layout = 2;
            return peer.propose(offer, handles);
          }) == errc::unsupported);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            offer.ring_bytes[2] = page + 8;
            return peer.propose(offer, handles);
          }) == errc::protocol_violation);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            offer.ring_bytes[0] = std::uint64_t{1} << 40;
            return peer.propose(offer, handles);
          }) == errc::protocol_violation);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            offer.ring_bytes[0] *= 2;  // another size than the memory has
            return peer.propose(offer, handles);
          }) == errc::unsupported);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector&) {
            return peer.propose(offer, {});
          }) == errc::protocol_violation);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            handles.push_back(peer.segment.handle());
            return peer.propose(offer, handles);
          }) == errc::protocol_violation);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            handles[0] = 0;  // standard input
            return peer.propose(offer, handles);
          }) == errc::unsupported);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            offer.secret[3] ^= std::byte{1};
            return peer.propose(offer, handles);
          }) == errc::unauthorized);
    CHECK(outcome([](raw_sharer& peer, wire::share& offer, handle_vector& handles) {
            peer.segment.header().magic[0] = 'x';
            return peer.propose(offer, handles);
          }) == errc::unsupported);
    test::wait_until(at.runtime, [&] { return test::open_descriptors() == descriptors; });
    at.exchange();
  }

  TEST_CASE("files are agreed upon, and so is the socket that they cross") {
    constexpr std::size_t arena_bytes = shm::arena_bytes_min;
    constexpr auto all = wire::feature::lend | wire::feature::pass_sealed | wire::feature::pass_any;
    hawser::link_options sealed;
    sealed.pass_files = 1;
    host at("unix:", sealed);
    at.connect({});
    const std::size_t descriptors = test::open_descriptors();
    const auto outcome = [&](std::uint64_t features, std::size_t arena, std::size_t sockets) {
      raw_sharer peer(at.listener.uri(), small_rings, features);
      const auto link = at.accept();
      CHECK(peer.link.welcome.features ==
            (wire::feature::share | (features & ~wire::feature::pass_any)));
      wire::share offer = peer.offer();
      offer.arena_bytes = arena;
      std::vector<platform::native_handle> handles{peer.segment.handle()};
      const auto loans = shm::arena_memory::create(arena_bytes);
      if (arena != 0) handles.push_back(loans.handle());
      const auto [one, other] = platform::socket_pair();
      handles.insert(handles.end(), sockets, other);
      const auto got = peer.propose(offer, handles);
      platform::close(one);
      platform::close(other);
      return got;
    };
    CHECK(outcome(all, arena_bytes, 1) == std::nullopt);
    CHECK(outcome(all, arena_bytes, 0) == errc::protocol_violation);
    CHECK(outcome(all, arena_bytes, 2) == errc::protocol_violation);
    CHECK(outcome(all, 0, 1) == errc::protocol_violation);
    CHECK(outcome(wire::feature::lend, arena_bytes, 1) == errc::protocol_violation);
    CHECK(outcome(wire::feature::lend, arena_bytes, 0) == std::nullopt);
    test::wait_until(at.runtime, [&] { return test::open_descriptors() == descriptors; });
  }

  TEST_CASE("memory that could change its size, or is none, is refused by name") {
    host at;
    at.connect({});
    at.exchange();
    at.await_memory();
    const std::size_t descriptors = test::open_descriptors();
    const std::size_t mapped = test::segment_mappings();
    constexpr auto bytes = static_cast<off_t>(shm::segment_bytes(small_rings));
    const auto sealed_by = [](int seals) {
      const int made = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
      REQUIRE(::ftruncate(made, bytes) == 0);
      REQUIRE(::fcntl(made, F_ADD_SEALS, seals) == 0);
      return made;
    };
    const auto offered = [&](int memory, std::string_view why) {
      std::optional<errc> answer;
      {
        raw_sharer peer(at.listener.uri());
        const auto link = at.accept();
        const auto handle = static_cast<platform::native_handle>(memory);
        answer = peer.propose(peer.offer(), std::array{handle});
        ::close(memory);
        peer.link.socket.send(test::data_frame({1}, test::bytes_of("still here")));
        const auto message = hawser::run(at.runtime, [&] { return link.rpc().recv(); });
        CHECK(message->text() == "still here");
        const auto road = at.road_of(link);
        CHECK_FALSE(road.shared_memory);
        CHECK(road.why_not.find(why) != std::string::npos);
      }
      return answer;
    };
    constexpr auto sealing = "its size is not sealed";
    CHECK(offered(sealed_by(0), sealing) == errc::unsupported);
    CHECK(offered(sealed_by(F_SEAL_GROW | F_SEAL_SEAL), sealing) == errc::unsupported);
    CHECK(offered(sealed_by(F_SEAL_SHRINK | F_SEAL_SEAL), sealing) == errc::unsupported);
    CHECK(offered(sealed_by(F_SEAL_SHRINK | F_SEAL_GROW), sealing) == errc::unsupported);
    CHECK(offered(::open((at.place / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600), "") ==
          errc::unsupported);
    constexpr auto kind = "not memory of the system";
    std::array<int, 2> both{};
    REQUIRE(::pipe2(both.data(), O_CLOEXEC) == 0);
    CHECK(offered(both[0], kind) == errc::unsupported);
    CHECK(offered(both[1], kind) == errc::unsupported);
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both.data()) == 0);
    CHECK(offered(both[0], kind) == errc::unsupported);
    CHECK(offered(both[1], kind) == errc::unsupported);
    const int huge = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (huge >= 0) CHECK(offered(huge, kind) == errc::unsupported);
    test::wait_until(at.runtime, [&] { return test::segment_mappings() == mapped; });
    test::wait_until(at.runtime, [&] { return test::open_descriptors() == descriptors; });
  }

  // Even if it knows the secret of the link, and the file of the socket were open to it.
  TEST_CASE("what another user offers is not looked at, and the link goes on") {
    if (::geteuid() != 0) return test::skip("only root can become another user");
    constexpr uid_t nobody = 65534;
    host at;
    at.connect({});
    const std::string path = at.place / "s";
    REQUIRE(::chmod(at.place.path().c_str(), 0755) == 0);
    REQUIRE(::chmod(path.c_str(), 0666) == 0);
    const std::size_t descriptors = test::open_descriptors();
    {
      const raw_sharer peer(at.listener.uri());
      const auto link = at.accept();
      const auto frame = wire::encode(peer.offer());
      test::raw_socket offering = test::raw_socket::unconnected(at.listener.uri());
      const pid_t child = ::fork();
      if (child == 0) {
        if (::setgid(nobody) != 0 || ::setuid(nobody) != 0) ::_exit(100);
        try {
          offering.connect(at.listener.uri());
          offering.send(frame, std::array{peer.segment.handle()});
          ::_exit(offering.next().has_value() ? 101 : 0);
        } catch (const std::exception&) {
          ::_exit(102);
        }
      }
      int status = 0;
      ::waitpid(child, &status, 0);
      CHECK(status == 0);
      CHECK(test::has_event(at.log, "listener", {"turned away", "uid 65534"}));
      CHECK_FALSE(at.road_of(link).shared_memory);
    }
    test::wait_until(at.runtime, [&] { return test::open_descriptors() == descriptors; });
    at.exchange();
    at.await_memory();
  }

  // Goal: nothing lost or reordered, and the slowest client at least half as fast as the one in the
  // middle. Method: counts at the moment when the first has all its answers; no clock.
  TEST_CASE("many clients of one server share memory with it, and none is left behind") {
    const auto most = test::asked("HAWSER_CLIENTS", 128);
    for (const std::size_t many : {std::size_t{32}, std::size_t{most}}) {
      CAPTURE(many);
      constexpr std::uint64_t rounds = 100;
      host at("shm:");
      hawser::link_options options;
      options.ring_bytes.fill(page);
      std::vector<hawser::link> clients;
      std::vector<hawser::link> servers;
      for (std::size_t i = 0; i < many; ++i) {
        at.connect(options);
        clients.push_back(std::move(at.client));
        servers.push_back(std::move(at.server));
      }
      CHECK(test::segment_mappings() == 6 * many);  // the rings, and both halves of the arena

      std::vector<std::atomic<std::uint64_t>> answered(many);
      std::vector<std::uint64_t> first_done;
      std::atomic<bool> done{false};
      const auto echo = [](hawser::link from, hawser::priority kind) -> task<void> {
        while (auto message = co_await from.at(kind).recv()) {
          co_await from.at(kind).send(std::move(*message));
        }
      };
      const auto ask = [&](std::size_t who, hawser::priority kind) -> task<void> {
        const hawser::link over = clients[who];
        for (std::uint64_t i = 0; i < rounds; ++i) {
          co_await over.at(kind).send(test::make_pattern(i + who, i * 37 % 600));
          const auto answer = co_await over.at(kind).recv();
          CHECK(answer.has_value());
          if (!answer.has_value()) co_return;
          CHECK(test::is_pattern(*answer, i + who, i * 37 % 600));
          if (++answered[who] != kinds.size() * rounds || done.exchange(true)) continue;
          for (const auto& each : answered) first_done.push_back(each.load());
        }
        co_await over.at(kind).finish();
      };
      hawser::run(at.runtime, [&](hawser::scope& all) -> task<void> {
        for (std::size_t i = 0; i < many; ++i) {
          for (const auto kind : kinds) {
            all.spawn(echo(servers[i], kind));
            all.spawn(ask(i, kind));
          }
        }
        co_return;
      });

      REQUIRE(first_done.size() == many);
      std::sort(first_done.begin(), first_done.end());
      CHECK(2 * first_done.front() >= first_done[many / 2]);
    }
  }

  TEST_CASE("handles that nobody asked for are closed") {
    host at;
    at.connect({});
    at.exchange();
    const std::size_t descriptors = test::open_descriptors();
    {
      const platform::native_handle memory = platform::create_memory(page);
      const std::vector<platform::native_handle> many(8, memory);
      test::raw_socket stranger(at.listener.uri());
      stranger.send(wire::encode(test::make_hello()), many);
      CHECK(stranger.next(wire::kind::welcome).has_value());
      test::raw_socket babbler(at.listener.uri());
      babbler.send(test::bytes_of("GET / HTTP/1.1\r\n\r\n"), many);
      babbler.read_to_end();
      platform::release_handle(memory);
    }
    const auto link = at.accept();
    CHECK(end_of(at, link) == errc::link_lost);
    test::wait_until(at.runtime, [&] { return test::open_descriptors() == descriptors; });
  }

  TEST_CASE("a client from the page alone shares memory, asks, is answered, and closes") {
    host at;
    raw_sharer peer(at.listener.uri());
    const auto link = at.accept();
    CHECK(peer.propose() == std::nullopt);
    peer.move();
    peer.put(test::data_frame({1}, test::bytes_of("question")));
    hawser::sync_wait(at.runtime, [](hawser::link of) -> task<void> {
      const auto question = co_await of.rpc().recv();
      CHECK(question->text() == "question");
      co_await of.rpc().send("answer");
    }(link));
    const auto answer = peer.next(wire::kind::data);
    REQUIRE(answer.has_value());
    CHECK(answer->payload == test::bytes_of("answer"));

    peer.put(wire::encode_close(errc{}, "", {0, 0, 1, 0, 0, 0, 0, 0}));
    CHECK(peer.next(wire::kind::closed).has_value());
    peer.put(wire::encode_closed({0, 0, 1, 0, 0, 0, 0, 0}, {0, 0, 1, 0, 0, 0, 0, 0}));
    CHECK(end_of(at, link) == errc::closed);
  }

  TEST_CASE("what a peer had committed arrives, though it died behind it") {
    host at;
    std::optional<raw_sharer> peer(std::in_place, at.listener.uri());
    const auto link = at.accept();
    CHECK(peer->propose() == std::nullopt);
    peer->move();
    for (int i = 0; i < 20; ++i) {
      peer->put(test::data_frame({1}, test::bytes_of("number " + std::to_string(i))));
    }
    peer.reset();
    CHECK(end_of(at, link) == errc::link_lost);
    hawser::sync_wait(at.runtime, [](hawser::link of) -> task<void> {
      for (int i = 0; i < 20; ++i) {
        const auto message = co_await of.rpc().recv();
        CHECK(message->text() == "number " + std::to_string(i));
      }
    }(link));
    CHECK(at.log.count(hawser::log_level::error) == 0);
  }

  TEST_CASE("a broken ring closes its link, and no other") {
    host at;
    at.connect({});
    enum class harm { kind, size, consumed };
    for (const harm what : {harm::kind, harm::size, harm::consumed}) {
      CAPTURE(static_cast<int>(what));
      raw_sharer peer(at.listener.uri());
      const auto link = at.accept();
      CHECK(peer.propose() == std::nullopt);
      peer.move();
      auto writer = peer.segment.writer(0, shm::side::client);
      const auto header = [&](std::uint64_t value) {
        writer.memory().store(0, value, std::memory_order_release);
        peer.wake();
      };
      switch (what) {
        case harm::kind:
          header(shm::record_header(16, static_cast<shm::record_kind>(9)));
          break;
        case harm::size:
          header(shm::record_header(100'000, shm::record_kind::data));
          break;
        case harm::consumed:
          peer.segment.header().rings[0][1].consumed.store(1 << 20);
          hawser::sync_wait(at.runtime, [](hawser::link of) -> task<void> {
            // Until it looks there: the ring is full then.
            for (int i = 0; i < 200; ++i) {
              auto sent = co_await hawser::as_result(of.rpc().send(test::make_pattern(1, 1000)));
              if (!sent.has_value()) break;
              co_await hawser::this_task::yield();
            }
          }(link));
          break;
      }
      CHECK(end_of(at, link) == errc::protocol_violation);
    }
    at.exchange();
  }

  // There is always another one in a ring that is full of them.
  TEST_CASE("a ring full of empty records breaks, and holds nobody up") {
    host at;
    raw_sharer peer(at.listener.uri());
    const auto link = at.accept();
    CHECK(peer.propose() == std::nullopt);
    peer.move();
    const auto writer = peer.segment.writer(0, shm::side::client);
    for (std::size_t at_byte = page; at_byte != 0;) {
      at_byte -= shm::record_header_bytes;
      writer.memory().store(at_byte,
                            shm::record_header(shm::record_header_bytes, shm::record_kind::data),
                            std::memory_order_release);
    }
    peer.wake();
    CHECK(end_of(at, link) == errc::protocol_violation);
  }

  // Goal: whoever rewrites a segment harms its own link only. Method: while this side sends and
  // takes on all channels, words are rewritten at random; the link ends then at the latest when the
  // socket does, and whatever hangs is for the watchdog, whatever strays for the sanitizers.
  TEST_CASE("a segment that is rewritten at random harms its own link only") {
    constexpr unsigned steps = 300;
    host at;
    at.connect({});
    at.exchange();
    at.await_memory();
    const std::size_t descriptors = test::open_descriptors();
    const std::size_t mapped = test::segment_mappings();
    const auto rounds = test::asked("HAWSER_REWRITES", 60);
    std::uint64_t violations = 0;

    for (std::uint64_t round = 0; round < rounds; ++round) {
      CAPTURE(round);
      hawser::link link;
      {
        raw_sharer peer(at.listener.uri());
        link = at.accept();
        CHECK(peer.propose() == std::nullopt);
        peer.move();
        for (const auto kind : kinds) {
          hawser::start(at.runtime, send_until_lost(link, kind));
          hawser::start(at.runtime, take_until_lost(link, kind));
        }
        peer.put(test::data_frame({1}, test::bytes_of("as it should be")));
        std::mt19937_64 dice(test::seed() + round);
        const auto below = [&](std::uint64_t limit) {
          return static_cast<std::size_t>(limit == 0 ? dice() : dice() % limit);
        };
        for (unsigned i = 0; i < steps; ++i) {
          test::next_rewrite(below, page).apply(peer.segment);
          peer.wake();
        }
      }
      const errc why = end_of(at, link);
      const bool named = why == errc::protocol_violation || why == errc::link_lost ||
                         why == errc::too_large || why == errc::limit_reached;
      CHECK(named);
      violations += why == errc::protocol_violation ? 1 : 0;
      link = {};
    }

    CHECK(violations >= rounds / 4);
    at.exchange();
    test::wait_until(at.runtime, [&] { return test::segment_mappings() == mapped; });
    test::wait_until(at.runtime, [&] { return test::open_descriptors() == descriptors; });
  }

  TEST_CASE("each side has said how it is woken before the other may ask") {
    host at;
    const bool barriers = platform::join_barriers();
    for (int i = 0; i < 20; ++i) {
      raw_sharer peer(at.listener.uri());
      const auto link = at.accept();
      CHECK(peer.propose() == std::nullopt);
      const auto& said = peer.segment.state_of(shm::side::server);
      CHECK((said.has_barriers.load() == 1) == barriers);
    }
  }

  // Method: the socket of the segment ends first, which a peer that dies cannot choose.
  TEST_CASE("what a dead peer had said before it moved arrives, and then what it had committed") {
    host at;
    raw_sharer peer(at.listener.uri());
    const auto link = at.accept();
    CHECK(peer.propose() == std::nullopt);
    peer.offering.close();
    for (int i = 0; i < 20; ++i) {  // until it was noticed
      peer.link.socket.send(test::data_frame({1}, test::bytes_of("early")));
      const auto early = hawser::run(at.runtime, [&] { return link.rpc().recv(); });
      CHECK(early->text() == "early");
    }

    std::optional<shm::ring_writer<>> writer(peer.segment.writer(0, shm::side::client));
    for (int i = 1; i < 20; ++i) {
      const auto frame = test::data_frame({1}, test::bytes_of("number " + std::to_string(i)));
      const std::size_t place = writer->claim(frame.size());
      std::memcpy(writer->memory().at(place), frame.data(), frame.size());
      writer->commit(frame.size());
      writer->publish();
    }
    peer.link.socket.send(wire::encode_moved(0, wire::shared_main, 1, 1));
    peer.link.socket.close();
    CHECK(end_of(at, link) == errc::link_lost);
    hawser::sync_wait(at.runtime, [](hawser::link of) -> task<void> {
      for (int i = 1; i < 20; ++i) {
        const auto message = co_await of.rpc().recv();
        CHECK(message->text() == "number " + std::to_string(i));
      }
    }(link));
  }

  TEST_CASE("frames from a ring are checked as those from a socket") {
    host at;
    raw_sharer peer(at.listener.uri());
    const auto link = at.accept();
    CHECK(peer.propose() == std::nullopt);
    peer.move();
    peer.put(test::data_frame({1}, test::bytes_of("fine")));
    peer.put(wire::encode_end(1, 0, 0));  // fewer than there were
    CHECK(end_of(at, link) == errc::protocol_violation);
    const auto close = peer.next(wire::kind::close);
    REQUIRE(close.has_value());
  }

  TEST_CASE("nothing may come over the socket once everything has moved") {
    host at;
    raw_sharer peer(at.listener.uri());
    const auto link = at.accept();
    CHECK(peer.propose() == std::nullopt);
    peer.move();
    peer.link.socket.send(test::data_frame({1}, test::bytes_of("late")));
    CHECK(end_of(at, link) == errc::protocol_violation);
  }

  TEST_CASE("a second segment is refused") {
    host at;
    raw_sharer peer(at.listener.uri());
    const auto link = at.accept();
    CHECK(peer.propose() == std::nullopt);
    const test::raw_socket first =
        std::exchange(peer.offering, test::raw_socket(at.listener.uri()));
    CHECK(peer.propose() == errc::refused);
  }

  TEST_CASE("MOVED to shared memory that is not shared is a violation") {
    host at;
    test::raw_link peer(at.listener.uri());
    const auto link = at.accept();
    peer.socket.send(wire::encode_moved(0, wire::shared_main, 1, 1));
    CHECK(end_of(at, link) == errc::protocol_violation);
  }
}
