// SPDX-License-Identifier: Apache-2.0
// Goal: whatever a network and two applications do, a link keeps its promises: order within a lane,
// nothing twice, nothing lost that was accepted when it closes in order, true counts, credit never
// negative, bounded memory, no lost wake-up, and an end.
// Method: two machines on a simulated wire, and two applications that know what they have sent.
// Everything follows from a seed: a failure prints it, and HAWSER_TEST_SEED=N repeats it first.
#include "wire/machine.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/environment.hpp"
#include "support/simulated_wire.hpp"

namespace {

using namespace std::chrono_literals;
using hawser::errc;
using hawser::wire::channel_count;
using hawser::wire::lane_count;
using hawser::wire::machine;
using hawser::wire::settings;
using hawser::wire::verdict;
using test::simulated_wire;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

enum class ending { client_closes, both_close, closes_amid_traffic, reset, half_open, fails };

struct plan {
  std::uint64_t seed = 0;
  settings client;
  settings server;
  test::wire_habits habits;
  bool several_pipes = false;
  bool shares = false;         // memory, from some moment on
  std::size_t messages = 0;    // that each side wants to send
  std::size_t bytes_left = 0;  // ... and no more than this
  std::size_t size_large = 0;
  ending how{};
  std::size_t ends_after = 0;  // steps, where the ending is not at the end
  std::size_t hold_most = 0;
};

settings random_settings(test::dice& dice) {
  settings made;
  made.link_id.fill(std::byte{3});
  const auto power = [&](unsigned low, unsigned high) {
    return (std::uint64_t{1} << dice.between(low, high)) + dice.below(100);
  };
  for (std::size_t channel = 0; channel < channel_count; ++channel) {
    made.local.window[2 * channel] = power(15, 20);
    made.local.window[2 * channel + 1] = power(12, 15);
    made.local.message_bytes[channel] = power(16, 22);
  }
  made.local.frame_bytes = power(16, 20);
  made.queue_bytes = power(10, 20);
  made.reassembly_bytes = power(10, 23);
  made.pinned_bytes = dice.one_in(3) ? 0 : power(16, 22);
  return made;
}

plan make_plan(std::uint64_t seed) {
  test::dice dice(seed);
  plan made;
  made.seed = seed;
  made.client = random_settings(dice);
  made.server = random_settings(dice);
  made.several_pipes = !dice.one_in(3);
  made.client.share = made.shares = dice.one_in(2);
  made.server.share = made.shares && !dice.one_in(8);
  if (dice.one_in(4)) made.server.local.pipes = 1;
  made.habits.pieces_max = dice.one_in(3) ? 1 : 64;
  made.habits.pipe_bytes = std::size_t{1} << dice.between(9, 20);
  made.habits.direct = !dice.one_in(3);
  if (dice.one_in(2)) made.habits.delay_max = std::chrono::microseconds(dice.between(1, 40'000));
  if (dice.one_in(4)) {  // split at every byte, or nearly so
    made.habits.read_max = dice.between(1, 9);
    made.messages = 40;
    made.bytes_left = 40'000;
    made.size_large = 20'000;
  } else {
    made.habits.read_max = std::size_t{1} << dice.between(6, 18);
    made.messages = dice.between(1, 300);
    made.bytes_left = dice.one_in(8) ? 8 << 20 : 1 << 20;
    made.size_large = dice.one_in(2) ? 70'000 : 3 << 20;
  }
  made.how = static_cast<ending>(dice.below(6));
  made.ends_after = dice.below(4000);
  made.hold_most = dice.below(20);
  return made;
}

struct sent_message {
  std::uint64_t number = 0;
  std::size_t size = 0;
  hawser::message_header header;
};

struct held_message {
  hawser::wire::inbound message;
};

// One side's application. It acts on what its machine reports and on nothing else, so that a
// wake-up that does not come leaves it waiting for ever.
struct application {
  struct lane_state {
    std::deque<sent_message> sent;  // accepted or started, and not yet received by the other side
    std::uint64_t sent_count = 0;
    std::uint64_t received = 0;
    bool waits = false;
    bool grows = false;
    bool given_up = false;               // the last of `sent` was not accepted in the end
    std::optional<sent_message> wanted;  // was blocked: the same message is tried again
  };
  std::array<lane_state, lane_count> lanes;
  std::array<bool, channel_count> readable{};
  std::array<bool, channel_count> saw_end{};
  std::array<bool, channel_count> finished{};
  std::vector<held_message> held;
  std::size_t messages_left = 0;
  std::size_t bytes_left = 0;
  bool closed = false;
};

class simulation {
 public:
  explicit simulation(plan from)
      : plan_(std::move(from)),
        dice_(plan_.seed + 1),
        client_(plan_.client, test::simulated_start()),
        server_(plan_.server, greeting(), test::simulated_start()),
        wire_(client_, server_, plan_.seed + 2, plan_.habits) {
    std::array<std::span<const std::byte>, 4> hello;
    static_cast<void>(client_.gather(0, hello));
    client_.written(0);
    for (auto& app : apps_) {
      app.messages_left = plan_.messages;
      app.bytes_left = plan_.bytes_left;
    }
  }

  void run() {
    auto progressed_at = wire_.now();
    for (std::size_t steps = 0; !over(); ++steps) {
      require(steps < 20'000'000, "the simulation does not come to an end");
      if (steps == plan_.ends_after) interfere();
      bool moved = false;
      const std::size_t side = dice_.below(2);
      observe(side);
      observe(1 - side);
      if (dice_.one_in(3)) {
        moved = act(side) || act(1 - side);
        if (moved) progressed_at = wire_.now();
        moved = moved || wire_.step();
      } else {
        moved = wire_.step();
        if (!moved) {
          moved = act(side) || act(1 - side);
          if (moved) progressed_at = wire_.now();
        }
      }
      check(side);
      if (moved) continue;
      observe(0);
      observe(1);
      if (act_at_all(0) || act_at_all(1)) {
        progressed_at = wire_.now();
        continue;
      }
      require(wire_.advance() || over(), "nothing will ever happen, but the link has not ended");
      require(wire_.now() - progressed_at < 10min, "nothing has moved for ten minutes");
    }
    conclude();
  }

 private:
  hawser::wire::hello greeting() const {
    hawser::wire::hello made;
    made.link_id = plan_.client.link_id;
    made.limits = client_.local_limits();
    if (plan_.client.share) made.features = hawser::wire::feature::share;
    return made;
  }

  machine& at(std::size_t side) { return side == 0 ? client_ : server_; }

  // What a link would do with the happenings.
  void observe(std::size_t side) {
    const auto news = wire_.happened(side);
    application& app = apps_[side];
    for (std::size_t channel = 0; channel < channel_count; ++channel) {
      if ((news.readable & 1U << channel) != 0) app.readable[channel] = true;
      if ((news.writable & 1U << channel) != 0) {
        for (const std::size_t lane : {2 * channel, 2 * channel + 1}) {
          app.lanes[lane].waits = false;
          settle_growth(side, lane);
        }
      }
      if ((news.attach_wanted & 1U << channel) != 0 && plan_.several_pipes) {
        attach_wanted_ |= 1U << channel;
      }
    }
  }

  void settle_growth(std::size_t side, std::size_t lane) {
    auto& state = apps_[side].lanes[lane];
    if (!state.grows || at(side).growing(lane)) return;
    state.grows = false;
    if (at(side).abandoned(lane)) state.given_up = true;
  }

  void interfere() {
    switch (plan_.how) {
      case ending::closes_amid_traffic:
        close(dice_.below(2));
        break;
      case ending::reset:
        wire_.reset(!client_.shares() && client_.pipes() == 4 ? dice_.below(4) : 0);
        break;
      case ending::half_open:
        wire_.swallow(dice_.below(2));
        break;
      case ending::fails:
        at(dice_.below(2)).fail(errc::limit_reached, "the application is tired");
        break;
      case ending::client_closes:
      case ending::both_close:
        break;
    }
  }

  void close(std::size_t side) {
    apps_[side].closed = true;
    at(side).close(wire_.now());
  }

  bool act(std::size_t side) {
    if (plan_.shares && client_.may_share() && !client_.shares() && dice_.one_in(10)) {
      wire_.share();
      return true;
    }
    const bool waits = client_.may_share() && !client_.shares();
    if (attach_wanted_ != 0 && !waits && dice_.one_in(4)) {
      const auto channel = static_cast<std::size_t>(__builtin_ctz(attach_wanted_));
      attach_wanted_ &= attach_wanted_ - 1;
      wire_.attach(channel);
      return true;
    }
    switch (dice_.below(5)) {
      case 0:
      case 1:
        return send(side) || take(side);
      case 2:
      case 3:
        return take(side) || send(side);
      default:
        return let_go(side) || finish(side);
    }
  }

  bool act_at_all(std::size_t side) {
    return act(side) || send(side) || take(side) || let_go(side) || finish(side);
  }

  std::size_t random_size(application& app, std::size_t lane) {
    std::size_t size = 0;
    switch (dice_.below(8)) {
      case 0:
        size = dice_.below(3);
        break;
      case 1:
        size = dice_.between(4080, 4112);
        break;
      case 2:
        size = dice_.between((16 << 10) - 40, (16 << 10) + 40);
        break;
      case 3:
        size = dice_.between((64 << 10) - 40, (64 << 10) + 40);
        break;
      case 4:
        size = dice_.below(plan_.size_large);
        break;
      default:
        size = dice_.below(300);
    }
    if (lane % 2 == 1) size %= 20'000;
    return std::min(size, app.bytes_left);
  }

  bool send(std::size_t side) {
    application& app = apps_[side];
    machine& from = at(side);
    // The first lane, from a random one, that can do something now.
    const std::size_t first = dice_.below(lane_count);
    std::size_t lane = lane_count;
    bool all_finished = true;
    for (std::size_t i = 0; i < lane_count && lane == lane_count; ++i) {
      const std::size_t each = (first + i) % lane_count;
      const auto& usable = app.lanes[each];
      const bool has_next =
          usable.wanted.has_value() || (app.messages_left != 0 && !app.finished[each / 2]);
      if (has_next && !usable.waits) lane = each;
      all_finished = all_finished && app.finished[each / 2];
    }
    if (all_finished) app.messages_left = 0;
    if (lane == lane_count) return false;
    auto& state = app.lanes[lane];
    if (!state.wanted.has_value()) {
      sent_message next;
      next.number = dice_.any();
      next.size = random_size(app, lane);
      next.header.id = dice_.one_in(2) ? 0 : dice_.any() >> dice_.below(64);
      next.header.encoding = static_cast<hawser::codec>(dice_.one_in(2) ? 0 : dice_.below(256));
      state.wanted = next;
      --app.messages_left;
      app.bytes_left -= next.size;
    }

    const sent_message next = *state.wanted;
    verdict said{};
    if (dice_.one_in(2)) {
      said = from.send(lane, test::pattern(next.number, next.size), next.header);
    } else {
      auto owned = test::message_of(next.number, next.size, next.header);
      said = from.send(lane, owned);
      const bool taken = said == verdict::accepted || said == verdict::started;
      require(taken || owned.size() == next.size, "a message that was not taken is untouched");
    }
    if (said == verdict::blocked) {
      state.waits = true;
      return true;
    }
    state.wanted.reset();
    if (said == verdict::accepted || said == verdict::started) {
      state.sent.push_back(next);
      ++state.sent_count;
      state.grows = said == verdict::started;
    } else if (said == verdict::too_large) {
      const auto& peer = from.peer_limits();
      require(
          next.size > peer.message_bytes[lane / 2] || lane % 2 == 1 || peer.window[lane] < 32 << 10,
          "too_large is said of what is too large");
    } else {
      require(from.closing() || from.ended(), "sends end only when the link does");
    }
    return true;
  }

  bool take(std::size_t side) {
    application& app = apps_[side];
    const std::size_t channel = dice_.below(channel_count);
    for (std::size_t i = 0; i < channel_count; ++i) {
      const std::size_t each = (channel + i) % channel_count;
      if (!app.readable[each] || app.held.size() > plan_.hold_most) continue;
      auto next = at(side).take(each);
      if (!next.has_value()) {
        app.readable[each] = false;
        if (at(side).at_end(each)) app.saw_end[each] = true;
        return true;
      }
      examine(1 - side, *next);
      app.held.push_back({std::move(*next)});
      return true;
    }
    return false;
  }

  void examine(std::size_t sender, const hawser::wire::inbound& message) {
    auto& state = apps_[sender].lanes[message.lane];
    require(!state.sent.empty(), "nothing arrives that was not sent");
    const sent_message expected = state.sent.front();
    state.sent.pop_front();
    ++state.received;
    require(message.payload.size() == expected.size, "a message arrives in order, with its size");
    require(message.header.id == expected.header.id, "a message keeps its id");
    require(message.header.encoding == expected.header.encoding, "a message keeps its codec");
    require(test::has_pattern(message.payload.bytes(), expected.number), "bytes arrive unchanged");
    require(reinterpret_cast<std::uintptr_t>(message.payload.data()) % 8 == 0,
            "a payload is 8-aligned");
    require(message.cost >= expected.size + hawser::wire::message_overhead, "a message has a cost");
  }

  bool let_go(std::size_t side) {
    application& app = apps_[side];
    if (app.held.empty()) return false;
    std::swap(app.held[dice_.below(app.held.size())], app.held.back());
    auto last = std::move(app.held.back().message);
    app.held.pop_back();
    last.payload = {};
    at(side).release(last.lane, last.cost, last.reassembled);
    return true;
  }

  bool finish(std::size_t side) {
    application& app = apps_[side];
    const bool all_sent = std::none_of(app.lanes.begin(), app.lanes.end(), [](const auto& lane) {
      return lane.wanted.has_value() || lane.grows;
    });
    if (app.messages_left == 0 && all_sent) {
      const bool may_close =
          plan_.how == ending::both_close || (plan_.how == ending::client_closes && side == 0);
      if (may_close && !app.closed) {
        close(side);
        return true;
      }
      // Everybody closes in the end, so that all lanes can be counted.
      if (!app.closed && wire_.now() - test::simulated_start() > 1s) {
        close(side);
        return true;
      }
    }
    const std::size_t channel = dice_.below(channel_count);
    if (!dice_.one_in(50) || app.finished[channel]) return false;
    if (app.lanes[2 * channel].wanted.has_value()) return false;
    if (app.lanes[2 * channel + 1].wanted.has_value()) return false;
    app.finished[channel] = true;
    at(side).finish(channel);
    return true;
  }

  void check(std::size_t side) {
    observe(side);
    for (std::size_t channel = 0; channel < channel_count; ++channel) {
      require(apps_[side].readable[channel] || !at(side).readable(channel), "a reader is told");
    }
    const machine& here = at(side);
    const machine& there = at(1 - side);
    std::size_t bound = 1 << 20;
    for (std::size_t lane = 0; lane < lane_count; ++lane) {
      require(here.available(lane) >= 0, "credit is never negative");
      const auto ours = here.counts(lane);
      const auto theirs = there.counts(lane);
      require(ours.sent <= ours.accepted, "what is sent was accepted");
      require(ours.consumed <= theirs.taken, "what is consumed was taken by the peer");
      require(theirs.taken <= theirs.received, "what is taken has arrived");
      require(theirs.received <= ours.accepted + (here.growing(lane) ? 1 : 0),
              "what has arrived was accepted");
      require(theirs.taken == apps_[side].lanes[lane].received, "the counts are the application's");
      bound += std::min<std::size_t>(here.local_limits().window[lane], 1 << 22);
    }
    const auto largest = [](const settings& of) {
      return *std::max_element(of.local.message_bytes.begin(), of.local.message_bytes.end());
    };
    const settings& mine = side == 0 ? plan_.client : plan_.server;
    const settings& other = side == 0 ? plan_.server : plan_.client;
    bound += mine.reassembly_bytes + largest(mine);
    // A queue takes one message more while it is below its limit.
    bound += lane_count * (mine.queue_bytes + largest(other));
    bound += 4 * (1 << 20);  // framed
    require(here.memory_in_use() <= bound, "memory is bounded");
  }

  bool over() {
    if (!client_.ended() || !server_.ended()) return false;
    return wire_.gone(0) && wire_.gone(1) && all_taken(0) && all_taken(1);
  }
  bool all_taken(std::size_t side) {
    for (std::size_t channel = 0; channel < channel_count; ++channel) {
      if (at(side).readable(channel)) return false;
    }
    return true;
  }

  void conclude() {
    const bool orderly =
        client_.why().code() == errc::closed && server_.why().code() == errc::closed;
    const bool fault =
        plan_.how == ending::reset || plan_.how == ending::half_open || plan_.how == ending::fails;
    if (!fault) {
      require(orderly, (client_.why().text() + " / " + server_.why().text()).c_str());
    }
    for (std::size_t side = 0; side < 2; ++side) {
      observe(side);
      for (std::size_t channel = 0; channel < channel_count; ++channel) {
        if (orderly) require(at(side).at_end(channel), "every channel ends");
      }
      for (std::size_t lane = 0; lane < lane_count; ++lane) {
        settle_growth(side, lane);
        const auto& state = apps_[side].lanes[lane];
        const auto counts = at(side).counts(lane);
        require(counts.accepted == state.sent_count - (state.given_up || state.grows ? 1 : 0),
                "accepted is what was accepted");
        if (!orderly) continue;
        require(!state.grows, "growth is settled when a link closes");
        require(state.sent.size() == (state.given_up ? 1U : 0U), "nothing accepted is lost");
        require(counts.sent == counts.accepted, "all that was accepted is sent");
        require(at(1 - side).counts(lane).received == counts.accepted, "both sides count alike");
      }
    }
  }

  plan plan_;
  test::dice dice_;
  machine client_;
  machine server_;
  simulated_wire wire_;
  std::array<application, 2> apps_;
  unsigned attach_wanted_ = 0;
};

void run_seed(std::uint64_t seed) {
  try {
    simulation(make_plan(seed)).run();
  } catch (const std::runtime_error& broken) {
    FAIL_CHECK("seed ", seed, ": ", std::string(broken.what()));
  }
}

}  // namespace

TEST_SUITE("wire_simulation") {
  TEST_CASE("a link keeps its promises on any wire") {
    // The seed of the run itself first, so that a printed seed repeats its failure at once.
    run_seed(test::seed());
    test::dice dice(test::seed());
    for (int i = 0; i < 300; ++i) run_seed(dice.any());
  }
}
