// SPDX-License-Identifier: Apache-2.0
#include "sim/world.hpp"

#include <fcntl.h>

#include <algorithm>
#include <stdexcept>

#include "sim/reactor.hpp"

namespace sim {
namespace {

world* the_world = nullptr;

}  // namespace

world::world(std::uint64_t seed, const habits& network)
    : now_(test::simulated_start()), dice_(seed), habits_(network) {
  if (the_world != nullptr) throw std::logic_error("one world at a time");
  the_world = this;
}

world::~world() {
  for (unsigned i = 0; i < hosts_.size(); ++i) end(i);
  the_world = nullptr;
}

world& world::current() noexcept {
  return *the_world;
}

void world::note(const std::string& text) {
  if (!tracing_) return;
  const auto since = std::chrono::duration_cast<microseconds>(now_ - test::simulated_start());
  trace_.push_back(std::to_string(since.count()) + " us: " + text);
}

void world::note_all() {
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    const node& each = hosts_[i];
    if (each.runtime == nullptr) continue;
    note("host " + std::to_string(i) + (is_ready(each) ? " could run" : " waits") +
         (each.runtime->next_deadline() ? " for a deadline" : ""));
  }
  for (const auto& [handle, each] : sockets_) {
    note("socket " + std::to_string(handle) + " of host " + std::to_string(each.host) + " to " +
         std::to_string(each.peer) + ": " + std::to_string(each.in.bytes) + " bytes come" +
         (each.in.finished ? ", then the end" : "") + (each.in.broken ? ", broken" : ""));
  }
}

microseconds world::latency() {
  const auto low = static_cast<std::uint64_t>(habits_.latency_min.count());
  const auto high = static_cast<std::uint64_t>(habits_.latency_max.count());
  return microseconds(dice_.between(low, std::max(low, high)));
}

// ---- hosts ------------------------------------------------------------------------------------

unsigned world::boot(hawser::executor_config config) {
  const auto number = static_cast<unsigned>(hosts_.size());
  running_ = number;
  hosts_.emplace_back();
  hosts_.back().runtime = std::make_unique<hawser::driven_runtime>(std::move(config));
  note("host " + std::to_string(number) + " boots");
  return number;
}

hawser::driven_runtime& world::runtime(unsigned host) noexcept {
  return *hosts_[host].runtime;
}

bool world::is_up(unsigned host) const noexcept {
  return hosts_[host].runtime != nullptr;
}

void world::attach(reactor& added) noexcept {
  hosts_[added.host()].wakes = &added;
}

void world::detach(reactor& gone) noexcept {
  hosts_[gone.host()].wakes = nullptr;
}

void world::end(unsigned host) {
  if (!is_up(host)) return;
  const unsigned before = std::exchange(running_, host);
  ending_ = true;
  hosts_[host].runtime.reset();
  ending_ = false;
  running_ = before;
}

void world::shut_down(unsigned host) {
  note("host " + std::to_string(host) + " shuts down");
  end(host);
}

void world::crash(unsigned host, bool silently) {
  note("host " + std::to_string(host) + (silently ? " loses power" : " crashes"));
  std::vector<native_handle> its;
  for (auto& [handle, each] : sockets_) {
    if (each.host == host) its.push_back(handle);
  }
  for (const native_handle each : its) {
    socket& own = sockets_.at(each);
    own.in = {};
    own.in.broken = true;
    if (!silently) break_connection(each, true);
    own.peer = hawser::platform::no_handle;  // what the peer sends goes nowhere
  }
  end(host);
}

// ---- faults -----------------------------------------------------------------------------------

void world::part(unsigned one, unsigned other) {
  note("hosts " + std::to_string(one) + " and " + std::to_string(other) + " are parted");
  parts_.emplace_back(one, other);
}

void world::heal_all() {
  note("the network is whole");
  parts_.clear();
}

void world::exhaust(unsigned host) {
  note("host " + std::to_string(host) + " has no descriptors left");
  exhausted_.push_back(host);
}

void world::relieve_all() {
  note("all hosts have descriptors");
  exhausted_.clear();
}

