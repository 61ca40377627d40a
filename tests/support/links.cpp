// SPDX-License-Identifier: Apache-2.0
#include "support/links.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <tuple>
#include <utility>

namespace test {
namespace {

constexpr auto poll_step = std::chrono::milliseconds(1);

hawser::task<hawser::channel_counts> count(hawser::link link, hawser::priority kind) {
  co_await link.opened();
  co_return link.at(kind).counts();
}

hawser::task<void> poll(const std::function<bool()>& reached) {
  while (!reached()) co_await hawser::this_task::sleep_for(poll_step);
}

std::byte pattern_byte(std::uint64_t number, std::size_t at) noexcept {
  return static_cast<std::byte>((number * 131 + at * 7 + (at >> 8)) & 0xff);
}

}  // namespace

std::string name_of(transport which) {
  static constexpr std::array names{"tcp", "unix", "inproc", "shm"};
  return names[static_cast<std::size_t>(which)];
}

std::string address_of(transport which, const folder& where) {
  static std::atomic<unsigned> number{0};
  const auto own = std::to_string(number.fetch_add(1, std::memory_order_relaxed));
  switch (which) {
    case transport::tcp:
      return "tcp://127.0.0.1:0";
    case transport::unix_socket:
      return "unix:" + (where / (own + ".sock")) + "?share_memory=0";
    case transport::inproc:
      return "inproc:" + own;
    case transport::shared_memory:
      return "shm:" + (where / (own + ".sock"));
  }
  return {};
}

std::string with_option(std::string uri, std::string_view option) {
  uri += uri.find('?') == std::string::npos ? '?' : '&';
  return uri.append(option);
}

hawser::executor_config config(unsigned threads, log_book& log) {
  auto chosen = config(threads);
  chosen.log = log.sink();
  return chosen;
}

linked::linked(transport over, const habits& chosen, std::chrono::seconds limit, const char* file,
               int line)
    : guard(limit, file, line),
      how(chosen),
      runtime(config(chosen.threads, log)),
      listener(hawser::listen(runtime, address_of(over, place), chosen.server)) {
  connect(client, server);
}

void linked::connect(hawser::link& connected, hawser::link& accepted) {
  hawser::sync_wait(runtime, join(listener, listener.uri(), how.client, connected, accepted));
}

hawser::task<void> join(hawser::listener& from, std::string uri, hawser::link_options options,
                        hawser::link& connected, hawser::link& accepted) {
  auto both = co_await hawser::when_all(hawser::connect(std::move(uri), options), from.accept());
  connected = std::get<0>(std::move(both));
  accepted = std::get<1>(std::move(both));
}

hawser::task<hawser::message> next(hawser::channel& from) {
  auto got = co_await from.recv();
  if (!got.has_value()) hawser::failure(hawser::errc::closed, "no message").raise();
  co_return std::move(*got);
}

hawser::task<void> ask(hawser::link from, hawser::link to) {
  co_await from.control().send("question");
  const auto question = co_await next(to.control());
  co_await to.control().send("answer");
  const auto answer = co_await next(from.control());
}

hawser::task<void> settle(linked& ends) {
  for (int i = 0; i < 3; ++i) {
    for (const auto& [from, to] :
         {std::pair(ends.client, ends.server), std::pair(ends.server, ends.client)}) {
      co_await from.rpc().send("there");
      const auto there = co_await next(to.rpc());
      CHECK(there.text() == "there");
    }
  }
}

hawser::channel_counts counts_of(hawser::runtime& where, const hawser::link& link,
                                 hawser::priority kind) {
  return hawser::sync_wait(where, count(link, kind));
}

void wait_until(hawser::runtime& where, const std::function<bool()>& reached) {
  hawser::sync_wait(where, poll(reached));
}

bool has_event(const log_book& log, std::string_view area,
               std::initializer_list<std::string_view> texts) {
  const auto all = log.entries();
  return std::any_of(all.begin(), all.end(), [&](const log_book::entry& each) {
    return each.area == area && std::all_of(texts.begin(), texts.end(), [&](auto text) {
             return each.text.find(text) != std::string::npos;
           });
  });
}

hawser::result<void> outcome_of(const std::function<void()>& action) {
  try {
    action();
    return {};
  } catch (const std::system_error& error) {
    return hawser::failure(error);
  }
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

hawser::buffer make_pattern(std::uint64_t number, std::size_t bytes) {
  hawser::buffer made(bytes);
  for (std::size_t i = 0; i < bytes; ++i) made.data()[i] = pattern_byte(number, i);
  return made;
}

bool is_pattern(const hawser::message& message, std::uint64_t number, std::size_t bytes) {
  if (message.size() != bytes) return false;
  const auto all = message.bytes();
  for (std::size_t i = 0; i < bytes; ++i) {
    if (all[i] != pattern_byte(number, i)) return false;
  }
  return true;
}

}  // namespace test
