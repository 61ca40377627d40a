// SPDX-License-Identifier: Apache-2.0
// The side that connects, and the link's handle.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "core/assert.hpp"
#include "exec/runtime_core.hpp"
#include "hawser/as_result.hpp"
#include "hawser/group.hpp"
#include "hawser/hop.hpp"
#include "hawser/offload.hpp"
#include "hawser/this_task.hpp"
#include "hawser/timeout.hpp"
#include "link/exchange.hpp"
#include "link/link_core.hpp"
#include "link/listener_core.hpp"
#include "link/socket_owner.hpp"
#include "link/uri.hpp"
#include "shm/handle_owner.hpp"

namespace hawser {
namespace detail {
namespace {

constexpr auto busy_pause = std::chrono::milliseconds(5);

// Where further sockets of a link are opened: the address that worked, or a listener in here.
struct target {
  platform::socket_address address;
  std::weak_ptr<listener_core> inside;
  std::string uri;
};

// Starts to connect. Empty: the listener's queue is full, try again. Throws std::system_error.
std::optional<platform::native_handle> dial(const target& to, bool& pending) {
  pending = false;
  if (to.address.size != 0) {
    std::error_code error;
    const auto socket = platform::start_connect(to.address, pending, error);
    if (error && platform::would_block(error)) return std::nullopt;
    if (error) failure(errc::unreachable, to.uri + ": " + error.message()).raise();
    return socket;
  }
  const auto listening = to.inside.lock();
  if (listening == nullptr) failure(errc::unreachable, to.uri + ": nobody listens").raise();
  const auto pair = platform::socket_pair();
  socket_owner ours(pair.first);
  listening->offer(socket_owner(pair.second));
  return ours.give();
}

/// Completes when a connecting socket is writable.
class writable_op final : public operation {
 public:
  explicit writable_op(platform::native_handle socket) noexcept : socket_(socket), entry_(*this) {}

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> waiter) {
    worker& here = *worker::current();
    begin(here, waiter, context_of(waiter));
    here.reactor().wait(socket_, readiness::kind::writable, entry_);
    watch_stop();
  }
  [[nodiscard]] std::error_code await_resume() const noexcept { return error_; }

 private:
  struct entry : readiness {
    explicit entry(writable_op& by) noexcept : readiness(&writable_op::on_ready), owner(by) {}
    writable_op& owner;
  };
  static void on_ready(readiness& done, std::error_code error) noexcept {
    writable_op& self = static_cast<entry&>(done).owner;
    self.error_ = error;
    self.finish();
  }
  void on_cancel() noexcept override { worker::current()->reactor().cancel_wait(entry_); }

  platform::native_handle socket_;
  entry entry_;
  std::error_code error_;
};

/// Goes home and waits there until the handshake is done, until an attempt to reconnect is over,
/// until the status has changed, or until the link has ended.
class settle_op final : public channel_operation {
 public:
  enum class goal : std::uint8_t { open, greeted, changed, ended, shared };

  settle_op(link_core& core, goal wanted, bool close, link::status known = {}) noexcept
      : channel_operation(core.at(0)), core_(core), goal_(wanted), close_(close), known_(known) {}
  void await_resume() const {
    if (code_ != errc{}) failure(code_, "link to " + core_.peer()).raise();
  }

 private:
  bool attempt() noexcept override {
    if (std::exchange(close_, false)) core_.close();
    switch (goal_) {
      case goal::open:
        return core_.wire().ended() || core_.wire().connections() != 0;
      case goal::greeted:
        return core_.is_settled() || core_.is_between_connections();
      case goal::changed:
        return core_.status() != known_;
      case goal::ended:
        return core_.wire().ended();
      case goal::shared:
        core_.consider_sharing(true);
        return core_.wire().ended() || core_.is_sharing_settled();
    }
    return true;
  }
  [[nodiscard]] waiter_list& list() const noexcept {
    switch (goal_) {
      case goal::open:
        return core_.openers;
      case goal::greeted:
        return core_.greeters;
      case goal::changed:
        return core_.changers;
      case goal::shared:
        return core_.sharers;
      case goal::ended:
        break;
    }
    return core_.enders;
  }
  void enqueue() noexcept override { list().push(*this); }
  void on_cancel() noexcept override {
    list().remove(*this);
    fail(errc::cancelled);
    finish();
  }