bool world::is_exhausted(unsigned host) const noexcept {
  return std::ranges::find(exhausted_, host) != exhausted_.end();
}

bool world::parted(unsigned one, unsigned other) const noexcept {
  return std::ranges::any_of(parts_, [&](const auto& each) {
    return each == std::pair(one, other) || each == std::pair(other, one);
  });
}

void world::break_connection(native_handle one, bool both) {
  socket* const here = find(one);
  socket* const there = here == nullptr ? nullptr : find(here->peer);
  for (socket* each : {both ? here : nullptr, there}) {
    if (each == nullptr) continue;
    each->in = {};
    each->in.broken = true;
  }
}

void world::reset_some_connection() {
  std::vector<native_handle> open;
  for (const auto& [handle, each] : sockets_) {
    if (each.connected && !each.in.broken) open.push_back(handle);
  }
  if (open.empty()) return;
  const native_handle chosen = open[dice_.below(open.size())];
  note("connection of " + std::to_string(chosen) + " is reset");
  break_connection(chosen, true);
}

// ---- time -------------------------------------------------------------------------------------

void world::at(time when, std::function<void()> what) {
  events_.emplace(when, std::move(what));
}

bool world::is_ready(const node& which) const {
  if (which.runtime == nullptr) return false;
  if (which.more || (which.wakes != nullptr && which.wakes->is_due())) return true;
  const auto deadline = which.runtime->next_deadline();
  return deadline && *deadline <= now_;
}

bool world::step() {
  if (!events_.empty() && events_.begin()->first <= now_) {
    const auto what = std::move(events_.begin()->second);
    events_.erase(events_.begin());
    what();
    return true;
  }
  std::vector<unsigned> ready;
  for (unsigned i = 0; i < hosts_.size(); ++i) {
    if (is_ready(hosts_[i])) ready.push_back(i);
  }
  if (ready.empty()) return advance(time::max());
  running_ = ready[dice_.below(ready.size())];
  // Not through a reference: what runs may boot another host.
  const bool more = hosts_[running_].runtime->run_ready();
  hosts_[running_].more = more;
  return true;
}

bool world::run_until(const std::function<bool()>& done, time limit) {
  constexpr unsigned steps_at_once_most = 200'000;
  time before = now_;
  unsigned steps = 0;
  while (!done()) {
    if (now_ >= limit || !step()) return false;
    if (std::exchange(before, now_) != now_) steps = 0;
    if (++steps == steps_at_once_most) {
      note("the clock stands still");
      return false;
    }
  }
  return true;
}

std::optional<time> world::next_event() const {
  auto next = time::max();
  const auto consider = [&](time when) {
    if (when > now_) next = std::min(next, when);
  };
  for (const auto& [handle, each] : sockets_) {
    if (each.connects) consider(*each.connects);
    const auto peer = sockets_.find(each.peer);
    const bool cut = peer != sockets_.end() && parted(each.host, peer->second.host);
    if (!each.in.under_way.empty() && !cut) consider(each.in.under_way.front().due);
  }
  for (const auto& [handle, each] : listeners_) {
    if (!each.waiting.empty()) consider(each.waiting.front().due);
  }
  for (const auto& each : hosts_) {
    if (each.runtime == nullptr) continue;
    if (const auto deadline = each.runtime->next_deadline()) consider(*deadline);
  }
  if (!events_.empty()) consider(events_.begin()->first);
  if (next == time::max()) return std::nullopt;
  return next;
}

bool world::advance(time limit) {
  const auto next = next_event();
  if (!next && limit == time::max()) return false;
  now_ = std::min(next.value_or(limit), limit);
  return true;
}

// ---- the network ------------------------------------------------------------------------------

native_handle world::add_socket(socket made) {
  const native_handle handle = next_handle_++;
  sockets_.emplace(handle, std::move(made));
  return handle;
}

socket* world::find(native_handle handle) noexcept {
  const auto found = sockets_.find(handle);
  return found == sockets_.end() ? nullptr : &found->second;
}

listening* world::find_listener(native_handle handle) noexcept {
  const auto found = listeners_.find(handle);
  return found == listeners_.end() ? nullptr : &found->second;
}

