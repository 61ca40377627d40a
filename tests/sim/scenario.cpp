// SPDX-License-Identifier: Apache-2.0
#include "sim/scenario.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "hawser/driven_runtime.hpp"
#include "hawser/hawser.hpp"
#include "link/link_core.hpp"
#include "sim/world.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::lane;
using hawser::task;
using sim::world;

constexpr std::size_t channels = hawser::priority_count;

// What one end of a link sends on one lane, and what the other end sees of it.
struct lane_record {
  std::uint64_t accepted = 0;
  std::uint64_t sending = 1;   // perhaps accepted, and not yet told
  std::uint64_t received = 0;  // each counted once
  std::uint64_t next = 0;      // the number behind the highest that was received
  std::uint64_t repeated = 0;
  std::set<std::uint64_t> seen;
  std::map<std::uint64_t, std::uint64_t> next_in;  // by session
};

// One end's view of a link.
struct end_record {
  std::array<std::array<lane_record, 2>, channels> lanes;  // what this end sends
  bool in_order = false;  // close() has said so
  std::array<std::uint64_t, channels> lost{};    // as this end's counts say in the end
  std::array<std::uint64_t, channels> missed{};
  std::array<std::uint64_t, channels> consumed{};
};

struct link_record {
  unsigned host = 0;               // of the client
  std::array<end_record, 2> ends;  // client, server
  unsigned sessions = 0;           // in which servers have received something
  unsigned begun_anew = 0;         // sessions behind the first, as the client was told
};

constexpr std::size_t unknown = ~std::size_t{0};

// What the tasks of one end of a link share.
struct end_state {
  std::size_t number = unknown;  // of the link
  bool told = false;             // a server: by the first message, which link it is
  unsigned session = 0;          // of a server
  unsigned ended = 0;            // channels on which a client waits for nothing more
};

// The start of every message; the rest is a pattern that follows from the number.
struct prefix {
  std::uint64_t link;
  std::uint64_t number;
  std::uint32_t from;  // 0: the client
  std::uint32_t way;   // channel * 2 + lane
  std::uint64_t session;  // of the server that sent it; zero: a client has
};

class broken_promise : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

struct plan {
  unsigned clients = 1;
  unsigned links_each = 1;
  unsigned messages = 20;     // on each channel of each end
  std::size_t size_max = 3000;
  bool pauses = true;
  bool cancels = true;
  bool faults = true;
  bool closes_early = true;
  bool dawdles = false;       // receivers are slower than senders
  bool in_batches = false;
  hawser::link_options options;
  sim::habits network;
};

