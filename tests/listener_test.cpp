// SPDX-License-Identifier: Apache-2.0
// listen, accept and connect: where links come from and why they do not.
#include "hawser/link.hpp"

#include <doctest/doctest.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/hawser.hpp"
#include "support/environment.hpp"
#include "support/links.hpp"
#include "support/raw_socket.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::task;
using test::linked;
using test::transport;

constexpr unsigned nobody = 65534;

// A runtime with a log and a folder.
struct ground {
  explicit ground(unsigned threads = 1, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE())
      : guard(60s, file, line), runtime(test::config(threads, log)) {}

  [[nodiscard]] hawser::failure connect_fault(const std::string& uri,
                                              hawser::link_options options = {}) {
    const auto done = test::outcome_of(
        [&] { hawser::sync_wait(runtime, hawser::connect(uri, options)); });
    return done.has_value() ? hawser::failure(errc::closed, "connected") : done.error();
  }
  [[nodiscard]] hawser::failure listen_fault(const std::string& uri,
                                             hawser::listen_options options = {}) {
    const auto done =
        test::outcome_of([&] { const auto unused = hawser::listen(runtime, uri, options); });
    return done.has_value() ? hawser::failure(errc::closed, "listens") : done.error();
  }
  void join(hawser::listener& at, hawser::link& client, hawser::link& server,
            const std::string& uri) {
    hawser::run(runtime, [&]() -> task<void> {
      auto both = co_await hawser::when_all(hawser::connect(uri), at.accept());
      client = std::get<0>(std::move(both));
      server = std::get<1>(std::move(both));
    });
  }

  test::watchdog guard;
  test::log_book log;
  test::folder place;
  hawser::runtime runtime;
};

void expect_fault(const hawser::failure& fault, errc code, std::string_view text) {
  CAPTURE(fault.text());
  CHECK(fault.code() == code);
  CHECK(fault.text().find(text) != std::string::npos);
}

mode_t mode_of(const std::string& path) {
  struct stat found {};
  return ::lstat(path.c_str(), &found) == 0 ? found.st_mode & 07777 : 0;
}

// A socket file that nobody listens on.
void leave_stale_socket(const std::string& path) {
  test::raw_listener gone(path);
}