bool world::is_listening(const std::string& address) const noexcept {
  return std::ranges::any_of(listeners_,
                             [&](const auto& each) { return each.second.address == address; });
}

native_handle world::listen(const std::string& address, std::size_t backlog) {
  if (is_listening(address)) {
    throw std::system_error(make_error_code(std::errc::address_in_use), address);
  }
  const native_handle handle = next_handle_++;
  listeners_.emplace(handle, listening{running_, address, {}, backlog});
  return handle;
}

native_handle world::connect(const std::string& address, std::error_code& error) {
  if (is_exhausted(running_)) {
    error = make_error_code(std::errc::too_many_files_open);
    return hawser::platform::no_handle;
  }
  const auto found = std::ranges::find_if(
      listeners_, [&](const auto& each) { return each.second.address == address; });
  const bool over_unix = address.starts_with('/');
  if (found != listeners_.end() && found->second.waiting.size() >= found->second.backlog) {
    error = make_error_code(std::errc::resource_unavailable_try_again);
    return hawser::platform::no_handle;
  }
  socket ours;
  ours.host = running_;
  ours.remote = address;
  ours.over_unix = over_unix;
  ours.connects = now_ + 2 * latency();
  if (found == listeners_.end() || parted(running_, found->second.host)) {
    ours.connect_error = make_error_code(std::errc::connection_refused);
    return add_socket(std::move(ours));
  }
  socket theirs;
  theirs.host = found->second.host;
  theirs.remote = "client of " + address;
  theirs.over_unix = over_unix;
  theirs.connected = true;
  const native_handle one = add_socket(std::move(ours));
  const native_handle other = add_socket(std::move(theirs));
  sockets_.at(one).peer = other;
  sockets_.at(other).peer = one;
  found->second.waiting.push_back({now_ + latency(), other});
  return one;
}

std::pair<native_handle, native_handle> world::pair() {
  socket end;
  end.host = running_;
  end.connected = true;
  const native_handle one = add_socket(end);
  const native_handle other = add_socket(end);
  sockets_.at(one).peer = other;
  sockets_.at(other).peer = one;
  return {one, other};
}

native_handle world::accept(native_handle listener) {
  listening* const from = find_listener(listener);
  if (from == nullptr || from->waiting.empty() || from->waiting.front().due > now_) {
    return hawser::platform::no_handle;
  }
  const native_handle accepted = from->waiting.front().socket;
  from->waiting.pop_front();
  return accepted;
}

void world::finish_writing(native_handle handle) noexcept {
  socket* const own = find(handle);
  socket* const peer = own == nullptr ? nullptr : find(own->peer);
  if (peer != nullptr) peer->in.finished = true;
}

// As tcp does it: who closes with bytes unread resets the connection.
void world::close(native_handle handle) noexcept {
  if (const auto listener = listeners_.find(handle); listener != listeners_.end()) {
    const auto waiting = std::move(listener->second.waiting);
    listeners_.erase(listener);
    for (const auto& each : waiting) {
      break_connection(each.socket, false);
      sockets_.erase(each.socket);
    }
    return;
  }
  socket* const own = find(handle);
  if (own == nullptr) std::terminate();  // closed twice, or never opened
  if (own->in.bytes != 0) {
    break_connection(handle, false);
  } else {
    finish_writing(handle);
  }
  sockets_.erase(handle);
}

std::size_t world::readable(native_handle handle, bool& at_end, std::error_code& error) {
  at_end = false;
  error.clear();
  socket* const own = find(handle);
  if (own == nullptr) std::terminate();
  socket* const peer = find(own->peer);
  if (peer != nullptr && parted(own->host, peer->host)) return 0;
  if (own->in.broken) {
    error = make_error_code(std::errc::connection_reset);
    return 0;
  }
  std::size_t bytes = 0;
  for (const auto& each : own->in.under_way) {
    if (each.due > now_) break;
    bytes += each.bytes.size() - each.taken;
  }
  at_end = bytes == 0 && own->in.finished && own->in.under_way.empty();
  return bytes;
}