plan make_plan(test::dice& dice) {
  plan made;
  made.clients = static_cast<unsigned>(dice.between(1, 3));
  made.links_each = static_cast<unsigned>(dice.between(1, 3));
  made.messages = static_cast<unsigned>(dice.between(1, 40));
  made.size_max = dice.one_in(4) ? 200'000 : std::size_t{1} << dice.between(5, 13);
  made.pauses = !dice.one_in(3);
  made.cancels = !dice.one_in(3);
  made.faults = !dice.one_in(3);
  made.closes_early = dice.one_in(2);
  made.dawdles = dice.one_in(3);
  made.in_batches = dice.one_in(3);
  for (std::size_t i = 0; i < channels; ++i) {
    made.options.window_bytes[i] = std::size_t{1} << (dice.one_in(2) ? 16 : dice.between(16, 20));
    made.options.max_message_bytes[i] = 1 << 20;
  }
  made.options.urgent_window_bytes = dice.between(4096, 8192);
  made.options.queue_bytes = std::size_t{1} << dice.between(16, 20);
  made.options.reassembly_bytes = std::size_t{1} << dice.between(20, 22);
  made.options.channels = dice.one_in(2) ? 1 : 4;
  made.options.share_memory = dice.one_in(2);
  for (auto& each : made.options.ring_bytes) each = std::size_t{1} << dice.between(12, 18);
  made.options.arena_bytes = dice.one_in(4) ? 0 : std::size_t{1} << dice.between(18, 20);
  made.options.lend_from_bytes = std::size_t{1} << dice.between(12, 16);
  made.options.early = dice.one_in(4);
  made.options.handshake_timeout = 2s;
  made.options.close_timeout = 60s;  // what is under way on a slow network still has to pass
  if (dice.one_in(2)) {
    made.options.survive = 20s;
    made.options.backoff = 100ms;
    made.options.backoff_most = 1s;
    for (bool& each : made.options.resend) each = dice.one_in(2);
  }
  made.options.keepalive = 1s;
  made.options.keepalive_timeout = 1s;
  made.network.latency_max = std::chrono::microseconds(dice.one_in(3) ? 20'000 : 300);
  made.network.flow_bytes = std::size_t{1} << dice.between(9, 18);
  made.network.read_max = dice.one_in(4) ? dice.between(1, 100) : 64 << 10;
  if (made.network.read_max < 1000 || made.network.flow_bytes < 4096) {  // bytes crawl
    made.clients = 1;
    made.messages = std::min(made.messages, 6U);
    made.size_max = std::min<std::size_t>(made.size_max, 500);
  }
  if (made.size_max > 10'000) made.messages = std::min(made.messages, 10U);
  return made;
}

class scenario {
 public:
  explicit scenario(std::uint64_t seed, bool traced)
      : dice_(seed), plan_(make_plan(dice_)), world_(seed + 1, plan_.network) {
    if (traced) world_.keep_trace();
  }

  void run() {
    boot_server();
    for (unsigned i = 0; i < plan_.clients; ++i) {
      const unsigned host = boot();
      clients_.push_back(host);
      for (unsigned each = 0; each < plan_.links_each; ++each) {
        links_.push_back(std::make_unique<link_record>());
        links_.back()->host = host;
        ++running_;
        hawser::start(world_.runtime(host), use_link(links_.size() - 1));
      }
    }
    if (plan_.faults) arrange_faults();
    const auto done = [&] {
      check_all_sound();
      return broken_ || (running_ == 0 && served_ == 0);
    };
    const bool ended = world_.run_until(done, test::simulated_start() + 10min);
    if (broken_) throw *broken_;
    if (!ended) {
      world_.note_all();
      throw broken_promise(std::to_string(running_) + " clients and " + std::to_string(served_) +
                           " links of the server do not end");
    }
    finish();
  }
  [[nodiscard]] const std::vector<std::string>& trace() const { return world_.trace(); }

 private:
  // ---- hosts and faults -----------------------------------------------------------------------
  unsigned boot() {
    hawser::executor_config config;
    config.shutdown_deadline = 1s;
    return world_.boot(config);
  }

  void boot_server() {
    server_ = boot();
    hawser::listen_options options;
    options.link = plan_.options;
    hawser::start(world_.runtime(server_),
                  serve(hawser::listen(world_.runtime(server_), "unix:/sim/server", options)));
  }

  void arrange_faults() {
    const auto begin = world_.now();
    const auto count = dice_.between(1, 6);
    for (std::uint64_t i = 0; i < count; ++i) {
      world_.at(begin + std::chrono::microseconds(dice_.below(200'000)), [this] { do_harm(); });
    }
    world_.at(begin + 10s, [this] {
      world_.heal_all();
      world_.relieve_all();
    });
  }

  void do_harm() {
    const unsigned client = clients_[dice_.below(clients_.size())];
    switch (dice_.below(7)) {
      case 0:
      case 1:
        return world_.reset_some_connection();
      case 2:
        return world_.part(client, server_);
      case 3:
        return world_.heal_all();
      case 4:
        if (world_.is_up(client)) world_.crash(client, dice_.one_in(2));
        return;
      case 5:
        return world_.exhaust(dice_.one_in(2) ? client : server_);
      default:
        if (!world_.is_up(server_)) return;
        ++server_deaths_;
        if (dice_.one_in(2)) {
          world_.crash(server_, dice_.one_in(2));
        } else {
          world_.shut_down(server_);
        }
        world_.at(world_.now() + 50ms, [this] { boot_server(); });
    }
  }

  // ---- the client -----------------------------------------------------------------------------
  task<void> use_link(std::size_t number) {
    for (unsigned attempt = 0; attempt < 3; ++attempt) {
      auto made = co_await hawser::as_result(
          hawser::connect("unix:/sim/server", plan_.options));
      if (made.has_value()) {
        co_await use(std::move(*made), number);
        break;
      }
      if (made.error().code() == errc::cancelled) break;
      const auto slept = co_await hawser::as_result(hawser::this_task::sleep_for(100ms));
      if (!slept.has_value()) break;
    }
    --running_;
  }

  task<void> use(hawser::link link, std::size_t number) {
    co_await hawser::when_all(talk(link, number), watch(link, number));
  }

  // Status by status; none is missed that lasts.
  task<void> watch(hawser::link link, std::size_t number) {
    using condition = hawser::link::condition;
    hawser::link::status known;
    while (known.now != condition::ended) {
      const auto next = co_await hawser::as_result(link.changed(known));
      if (!next.has_value()) co_return;
      if (*next == known) fail("a status that has not changed");
      if (next->connections < known.connections) fail("fewer connections than before");
      if (next->connections > 1 && next->now == condition::open && !next->resumed) {
        ++links_[number]->begun_anew;
      }
      known = *next;
      constexpr std::array names{"opening", "open", "offline", "ended"};
      world_.note("link " + std::to_string(number) + " is " +
                  names[static_cast<std::size_t>(known.now)] + (known.resumed ? ", resumed" : ""));
    }
  }

  // Looked at while it lives; of a host that crashed it lives for ever.
  struct looked_at {
    looked_at(scenario& by, const hawser::link& link) : all(by.looked_at_), core(link.core()) {
      all.push_back(core);
    }
    ~looked_at() { std::erase(all, core); }
    looked_at(const looked_at&) = delete;
    looked_at& operator=(const looked_at&) = delete;

    std::vector<hawser::detail::link_core*>& all;
    hawser::detail::link_core* core;
  };

  task<void> talk(hawser::link link, std::size_t number) {
    const hawser::link own = link;
    const looked_at looks(*this, own);
    end_record& mine = links_[number]->ends[0];
    end_state state{.number = number};
    co_await hawser::with_scope(run_end, this, own, &state, 0U);
    co_await be_online(own);
    check_credit(own, number);
    const auto closed = co_await hawser::as_result(own.close());
    mine.in_order = closed.has_value();
    const auto why = co_await hawser::as_result(own.ended());
    if (why.has_value()) check_end(*why, number);
    check_counts(own, number, 0);
  }

  // Who closes while offline cannot do it in order.
  static task<void> be_online(hawser::link link) {
    using condition = hawser::link::condition;
    auto status = co_await hawser::as_result(link.changed());
    while (status.has_value() && status->now == condition::offline) {
      status = co_await hawser::as_result(link.changed(*status));
    }
  }

  // ---- the server -----------------------------------------------------------------------------
  task<void> serve(hawser::listener listener) {
    static_cast<void>(co_await hawser::as_result(
        hawser::with_scope(accept_all, this, std::move(listener))));
  }
  static task<void> accept_all(hawser::scope& inside, scenario* self, hawser::listener listener) {
    for (;;) {
      auto next = co_await hawser::as_result(listener.accept());
      if (!next.has_value()) co_return;
      inside.serve(self->serve_link(std::move(*next)));
    }
  }
  task<void> serve_link(hawser::link link) {
    const hawser::link own = link;
    const looked_at looks(*this, own);
    end_state state;
    ++served_;
    co_await hawser::with_scope(run_end, this, own, &state, 1U);
    static_cast<void>(co_await hawser::as_result(own.close()));
    const auto why = co_await hawser::as_result(own.ended());
    if (why.has_value() && state.number != unknown) {
      for (std::size_t i = 0; i < channels; ++i) {
        const auto counts = own.at(static_cast<hawser::priority>(i)).counts();
        links_[state.number]->ends[1].missed[i] = counts.missed;
        links_[state.number]->ends[1].lost[i] = counts.lost;
      }
    }
    --served_;
  }

  // ---- both ends ------------------------------------------------------------------------------

  static task<void> run_end(hawser::scope& inside, scenario* self, hawser::link link,
                            end_state* state, unsigned side) {
    for (std::size_t i = 0; i < channels; ++i) {
      if (side == 0) inside.spawn(self->send_all(link, state, side, i));
      inside.spawn(self->receive_all(link, state, side, i, &inside));
    }
    if (self->plan_.closes_early && self->dice_.one_in(2)) inside.spawn(self->close_early(link));
    co_return;
  }

  task<void> close_early(hawser::link link) {
    const std::uint64_t longest = std::uint64_t{1} << dice_.between(9, 16);
    const auto slept = co_await hawser::as_result(
        hawser::this_task::sleep_for(std::chrono::microseconds(dice_.below(longest))));
    if (slept.has_value()) static_cast<void>(co_await hawser::as_result(link.close()));
  }

  task<bool> pause(std::uint64_t at_most_us = 3000) {
    if (!plan_.pauses || !dice_.one_in(4)) co_return true;
    const auto slept = co_await hawser::as_result(
        hawser::this_task::sleep_for(std::chrono::microseconds(dice_.below(at_most_us))));
    co_return slept.has_value();
  }

  // What an end sends next on a lane, if `ahead` others are accepted before it.
  hawser::buffer make_bytes(const end_state& state, unsigned side, std::size_t index, lane via,
                            std::uint64_t ahead) {
    const auto way = static_cast<std::uint32_t>(index * 2 + (via == lane::urgent ? 1 : 0));
    const lane_record& record = links_[state.number]->ends[side].lanes[index][way % 2];
    const std::size_t size =
        sizeof(prefix) + dice_.below(via == lane::urgent ? 2000 : plan_.size_max);
    hawser::buffer bytes(size);
    const prefix first{state.number, record.accepted + ahead, side, way, state.session};
    const auto rest = test::pattern(first.number, size - sizeof first);
    std::memcpy(bytes.bytes().data(), &first, sizeof first);
    std::ranges::copy(rest, bytes.bytes().subspan(sizeof first).begin());
    return bytes;
  }

  // Some at once. What was accepted of them if they fail only the channel knows. True: go on.
  task<bool> send_some(hawser::link link, const end_state& state, unsigned side,
                       std::size_t index, lane via) {
    hawser::channel& channel = link.at(static_cast<hawser::priority>(index));
    lane_record& record =
        links_[state.number]->ends[side].lanes[index][via == lane::urgent ? 1 : 0];
    std::vector<hawser::message> batch;
    for (std::uint64_t i = 0; i < 3; ++i) {
      batch.emplace_back(hawser::shared_buffer(make_bytes(state, side, index, via, i)));
    }
    const auto first = record.accepted;
    const auto before = channel.counts().accepted;  // of this session; nobody else sends here
    record.sending = batch.size();
    std::vector<std::span<const std::byte>> pieces;
    for (const auto& one : batch) pieces.emplace_back(one.bytes());
    // One way or the other, without a throw of the dice.
    auto sending =
        before % 2 == 0 ? channel.send_batch(batch, via) : channel.send_batch(pieces, via);
    const auto sent = co_await hawser::as_result(std::move(sending));
    record.sending = 1;
    record.accepted += channel.counts().accepted - before;
    if (sent.has_value() && record.accepted != first + batch.size()) fail("a batch in part");
    if (!sent.has_value()) co_return false;
    const auto flushed = co_await hawser::as_result(channel.flush());
    co_return flushed.has_value();
  }

  task<void> send_all(hawser::link link, end_state* state, unsigned side, std::size_t index) {
    hawser::channel& channel = link.at(static_cast<hawser::priority>(index));
    for (unsigned left = plan_.messages; left != 0; --left) {
      const bool awake = co_await pause();
      if (!awake) break;
      const auto via = dice_.one_in(4) ? lane::urgent : lane::normal;
      if (plan_.in_batches && dice_.one_in(3)) {
        const bool go_on = co_await send_some(link, *state, side, index, via);
        if (!go_on) break;
        continue;
      }
      lane_record& record =
          links_[state->number]->ends[side].lanes[index][via == lane::urgent ? 1 : 0];
      hawser::buffer bytes = make_bytes(*state, side, index, via, 0);
      if (dice_.one_in(4)) {
        auto lent = co_await hawser::as_result(channel.loan(bytes.size()));
        if (!lent.has_value()) break;
        std::ranges::copy(bytes.bytes(), lent->data());
        bytes = std::move(*lent);
      }
      std::optional<hawser::failure> failed;
      if (plan_.cancels && dice_.one_in(5)) {
        const auto limit = std::chrono::microseconds(dice_.below(2000));
        const auto sent = co_await hawser::as_result(
            hawser::timeout(limit, channel.send(std::move(bytes), via)));
        if (!sent.has_value()) failed = sent.error();
      } else {
        const auto sent = co_await hawser::as_result(channel.send(std::move(bytes), via));
        if (!sent.has_value()) failed = sent.error();
      }
      if (!failed) {
        ++record.accepted;
      } else if (failed->code() != errc::timed_out) {
        break;
      }
    }
    static_cast<void>(co_await hawser::as_result(channel.finish()));
  }

  // A channel that has ended begins anew with a new session at the server. False: none comes before
  // all channels of this end have ended.
  task<bool> begins_anew(hawser::link link, end_state* state) {
    const auto before = co_await hawser::as_result(link.changed());
    if (!before.has_value()) co_return false;
    hawser::link::status known = *before;
    ++state->ended;
    while (state->ended < channels && known.now != hawser::link::condition::ended) {
      const auto next = co_await hawser::as_result(hawser::timeout(20ms, link.changed(known)));
      if (!next.has_value() && next.error().code() != errc::timed_out) break;
      if (!next.has_value()) continue;
      known = *next;
      if (known.connections > before->connections && !known.resumed) {
        --state->ended;
        co_return true;
      }
    }
    co_return false;
  }

  task<void> receive_all(hawser::link link, end_state* state, unsigned side, std::size_t index,
                         hawser::scope* inside) {
    hawser::channel& channel = link.at(static_cast<hawser::priority>(index));
    std::deque<hawser::message> held;
    for (;;) {
      const bool awake = co_await pause(plan_.dawdles ? 100'000 : 3000);
      if (!awake) co_return;
      std::optional<hawser::message> message;
      std::optional<hawser::failure> failed;
      // What it holds keeps the sender's credit, so that it must not wait for ever.
      if (!held.empty() || (plan_.cancels && dice_.one_in(5))) {
        const auto limit = std::chrono::microseconds(dice_.below(2000));
        auto came = co_await hawser::as_result(hawser::timeout(limit, channel.recv()));
        if (came.has_value()) {
          message = std::move(*came);
        } else {
          failed = came.error();
        }
      } else {
        auto came = co_await hawser::as_result(channel.recv());
        if (came.has_value()) {
          message = std::move(*came);
        } else {
          failed = came.error();
        }
      }
      if (failed && failed->code() == errc::timed_out) {
        if (!held.empty()) held.pop_front();
        continue;
      }
      if (!failed && !message && side == 0 && plan_.options.survive > 0ms) {
        held.clear();
        const bool again = co_await begins_anew(link, state);
        if (again) continue;
      }
      if (failed || !message) co_return;
      if (!check(*message, state, side, index)) co_return;
      if (side == 1 && !std::exchange(state->told, true)) {
        // Now the server knows which link it is, and speaks as well.
        for (std::size_t i = 0; i < channels; ++i) {
          inside->spawn(send_all(link, state, side, i));
        }
      }
      held.push_back(std::move(*message));
      while (held.size() > 4 || (!held.empty() && dice_.one_in(2))) held.pop_front();
    }
  }

  // ---- promises -------------------------------------------------------------------------------
  bool fail(const std::string& what) {
    world_.note("BROKEN: " + what);
    if (!broken_) broken_ = broken_promise(what);
    return false;
  }

  // Within a session numbers only grow. A link that survives may lose messages when a connection
  // breaks, but of a lane that resends; only such a lane may repeat some, in another session. What
  // an earlier session has left may be taken late.
  bool take_note(lane_record& record, const prefix& first, unsigned side) {
    const bool survives = plan_.options.survive > 0ms && plan_.faults;
    const bool resends = survives && plan_.options.resend[first.way / 2];
    const auto [session, is_first] = record.next_in.try_emplace(first.session, 0);
    // What a server that died had accepted died with it.
    const bool anew = is_first && first.session > 1;
    const std::uint64_t expected = anew ? record.next : session->second;
    const bool may_skip = survives && (!resends || (anew && side == 0));
    const bool is_back = first.number < (anew ? 0 : session->second);
    const bool is_known = !record.seen.insert(first.number).second;
    if (is_back || (first.number > expected && !may_skip) || (is_known && !resends)) {
      return fail("link " + std::to_string(first.link) + " side " + std::to_string(side) +
                  " way " + std::to_string(first.way) + ": message " +
                  std::to_string(first.number) + " in the place of " + std::to_string(expected));
    }
    session->second = first.number + 1;
    record.next = std::max(record.next, first.number + 1);
    ++(is_known ? record.repeated : record.received);
    return true;
  }

  bool check(const hawser::message& message, end_state* state, unsigned side,
             std::size_t index) {
    prefix first{};
    const auto bytes = message.bytes();
    if (bytes.size() < sizeof first) return fail("a message is too short");
    std::memcpy(&first, bytes.data(), sizeof first);
    if (state->number == unknown) state->number = static_cast<std::size_t>(first.link);
    if (side == 1 && state->session == 0) state->session = ++links_[state->number]->sessions;
    if (side == 1) first.session = state->session;
    const std::string where = "link " + std::to_string(first.link) + " side " +
                              std::to_string(side) + " way " + std::to_string(first.way);
    if (first.link != state->number || first.from != 1 - side || first.way / 2 != index) {
      return fail(where + ": a message of another link, side or channel");
    }
    lane_record& record = links_[state->number]->ends[first.from].lanes[index][first.way % 2];
    if (!take_note(record, first, side)) return false;
    // Its send may not have been resumed yet.
    if (record.next > record.accepted + record.sending) return fail(where + ": never sent");
    const auto expected = test::pattern(first.number, bytes.size() - sizeof first);
    if (!std::ranges::equal(expected, bytes.subspan(sizeof first))) {
      return fail(where + ": other bytes than were sent");
    }
    return true;
  }

  // At every step: no side has spent more than it was granted, and what its links keep is bounded.
  void check_all_sound() {
    const auto& options = plan_.options;
    std::size_t most = options.reassembly_bytes + (std::size_t{1} << 20);
    for (std::size_t i = 0; i < channels; ++i) {
      // A lane's queue takes one message more when it is nearly full; of what arrives, the rest of
      // a frame may wait for its pipe.
      most += 2 * (options.queue_bytes + options.max_message_bytes[i]);
      most += 2 * options.window_bytes[i];
    }
    for (hawser::detail::link_core* const each : looked_at_) {
      const auto& machine = each->wire();
      if (machine.ended()) continue;
      if (machine.memory_in_use() > most) {
        fail("a link keeps " + std::to_string(machine.memory_in_use()) + " bytes");
      }
      if (machine.offline()) continue;  // what it may spend is settled when it is not
      for (std::size_t lane = 0; lane < hawser::wire::lane_count; ++lane) {
        if (machine.available(lane) < 0) fail("credit below zero in lane " + std::to_string(lane));
      }
    }
  }

  void check_end(const hawser::failure& why, std::size_t number) {
    const bool orderly = why.code() == errc::closed;
    // Early links: one that breaks during its handshake may have been refused, or is not answered.
    constexpr std::array allowed{errc::link_lost, errc::refused, errc::timed_out};
    const bool may_be_lost =
        plan_.faults &&
        std::ranges::any_of(allowed, [&](errc each) { return why.code() == each; });
    if (!orderly && !may_be_lost) fail("link " + std::to_string(number) + " ended: " + why.text());
  }

  // Threads: home's, and the link has ended.
  void check_counts(const hawser::link& link, std::size_t number, unsigned side) {
    for (std::size_t i = 0; i < channels; ++i) {
      const auto counts = link.at(static_cast<hawser::priority>(i)).counts();
      const auto& mine = links_[number]->ends[side].lanes[i];
      const auto& theirs = links_[number]->ends[1 - side].lanes[i];
      const std::string where = "link " + std::to_string(number) + " channel " + std::to_string(i);
      if (counts.accepted != mine[0].accepted + mine[1].accepted) {
        fail(where + ": counts say " + std::to_string(counts.accepted) + " accepted, the sender " +
             std::to_string(mine[0].accepted + mine[1].accepted));
      }
      links_[number]->ends[side].lost[i] = counts.lost;
      links_[number]->ends[side].missed[i] = counts.missed;
      links_[number]->ends[side].consumed[i] = counts.consumed;
      if (counts.taken != theirs[0].received + theirs[1].received + theirs[0].repeated +
                              theirs[1].repeated) {
        fail(where + ": taken " + std::to_string(counts.taken) + ", the receiver says " +
             std::to_string(theirs[0].received + theirs[1].received));
      }
      if (links_[number]->ends[side].in_order && counts.consumed > counts.sent) {
        fail(where + ": consumed more than was sent");
      }
    }
  }

  // Of a link that has closed in order and was one session, between hosts that did not end.
  void check_all_there(std::size_t number, std::size_t side, std::size_t channel) {
    const end_record& from = links_[number]->ends[side];
    const end_record& to = links_[number]->ends[1 - side];
    const auto& lanes = from.lanes[channel];
    const std::uint64_t accepted = lanes[0].accepted + lanes[1].accepted;
    const std::uint64_t received = lanes[0].received + lanes[1].received;
    const std::uint64_t lost = from.lost[channel];
    // A server that has received nothing does not know which link it was.
    const bool told = lost == to.missed[channel] || links_[number]->sessions == 0;
    if (accepted == received + lost && told) return;
    fail("link " + std::to_string(number) + " closed in order, of " + std::to_string(accepted) +
         " messages of side " + std::to_string(side) + " on channel " + std::to_string(channel) +
         " " + std::to_string(received) + " were received, " + std::to_string(lost) +
         " lost and " + std::to_string(to.missed[channel]) + " missed");
  }

  // What is handed to a task counts as consumed before that has run: in memory that both share it
  // is read before that, too, and a server may die in between.
  void check_consumed(std::size_t number, std::size_t channel) {
    const end_record& from = links_[number]->ends[0];
    const auto& lanes = from.lanes[channel];
    if (from.consumed[channel] <= lanes[0].received + lanes[1].received + server_deaths_) return;
    fail("link " + std::to_string(number) + " channel " + std::to_string(channel) +
         ": consumed more than was taken");
  }

  // Threads: home's. All that was taken has been let go of: a channel that ended holds no credit.
  void check_credit(const hawser::link& link, std::size_t number) {
    const auto& machine = link.core()->wire();
    if (plan_.closes_early || machine.closing() || machine.ended()) return;
    for (std::size_t lane = 0; lane < hawser::wire::lane_count; ++lane) {
      const auto held = machine.held_credit(lane);
      if (held == 0 || !machine.at_end(lane / 2)) continue;
      fail("link " + std::to_string(number) + ": " + std::to_string(held) +
           " bytes of credit of lane " + std::to_string(lane) + " are not given back");
    }
  }

  // Everybody goes; who closed in order has had everything.
  void finish() {
    for (std::size_t i = 0; i < links_.size(); ++i) {
      const link_record& link = *links_[i];
      for (std::size_t channel = 0; channel < channels; ++channel) check_consumed(i, channel);
      if (!link.ends[0].in_order || link.begun_anew != 0 || !world_.is_up(link.host)) continue;
      if (server_deaths_ != 0) continue;
      for (std::size_t side = 0; side < 2; ++side) {
        for (std::size_t channel = 0; channel < channels; ++channel) {
          check_all_there(i, side, channel);
        }
      }
    }
    for (const unsigned each : clients_) world_.shut_down(each);
    world_.shut_down(server_);
    if (world_.open_sockets() != 0) {
      fail(std::to_string(world_.open_sockets()) + " descriptors are left open");
    }
    if (broken_) throw *broken_;
  }

  test::dice dice_;
  plan plan_;
  unsigned server_ = 0;
  unsigned server_deaths_ = 0;
  std::vector<unsigned> clients_;
  std::vector<std::unique_ptr<link_record>> links_;
  unsigned running_ = 0;  // links of clients
  unsigned served_ = 0;   // links of servers
  std::vector<hawser::detail::link_core*> looked_at_;
  std::optional<broken_promise> broken_;
  world world_;  // ends first: its hosts' tasks use all of the above
};

}  // namespace

namespace sim {

std::string failure_of(std::uint64_t seed, bool traced) {
  scenario one(seed, traced);
  try {
    one.run();
    return {};
  } catch (const std::exception& error) {
    for (const auto& line : one.trace()) std::cerr << line << '\n';
    return error.what();
  }
}

}  // namespace sim