// What a process of another user reads from the socket: bytes, or -errno.
int read_as_stranger(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(nobody) != 0 || ::setuid(nobody) != 0) ::_exit(100);
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::connect(socket, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0) {
      ::_exit(101);
    }
    char byte = 0;
    ::_exit(static_cast<int>(::read(socket, &byte, 1)) == 0 ? 0 : 102);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_SUITE("listener") {
  TEST_CASE("a listener says where it really listens") {
    ground here;
    const auto tcp = hawser::listen(here.runtime, "tcp://:0");
    CHECK(tcp.uri().starts_with("tcp://127.0.0.1:"));
    CHECK(tcp.uri() != "tcp://127.0.0.1:0");
    const auto file = hawser::listen(here.runtime, "unix:" + here.place / "a b");
    CHECK(file.uri() == "unix:" + here.place / "a%20b");
    auto name = hawser::listen(here.runtime, "inproc:name");
    CHECK(name.uri() == "inproc:name");
    name = hawser::listen(here.runtime, "inproc:other");
    CHECK(name.uri() == "inproc:other");
    expect_fault(here.connect_fault("inproc:name"), errc::unreachable, "nobody listens");
  }

  TEST_CASE("names are resolved, and every address of a name is tried") {
    ground here;
    auto listener = hawser::listen(here.runtime, "tcp://127.0.0.1:0");
    const auto port = listener.uri().substr(listener.uri().rfind(':'));
    hawser::link client, server;
    here.join(listener, client, server, "tcp://localhost" + port);
    CHECK(client.peer() == "tcp://127.0.0.1" + port);
    CHECK(server.peer().starts_with("tcp://127.0.0.1:"));
    CHECK(here.connect_fault("tcp://no.such.host.invalid:1").code() != errc::closed);
    CHECK(here.connect_fault("tcp://no.such.host.invalid:1").text().find("no.such.host.invalid") !=
          std::string::npos);
  }

  TEST_CASE("connect says why there is no link, and where") {
    ground here;
    std::string port;
    {
      const auto gone = hawser::listen(here.runtime, "tcp://127.0.0.1:0");
      port = gone.uri();
    }
    test::wait_until(here.runtime, [&] {
      return here.runtime.stats().workers.size() == 1 && test::outcome_of([&] {
        const test::raw_socket probe(port);
      }).has_value() == false;
    });
    expect_fault(here.connect_fault(port), errc::unreachable, port);
    const auto file = [&](const std::string& name) { return here.place / name; };
    expect_fault(here.connect_fault("unix:" + file("none")), errc::unreachable, "no such file");
    std::ofstream(file("plain")) << "text";
    expect_fault(here.connect_fault("unix:" + file("plain")), errc::unauthorized, "not a socket");
    const auto live = hawser::listen(here.runtime, "unix:" + file("live"));
    std::filesystem::create_symlink(file("live"), file("symbolic"));
    expect_fault(here.connect_fault("unix:" + file("symbolic")), errc::unauthorized,
                 "not a socket");
    leave_stale_socket(file("stale"));
    expect_fault(here.connect_fault("unix:" + file("stale")), errc::unreachable, "stale");
    expect_fault(here.connect_fault("unix:" + std::string(200, 'x')), errc::unreachable, "");
    expect_fault(here.connect_fault("inproc:nobody"), errc::unreachable, "nobody listens");
    expect_fault(here.connect_fault("somewhere"), errc::bad_uri, "somewhere");
    expect_fault(here.connect_fault("tcp://h:1?channels=3"), errc::bad_config, "channels is 3");
    if (::geteuid() != 0) return test::skip("only root can give a file away");
    REQUIRE(::chown(file("live").c_str(), nobody, nobody) == 0);
    expect_fault(here.connect_fault("unix:" + file("live")), errc::unauthorized, "another user");
    expect_fault(here.listen_fault("unix:" + file("live")), errc::unauthorized, "another user");
  }

  TEST_CASE("connect gives up on a peer that accepts and says nothing") {
    ground here;
    const test::raw_listener mute, mute_file(here.place / "mute");
    for (const auto* const each : {&mute, &mute_file}) {
      const auto start = hawser::clock::now();
      expect_fault(here.connect_fault(each->uri(), {.handshake_timeout = 50ms}), errc::timed_out,
                   each->uri());
      CHECK(hawser::clock::now() - start >= 50ms);
    }
    test::wait_until(here.runtime, [&] { return here.runtime.stats().open_links == 0; });
  }

  TEST_CASE("connect hands on what the peer says") {
    ground here;
    test::raw_listener fake;
    const auto against = [&](const test::bytes& answer) {
      std::thread peer([&] {
        auto socket = fake.accept();
        static_cast<void>(socket.next(hawser::wire::kind::hello));
        socket.send(answer);
      });
      auto fault = here.connect_fault(fake.uri());
      peer.join();
      return fault;
    };
    namespace wire = hawser::wire;
    expect_fault(against(wire::encode(wire::refusal{errc::limit_reached, "full"})),
                 errc::limit_reached, "full");
    expect_fault(against(wire::encode(wire::refusal{errc::unsupported, "old"})), errc::unsupported,
                 fake.uri());
    expect_fault(against({}), errc::refused, "hung up during the handshake");
    CHECK(against(test::bytes_of("HTTP/1.1 400 Bad Request\r\n\r\n")).code() != errc::closed);
    wire::welcome odd;
    odd.version = 9;
    expect_fault(against(wire::encode(odd)), errc::unsupported, "version 9");
    odd.version = 1;
    expect_fault(against(wire::encode(odd)), errc::protocol_violation, "another link");
  }

  TEST_CASE("an early link sends before it is welcomed, and learns of a refusal afterwards") {
    ground here;
    test::raw_listener fake;
    namespace wire = hawser::wire;
    std::thread peer([&] {
      auto socket = fake.accept();
      static_cast<void>(socket.next(wire::kind::hello));
      static_cast<void>(socket.next(wire::kind::data));  // the answer comes after it
      socket.send(wire::encode(wire::refusal{errc::limit_reached, "full"}));
    });
    hawser::run(here.runtime, [&]() -> task<void> {
      const auto early = co_await hawser::connect(fake.uri(), {.early = true});
      co_await early.rpc().send("question");
      const auto opened = co_await hawser::as_result(early.opened());
      CHECK_FALSE(opened.has_value());
      if (!opened.has_value()) expect_fault(opened.error(), errc::limit_reached, "full");
      const auto answer = co_await hawser::as_result(early.rpc().recv());
      CHECK_FALSE(answer.has_value());
      if (!answer.has_value()) expect_fault(answer.error(), errc::link_lost, "full");
      const auto end = co_await early.ended();
      CHECK(end.code() == errc::limit_reached);
    });
    peer.join();
  }

  TEST_CASE("what an early link has accepted arrives, also if it is closed at once") {
    for (const auto over : test::transports) {
      CAPTURE(test::name_of(over));
      linked ends(over);
      hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
        const auto ask = [](std::string uri) -> task<void> {
          const auto early = co_await hawser::connect(uri, {.early = true});
          co_await early.control().send("first");
          co_await early.rpc().send("second");
          co_await early.close();
        };
        all.spawn(ask(ends.listener.uri()));
        const auto accepted = co_await ends.listener.accept();
        const auto first = co_await accepted.control().recv();
        const auto second = co_await accepted.rpc().recv();
        CHECK((first.has_value() && first->text() == "first"));
        CHECK((second.has_value() && second->text() == "second"));
        const auto end = co_await accepted.rpc().recv();
        CHECK_FALSE(end.has_value());
      });
    }
  }

  TEST_CASE("a link that was not asked to be early is open at once") {
    linked ends(transport::tcp);
    hawser::run(ends.runtime, [&]() -> task<void> {
      co_await ends.client.opened();
      co_await ends.server.opened();
    });
  }

  TEST_CASE("an address in use is refused, and free again when its listener is gone") {
    ground here;
    const auto tcp = hawser::listen(here.runtime, "tcp://127.0.0.1:0");
    expect_fault(here.listen_fault(tcp.uri()), errc::address_in_use, tcp.uri().substr(6));
    for (const std::string& uri : {"unix:" + here.place / "s", std::string("inproc:s")}) {
      for (int round = 0; round < 20; ++round) {
        auto first = hawser::listen(here.runtime, uri);
        if (round == 0) {
          expect_fault(here.listen_fault(uri), errc::address_in_use, uri.substr(uri.find(':') + 1));
        }
        hawser::link client, server;
        here.join(first, client, server, uri);
      }
    }
    CHECK_FALSE(std::filesystem::exists(here.place / "s"));
  }

  TEST_CASE("a stale socket file is replaced, anything else is left alone") {
    ground here;
    const auto path = here.place / "s";
    leave_stale_socket(path);
    {
      auto listener = hawser::listen(here.runtime, "unix:" + path);
      CHECK(mode_of(path) == 0600);
      hawser::link client, server;
      here.join(listener, client, server, listener.uri());
      CHECK(client.peer() == "unix:" + path);
    }
    CHECK_FALSE(std::filesystem::exists(path));
    std::ofstream(path) << "text";
    expect_fault(here.listen_fault("unix:" + path), errc::unauthorized, path);
    CHECK(std::filesystem::file_size(path) == 4);
    std::filesystem::create_symlink(here.place / "target", here.place / "link");
    expect_fault(here.listen_fault("unix:" + here.place / "link"), errc::unauthorized, "link");
    CHECK(here.listen_fault("unix:" + here.place / "no/folder").code() ==
          std::errc::no_such_file_or_directory);
    expect_fault(here.listen_fault("unix:/" + std::string(200, 'x')), errc::bad_uri, "");
  }

  TEST_CASE("options of a listener are checked") {
    ground here;
    expect_fault(here.listen_fault("tcp://:0", {.max_links = 0}), errc::bad_config,
                 "listen_options::max_links is 0, accepted are 1 to 1000000");
    expect_fault(here.listen_fault("tcp://:0", {.max_links_per_user = 2'000'000}),
                 errc::bad_config, "max_links_per_user is 2000000");
    expect_fault(here.listen_fault("tcp://:0", {.backlog = 70'000}), errc::bad_config,
                 "backlog is 70000");
    expect_fault(here.listen_fault("tcp://:0", {.link = {.queue_bytes = 1}}), errc::bad_config,
                 "queue_bytes is 1");
    expect_fault(here.listen_fault("nowhere"), errc::bad_uri, "nowhere");
  }

  TEST_CASE("peers of other users are turned away before their first byte") {
    if (::geteuid() != 0) return test::skip("only root can become another user");
    ground here;
    REQUIRE(::chmod(here.place.path().c_str(), 0755) == 0);
    const auto path = here.place / "s";
    {
      auto listener = hawser::listen(here.runtime, "unix:" + path);
      CHECK(read_as_stranger(path) == 101);  // the mode of the file
      REQUIRE(::chmod(path.c_str(), 0666) == 0);
      CHECK(read_as_stranger(path) == 0);
      CHECK(test::has_event(here.log, "listener", {"turned away", "uid 65534"}));
    }
    auto open = hawser::listen(here.runtime, "unix:" + path, {.any_user = true});
    CHECK(mode_of(path) == 0666);
  }

  TEST_CASE("the newcomer above max_links is refused, and may come when another has gone") {
    for (const auto over : test::transports) {
      for (const bool per_user : {false, true}) {
        if (per_user && over == transport::tcp) continue;
        test::habits how;
        (per_user ? how.server.max_links_per_user : how.server.max_links) = 2;
        linked ends(over, how);
        hawser::link client, server, late, later;
        ends.connect(client, server);
        const auto refused = test::outcome_of([&] {
          hawser::sync_wait(ends.runtime, hawser::connect(ends.listener.uri()));
        });
        CHECK(refused.error().code() == errc::limit_reached);
        CHECK(test::has_event(ends.log, "listener", {"refused", "too many links"}));
        hawser::run(ends.runtime, [&] { return client.close(); });
        test::wait_until(ends.runtime, [&] { return server.sockets() == 0; });
        ends.connect(late, later);
        CHECK(late.sockets() == 1);
      }
    }
  }

  TEST_CASE("accept fails once the listener is closed, and links live on") {
    for (const auto over : test::transports) {
      linked ends(over, {.threads = 2});
      const auto closed = test::outcome_of([&] {
        hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
          auto own = std::make_shared<hawser::listener>(std::move(ends.listener));
          all.spawn([](task<hawser::link> accept) -> task<void> {
            const auto link = co_await std::move(accept);
            CHECK(!link);
          }(own->accept()));
          co_await hawser::this_task::sleep_for(1ms);
          own.reset();
        });
      });
      CHECK(closed.error().code() == errc::closed);
      hawser::run(ends.runtime, [&]() -> task<void> {
        co_await ends.client.control().send("still");
        const auto still = co_await ends.server.control().recv();
        CHECK(still->text() == "still");
      });
    }
  }

  TEST_CASE("links that nobody accepted close in order with their listener") {
    linked ends(transport::unix_socket);
    auto waiting = hawser::sync_wait(ends.runtime, hawser::connect(ends.listener.uri()));
    {
      const auto gone = std::move(ends.listener);
    }
    const auto why = hawser::run(ends.runtime, [&] { return waiting.ended(); });
    CHECK(why.code() == errc::closed);
  }

  TEST_CASE("several tasks may accept at once") {
    linked ends(transport::tcp, {.threads = 2});
    std::vector<hawser::link> accepted;
    std::vector<hawser::link> connected;
    hawser::run(ends.runtime, [&](hawser::scope& all) -> task<void> {
      std::vector<task<hawser::link>> accepts, connects;
      for (int i = 0; i < 50; ++i) {
        accepts.push_back(ends.listener.accept());
        connects.push_back(hawser::connect(ends.listener.uri()));
      }
      all.spawn([](std::vector<task<hawser::link>> from,
                   std::vector<hawser::link>& to) -> task<void> {
        to = co_await hawser::when_all(std::move(from));
      }(std::move(accepts), accepted));
      connected = co_await hawser::when_all(std::move(connects));
    });
    CHECK(accepted.size() == 50);
    CHECK(connected.size() == 50);
    CHECK(ends.runtime.stats().open_links == 102);
  }
}