std::size_t world::read(native_handle handle, std::span<std::byte> into, std::error_code& error) {
  bool at_end = false;
  arrived_handles_.clear();
  std::size_t left = std::min({readable(handle, at_end, error), into.size(), habits_.read_max});
  if (error) return 0;
  if (left == 0) {
    if (!at_end) error = make_error_code(std::errc::operation_would_block);
    return 0;
  }
  left = dice_.one_in(2) ? left : dice_.between(1, left);
  flow& from = find(handle)->in;
  std::size_t got = 0;
  while (got < left) {
    flow::segment& first = from.under_way.front();
    const std::size_t now = std::min(left - got, first.bytes.size() - first.taken);
    std::copy_n(first.bytes.begin() + static_cast<std::ptrdiff_t>(first.taken), now,
                into.begin() + static_cast<std::ptrdiff_t>(got));
    first.taken += now;
    got += now;
    for (const auto& each : first.handles) arrived_handles_.push_back(each);
    first.handles.clear();
    if (first.taken == first.bytes.size()) from.under_way.pop_front();
  }
  from.bytes -= got;
  return got;
}

// An end or a failure is read, too.
bool world::is_readable(native_handle handle) {
  bool at_end = false;
  std::error_code error;
  return readable(handle, at_end, error) != 0 || at_end || error;
}

bool world::is_writable(native_handle handle) noexcept {
  socket* const own = find(handle);
  if (own == nullptr) std::terminate();
  if (own->connects) return *own->connects <= now_;
  if (own->in.broken) return true;
  socket* const peer = find(own->peer);
  return peer == nullptr || peer->in.bytes < habits_.flow_bytes;
}

// Into a connection whose other end is gone: the system takes it, until it hears of the reset.
std::size_t world::write(native_handle handle, std::span<const io_slice> from,
                         std::error_code& error) {
  error.clear();
  socket* const own = find(handle);
  if (own == nullptr) std::terminate();
  if (own->in.broken) {
    error = make_error_code(std::errc::broken_pipe);
    return 0;
  }
  std::vector<std::byte> all;
  for (const auto& each : from) all.insert(all.end(), each.data, each.data + each.size);
  if (all.empty()) return 0;
  socket* const peer = find(own->peer);
  const std::size_t under_way = peer == nullptr ? 0 : peer->in.bytes;
  std::size_t room = habits_.flow_bytes - std::min(habits_.flow_bytes, under_way);
  room = std::min(room, all.size());
  if (room > 1 && dice_.one_in(habits_.short_write_one_in)) room = dice_.between(1, room);
  if (room == 0) {
    error = make_error_code(std::errc::operation_would_block);
    return 0;
  }
  if (peer == nullptr || peer->in.broken) return room;
  all.resize(room);
  flow& into = peer->in;
  time due = now_ + latency();
  if (!into.under_way.empty()) due = std::max(due, into.under_way.back().due);
  into.under_way.push_back({due, std::move(all), 0});
  into.bytes += room;
  return room;
}

std::size_t world::read_with_handles(native_handle handle, std::span<std::byte> into,
                                     hawser::platform::handle_list& came, std::error_code& error) {
  const std::size_t got = read(handle, into, error);
  for (const auto& each : arrived_handles_) {
    if (came.count < came.most) came.handles[came.count++] = each->give();
  }
  arrived_handles_.clear();
  return got;
}

std::size_t world::write_with_handles(native_handle handle, const io_slice& from,
                                      std::span<const native_handle> handles,
                                      std::error_code& error) {
  std::vector<std::shared_ptr<carried_handle>> copies;
  for (const native_handle each : handles) {
    copies.push_back(std::make_shared<carried_handle>(each));
  }
  const std::size_t wrote = write(handle, {&from, 1}, error);
  socket* const peer = find(find(handle)->peer);
  if (wrote != 0 && peer != nullptr && !peer->in.under_way.empty()) {
    peer->in.under_way.back().handles = std::move(copies);
  }
  return wrote;
}

carried_handle::carried_handle(native_handle original)
    : handle_(::fcntl(static_cast<int>(original), F_DUPFD_CLOEXEC, 0)) {}

carried_handle::~carried_handle() {
  hawser::platform::release_handle(handle_);
}

}  // namespace sim