  link_core& core_;
  goal goal_;
  bool close_;
  link::status known_;
};

/// A further socket: connects, proves the secret, and hands itself over.
class client_attacher final : public attacher {
 public:
  client_attacher(link_core& core, std::size_t channel, const target& to)
      : core_(core), channel_(channel) {
    exchange::plan plan;
    const auto dialled = dial(to, plan.connecting);
    if (!dialled.has_value()) failure(errc::unreachable, to.uri + ": its queue is full").raise();
    socket_owner dialling(*dialled);
    plan.words = wire::encode(
        wire::attach{core.wire().link_id(), core.wire().attach_secret(), channel});
    plan.limit = core.options().handshake_timeout;
    plan.socket = dialling.give();
    exchange_.emplace(core.home(), std::move(plan),
                      [this](const exchange::outcome& why, platform::native_handle socket,
                             const exchange::first_words& came) {
                        done(why, socket, came);
                      });
    exchange_->start();
  }

 private:
  // Each call of the core ends this object.
  void done(const exchange::outcome& why, platform::native_handle socket,
            const exchange::first_words& came) noexcept {
    if (why.has_value()) return core_.attach_failed(channel_, why->detail());
    const auto start = wire::peek_kind(came.header);
    if (start.has_value() && start->kind == wire::kind::attached) {
      if (!core_.attach(channel_, socket, came.rest)) platform::close(socket);
      return;
    }
    platform::close(socket);
    try {
      const auto refused = wire::decode_refusal(came.header);
      core_.attach_failed(channel_, refused.has_value() ? refused->text : "no answer to attach");
    } catch (const std::bad_alloc&) {
      core_.attach_failed(channel_, "refused");
    }
  }

  link_core& core_;
  std::size_t channel_;
  std::optional<exchange> exchange_;
};

/// Offers the server a segment, over a connection of its own.
class client_sharer final : public attacher {
 public:
  client_sharer(link_core& core, const target& to)
      : core_(core),
        segment_(shm::segment::create(core.options().ring_bytes, core.options().huge_pages)) {
    if (const std::error_code error = segment_.reserve(0)) {
      throw std::system_error(error, "shared memory: cannot reserve");
    }
    if (core.wire().may_lend()) {
      loans_.memory = shm::arena_memory::create(core.options().arena_bytes);
    }
    shm::port::introduce(core.home(), segment_, shm::side::client);
    exchange::plan plan;
    const auto dialled = dial(to, plan.connecting);
    if (!dialled.has_value()) failure(errc::unreachable, to.uri + ": its queue is full").raise();
    socket_owner dialling(*dialled);
    wire::share offer{core.wire().link_id(),
                      core.wire().attach_secret(),
                      shm::layout_version,
                      {},
                      loans_.memory.bytes()};
    std::copy(segment_.sizes().begin(), segment_.sizes().end(), offer.ring_bytes.begin());
    plan.words = wire::encode(offer);
    plan.handles.push_back(segment_.handle());
    if (loans_.memory.bytes() != 0) plan.handles.push_back(loans_.memory.handle());
    if (core.passable() != shm::passable::none) {
      const auto [ours, theirs] = platform::socket_pair();
      loans_.files = {ours, core.passable()};
      far_end_.emplace(theirs);
      plan.handles.push_back(theirs);
    }
    plan.limit = core.options().handshake_timeout;
    plan.socket = dialling.give();
    exchange_.emplace(core.home(), std::move(plan),
                      [this](const exchange::outcome& why, platform::native_handle socket,
                             const exchange::first_words& came) { done(why, socket, came); });
    exchange_->start();
  }

 private:
  // Both calls end this object.
  void done(const exchange::outcome& why, platform::native_handle socket,
            const exchange::first_words& came) noexcept {
    if (why.has_value()) return core_.share_failed(why->detail());
    const auto start = wire::peek_kind(came.header);
    if (start.has_value() && start->kind == wire::kind::attached) {
      return core_.share(std::move(segment_), std::move(loans_), shm::side::client, socket, {});
    }
    platform::close(socket);
    try {
      const auto refused = wire::decode_refusal(came.header);
      core_.share_failed(refused.has_value() ? refused->text : "no answer to an offer to share");
    } catch (const std::bad_alloc&) {
      core_.share_failed("refused");
    }
  }

  link_core& core_;
  shm::segment segment_;
  link_core::lent_memory loans_;
  std::optional<shm::handle_owner> far_end_;  // of the socket that files cross, until it was passed
  std::optional<exchange> exchange_;
};

std::vector<target> find_inside(worker& here, const endpoint& to) {
  const auto found = here.runtime().find_name(to.name);
  if (found == nullptr) failure(errc::unreachable, to_uri(to) + ": nobody listens").raise();
  return {{{}, std::static_pointer_cast<listener_core>(found), to_uri(to)}};
}

std::vector<target> find_socket_file(const endpoint& to) {
  switch (platform::inspect_socket_file(to.name, platform::current_user())) {
    case platform::socket_file::none:
      failure(errc::unreachable, to_uri(to) + ": no such file").raise();
    case platform::socket_file::foreign_owner:
      failure(errc::unauthorized, to_uri(to) + ": the socket file belongs to another user").raise();
    case platform::socket_file::not_a_socket:
      failure(errc::unauthorized, to_uri(to) + ": not a socket").raise();
    case platform::socket_file::socket:
      break;
  }
  return {{platform::unix_address(to.name), {}, to_uri(to)}};
}

task<std::vector<target>> find(endpoint to) {
  if (to.scheme == scheme::inproc) co_return find_inside(*worker::current(), to);
  if (to.scheme == scheme::unix_socket) co_return find_socket_file(to);
  const std::string host = to.host.empty() ? "127.0.0.1" : to.host;
  std::vector<target> all;
  if (const auto address = platform::numeric_address(host, to.port)) {
    all.push_back({*address, {}, platform::to_string(*address)});
    co_return all;
  }
  // A name server may take its time, and getaddrinfo() blocks.
  auto addresses = co_await offload([&host, &to] { return platform::resolve(host, to.port); });
  for (const auto& address : addresses) {
    all.push_back({address, {}, platform::to_string(address)});
  }
  co_return all;
}

[[noreturn]] void raise_end_of(link_core& core) {
  const failure& why = core.wire().why();
  failure(why.code(), core.peer() + ": " + why.detail()).raise();
}

task<void> settled(link_core& core) {
  co_await settle_op(core, settle_op::goal::open, false);
  if (core.wire().connections() == 0) raise_end_of(core);
}

// Of an address that requires it.
task<void> shared(link_core& core) {
  co_await settle_op(core, settle_op::goal::shared, false);
  if (core.wire().shares()) co_return;
  if (core.wire().ended()) raise_end_of(core);
  const link_road road = core.road();
  failure(errc::unsupported,
          core.peer() + ": no shared memory: " +
              (road.why_not.empty() ? "the peer does not want it" : road.why_not))
      .raise();
}

task<platform::native_handle> reach(target to) {
  bool pending = false;
  auto dialled = dial(to, pending);
  while (!dialled.has_value()) {
    co_await this_task::sleep_for(busy_pause);
    dialled = dial(to, pending);
  }
  socket_owner socket(*dialled);
  if (pending) {
    const std::error_code waited = co_await writable_op(socket.get());
    if (waited == std::errc::operation_canceled) {
      failure(errc::cancelled, "connecting to " + to.uri).raise();
    }
    const std::error_code error = waited ? waited : platform::finish_connect(socket.get());
    if (error) failure(errc::unreachable, to.uri + ": " + error.message()).raise();
  }
  co_return socket.give();
}

// Full jitter: many links that lose their connections at once do not come back at once.
clock::duration pause_before(runtime_core& runtime, const link_options& options, unsigned round) {
  const auto most = std::min(options.backoff_most, options.backoff * (1U << std::min(round, 20U)));
  std::uint64_t random = 0;
  runtime.fill_random(reinterpret_cast<std::byte*>(&random), sizeof random);
  const auto longest = std::chrono::duration_cast<std::chrono::microseconds>(most).count();
  return std::chrono::microseconds(random % static_cast<std::uint64_t>(longest + 1));
}

// One attempt at each address: true once that has led somewhere. A peer that does not hold the
// link any more is asked once again, for a new session.
//
// Errors: errc::cancelled, std::bad_alloc.
task<bool> reach_once(link_core& core, endpoint to) {
  std::vector<target> targets = co_await find(to);
  const auto share = core.options().handshake_timeout / std::max<std::size_t>(targets.size(), 1);
  for (std::size_t i = 0; i < targets.size();) {
    auto reached = co_await as_result(timeout(share, reach(targets[i])));
    if (!reached.has_value() && reached.error().code() == errc::cancelled) reached.error().raise();
    socket_owner socket(reached.has_value() ? *reached : platform::no_handle);
    co_await hop_to(core.home());
    if (core.is_settled()) co_return true;
    const bool was_resumable = core.wire().resumable();
    if (reached.has_value() && core.reconnect(socket.get())) {
      static_cast<void>(socket.give());
      co_await settle_op(core, settle_op::goal::greeted, false);
      if (core.is_settled()) co_return true;
    }
    if (was_resumable == core.wire().resumable()) ++i;
  }
  co_return false;
}

// Ends when the link is online, or has ended.
task<void> reach_again(link_core& core, endpoint to) {
  for (unsigned round = core.short_lived();; ++round) {
    co_await this_task::sleep_for(pause_before(core.home().runtime(), core.options(), round));
    try {
      const bool reached = co_await reach_once(core, to);
      if (reached) co_return;
    } catch (const std::bad_alloc&) {
      // an attempt that failed
    } catch (const std::system_error& error) {
      if (error.code() == errc::cancelled) throw;
    }
  }
}

// The visit that was begun for it keeps the core alive.
child run_reaching(link_core& core, endpoint to) {
  try {
    co_await reach_again(core, std::move(to));
  } catch (const std::system_error&) {
    // the link has ended
  }
  co_await hop_to(core.home());
  core.end_reaching();
}

void start_reaching(link_core& core, const endpoint& to) {
  child reaching = run_reaching(core, to);
  if (!core.begin_visit()) return;
  task_context context;
  context.stop = core.reach_no_more();
  context.urgency = priority::control;
  std::move(reaching).start_on(core.home(), context);
}

// The error of the last address, or of the only one.
task<link> connect_within(endpoint to, link_options options) {
  std::vector<target> targets = co_await find(to);
  // A dead address must not use up the time of those behind it.
  const auto share = options.handshake_timeout / std::max<std::size_t>(targets.size(), 1);
  std::optional<failure> last;
  for (const target& each : targets) {
    auto reached = co_await as_result(timeout(share, reach(each)));
    if (!reached.has_value()) {
      last = reached.error();
      if (last->code() == errc::cancelled) break;
      continue;
    }
    socket_owner socket(*reached);
    worker& home = worker::current()->runtime().pick_home();
    co_await hop_to(home);
    wire::settings settings = make_settings(options);
    settings.share = options.share_memory && to.scheme == scheme::unix_socket;
    home.runtime().fill_random(settings.link_id.data(), settings.link_id.size());
    link_core::origin origin;
    origin.peer = each.uri;
    origin.kernel_buffers = to.scheme != scheme::tcp || options.channels == 1;
    origin.attach = [each](link_core& core, std::size_t channel) -> std::unique_ptr<attacher> {
      return std::make_unique<client_attacher>(core, channel, each);
    };
    if (settings.share) {
      origin.share = [each](link_core& core) -> std::unique_ptr<attacher> {
        return std::make_unique<client_sharer>(core, each);
      };
    }
    if (options.survive > clock::duration::zero()) {
      origin.reach_again = [to](link_core& core) { start_reaching(core, to); };
    }
    auto* const core = new link_core(home, options, settings, std::move(origin));
    link handle(core);
    core->start(socket.give(), {});
    if (!options.early || to.must_share) co_await settled(*core);
    if (to.must_share) co_await shared(*core);
    co_return handle;
  }
  if (!last.has_value()) last.emplace(errc::unreachable, to_uri(to) + ": no address");
  last->raise();
}

}  // namespace
}  // namespace detail

task<link> connect(std::string uri, link_options options) {
  const detail::endpoint to = detail::parse_uri(uri, options);
  HAWSER_ASSERT(detail::worker::current() != nullptr);
  const auto limit = options.handshake_timeout;
  auto made = co_await as_result(timeout(limit, detail::connect_within(to, options)));
  if (made.has_value()) co_return std::move(*made);
  if (made.error().code() != errc::timed_out) made.error().raise();
  failure(errc::timed_out, detail::to_uri(to) + ": " + made.error().detail()).raise();
}

// ---- the handle -----------------------------------------------------------------------------

link::link(const link& other) noexcept : core_(other.core_) {
  if (core_ != nullptr) core_->retain_handle();
}

link::~link() {
  if (core_ != nullptr) core_->release_handle();
}

channel& link::at(priority which) const noexcept {
  HAWSER_ASSERT(core_ != nullptr);
  return core_->at(static_cast<std::size_t>(which)).api();
}

task<void> link::opened() const {
  const link self = *this;
  HAWSER_ASSERT(self.core_ != nullptr);
  co_await detail::settled(*self.core_);
}

task<void> link::close() const {
  const link self = *this;
  HAWSER_ASSERT(self.core_ != nullptr);
  co_await detail::settle_op(*self.core_, detail::settle_op::goal::ended, true);
  const failure why = self.core_->wire().why();
  if (why.code() != errc::closed) why.raise();
}

task<failure> link::ended() const {
  const link self = *this;
  HAWSER_ASSERT(self.core_ != nullptr);
  co_await detail::settle_op(*self.core_, detail::settle_op::goal::ended, false);
  co_return self.core_->wire().why();
}

task<link::status> link::changed(status known) const {
  const link self = *this;
  HAWSER_ASSERT(self.core_ != nullptr);
  co_await detail::settle_op(*self.core_, detail::settle_op::goal::changed, false, known);
  co_return self.core_->status();
}

task<link::status> link::changed() const {
  return changed(status{});
}

link_road link::road() const {
  HAWSER_ASSERT(core_ != nullptr);
  return core_->road();
}

std::string link::peer() const {
  return core_->peer();
}

unsigned link::sockets() const noexcept {
  return core_->sockets();
}

}  // namespace hawser
