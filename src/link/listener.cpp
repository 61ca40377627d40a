// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <utility>

#include "core/assert.hpp"
#include "exec/runtime_core.hpp"
#include "link/link_core.hpp"
#include "link/listener_core.hpp"

namespace hawser {
namespace detail {
namespace {

constexpr auto accept_retry = std::chrono::milliseconds(50);
constexpr std::string_view not_held = "the link to resume is not held here";

// A function that runs once, on a worker. What it has captured goes in any case.
template <class F>
class errand final : public work {
 public:
  explicit errand(F what) : work(&errand::arrive), what_(std::move(what)) {}

  [[nodiscard]] F& what() noexcept { return what_; }

 private:
  static void arrive(work& item) noexcept {
    const std::unique_ptr<errand> self(static_cast<errand*>(&item));
    self->what_();
  }

  F what_;
};

// Errors: throws std::bad_alloc.
template <class F>
void send(worker& where, F what) {
  where.post(*new errand<F>(std::move(what)), priority::control);
}

std::string describe(const std::optional<platform::peer_identity>& peer,
                     platform::native_handle socket, bool over_unix) {
  if (over_unix && peer.has_value()) {
    return "unix: pid " + std::to_string(peer->process) + " uid " + std::to_string(peer->user);
  }
  if (over_unix) return "unix:";
  try {
    return platform::to_string(platform::remote_address(socket));
  } catch (const std::system_error&) {
    return "tcp: (gone)";
  }
}

}  // namespace

template <class F>
void listener_core::note(log_level level, F&& make_text) noexcept {
  home_.runtime().log(level, "listener", std::forward<F>(make_text));
}

// ---- accept ---------------------------------------------------------------------------------

/// Waits for the next link on the listener's home.
class listener_core::accept_op final : public operation {
 public:
  explicit accept_op(listener_core& owner) noexcept : owner_(owner) {}

  [[nodiscard]] bool await_ready() noexcept {
    return worker::current() == &owner_.home() && attempt();
  }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    begin(owner_.home(), waiter, context_of(waiter));
    if (worker::current() != &owner_.home()) return travel();
    enqueue();
  }
  [[nodiscard]] link await_resume() {
    if (code_ != errc{}) failure(code_, "listener " + owner_.uri).raise();
    return std::move(link_);
  }

 private:
  friend class listener_core;

  bool attempt() noexcept {
    const std::lock_guard guard(owner_.mutex_);
    if (!owner_.ready_.empty()) {
      link_ = owner_.ready_.take();
      return true;
    }
    if (!owner_.closed_) return false;
    code_ = errc::closed;
    return true;
  }
  void on_arrival() noexcept override {
    if (attempt()) return resume_here();
    enqueue();
  }
  void enqueue() noexcept {
    accept_op** place = &owner_.first_waiting_;
    while (*place != nullptr) place = &(*place)->next_;
    *place = this;
    watch_stop();
  }
  void leave() noexcept {
    accept_op** place = &owner_.first_waiting_;
    while (*place != this) place = &(*place)->next_;
    *place = next_;
  }
  void on_cancel() noexcept override {
    leave();
    code_ = errc::cancelled;
    finish();
  }

  listener_core& owner_;
  link link_;
  errc code_{};
  accept_op* next_ = nullptr;
};

void listener_core::wake_accepters() noexcept {
  while (first_waiting_ != nullptr && first_waiting_->attempt()) {
    accept_op& served = *first_waiting_;
    served.leave();
    served.finish();
  }
}

// Where it returns early the handle goes, and the link closes in order.
void listener_core::deliver(link ready) noexcept {
  const std::lock_guard guard(mutex_);
  if (closed_) return;
  try {
    ready_.emplace(std::move(ready));
  } catch (const std::bad_alloc&) {
    return note(log_level::error, [&] { return uri + ": no memory to keep a link"; });
  }
  if (delivering_self_ != nullptr) return;
  delivering_self_ = shared_from_this();
  home_.post(deliver_work_, priority::control);
}

void listener_core::run_deliver(work& item) noexcept {
  listener_core& owner = static_cast<own_work&>(item).owner;
  std::shared_ptr<listener_core> self;
  {
    const std::lock_guard guard(owner.mutex_);
    self = std::move(owner.delivering_self_);
  }
  owner.wake_accepters();
}

// ---- beginning and end ----------------------------------------------------------------------

listener_core::listener_core(worker& home, endpoint at, listen_options options)
    : home_(home),
      at_(std::move(at)),
      options_(options),
      registry_(std::make_shared<link_registry>(options.max_links, options.max_links_per_user)),
      begin_work_(*this, &listener_core::run_begin),
      close_work_(*this, &listener_core::run_close),
      deliver_work_(*this, &listener_core::run_deliver),
      retry_(*this) {}

void listener_core::start(socket_owner socket) noexcept {
  self_ = shared_from_this();
  listening_ = socket.give();
  home_.post(begin_work_, priority::control);
}

void listener_core::run_begin(work& item) noexcept {
  static_cast<own_work&>(item).owner.begin();
}

void listener_core::begin() noexcept {
  home_.add_component(*this);
  const auto socket = std::exchange(listening_, platform::no_handle);
  if (socket == platform::no_handle) return;
  try {
    acceptor_ = home_.reactor().listen(socket, *this);
  } catch (const std::exception& error) {
    note(log_level::error, [&] { return uri + ": cannot accept: " + error.what(); });
    return close_here();
  }
  acceptor_->start();
}

// At once, so that another listener may have the address; once, so that it keeps it.
void listener_core::leave_address() noexcept {
  {
    const std::lock_guard guard(mutex_);
    if (std::exchange(has_left_, true)) return;
  }
  if (at_.scheme == scheme::unix_socket) platform::remove_file(at_.name);
  if (at_.scheme == scheme::inproc) home_.runtime().remove_name(at_.name);
}

void listener_core::close() noexcept {
  if (birthmark_.is_inherited()) return;
  {
    const std::lock_guard guard(mutex_);
    if (closed_ || std::exchange(close_posted_, true)) return;
  }
  leave_address();
  closing_self_ = shared_from_this();
  home_.post(close_work_, priority::control);
}

void listener_core::run_close(work& item) noexcept {
  listener_core& owner = static_cast<own_work&>(item).owner;
  const std::shared_ptr<listener_core> self = std::move(owner.closing_self_);
  owner.close_here();
}

void listener_core::close_here() noexcept {
  if (std::exchange(shut_, true)) return;
  {
    const std::lock_guard guard(mutex_);
    closed_ = true;
    ready_.clear();
  }
  wake_accepters();
  if (retry_.armed()) home_.disarm(retry_);
  greetings_.clear();
  leave_address();
  if (acceptor_ != nullptr) return acceptor_->close();
  on_closed();
}

void listener_core::on_closed() noexcept {
  const std::shared_ptr<listener_core> self = std::move(self_);
  home_.remove_component(*this);
  acceptor_.reset();
}

void listener_core::offer(socket_owner socket) {
  send(home_, [self = shared_from_this(), offered = std::move(socket)]() mutable noexcept {
    if (!self->shut_) self->on_accept(offered.give());
  });
}

// ---- accepting ------------------------------------------------------------------------------

void listener_core::on_accept_failed(std::error_code why) noexcept {
  if (shut_) return;
  if (!std::exchange(exhausted_, true)) {
    note(log_level::warning, [&] { return uri + ": accepting waits: " + why.message(); });
  }
  home_.arm(retry_, home_.now() + accept_retry);
}

void listener_core::on_retry(timer& entry) noexcept {
  listener_core& self = static_cast<retry_timer&>(entry).owner;
  if (!self.shut_) self.acceptor_->start();
}

void listener_core::on_accept(platform::native_handle socket) noexcept {
  exhausted_ = false;
  try {
    std::list<greeting> one(1);  // joins the others once nothing can fail any more
    greeting& who = one.front();
    if (over_unix()) {
      who.peer = platform::peer_of(socket);
      const bool own = who.peer.has_value() && who.peer->user == platform::current_user();
      if (!own && !options_.any_user) {
        note(log_level::warning, [&] {
          return uri + ": turned away " + describe(who.peer, socket, true) + ": " +
                 make_error_code(errc::unauthorized).message();
        });
        return platform::close(socket);
      }
    }
    if (greetings_.size() >= options_.backlog) {
      note(log_level::warning, [&] { return uri + ": too many connections that say nothing yet"; });
      return platform::close(socket);
    }
    who.from = describe(who.peer, socket, over_unix());
    const greeting_place place = one.begin();
    exchange::plan plan;
    plan.socket = socket;
    plan.limit = options_.link.handshake_timeout;
    plan.over_unix = shares_memory();
    place->words = std::make_unique<exchange>(
        home_, std::move(plan),
        [this, place](const exchange::outcome& why, platform::native_handle greeted_socket,
                      exchange::first_words came) {
          greeted(place, why, socket_owner(greeted_socket), std::move(came));
        });
    greetings_.splice(greetings_.begin(), one);
    place->words->start();
  } catch (const std::exception& error) {
    note(log_level::warning, [&] { return uri + ": " + error.what(); });
    platform::close(socket);
  }
}

void listener_core::greeted(greeting_place who, const exchange::outcome& why,
                            socket_owner socket, exchange::first_words came) noexcept {
  const greeting greeted_one = std::move(*who);
  greetings_.erase(who);
  if (why.has_value()) {
    return note(log_level::info, [&] {
      return uri + ": handshake with " + greeted_one.from + ": " + why->text();
    });
  }
  try {
    const auto opening = wire::decode_opening(came.header);
    if (!opening.has_value()) {
      return refuse(std::move(socket), errc::protocol_violation,
                    "the first frame is no hello and no attach", greeted_one.from);
    }
    if (opening->attach.has_value()) {
      return admit_attach(std::move(socket), *opening->attach, std::move(came.rest));
    }
    if (opening->share.has_value()) {
      return admit_share(std::move(socket), *opening->share, std::move(came.handles));
    }
    admit(greeted_one, std::move(socket), *opening->hello, std::move(came.rest));
  } catch (const std::exception& error) {
    note(log_level::warning, [&] { return uri + ": " + error.what(); });
  }
}

// One attempt: what the system does not take at once is not worth waiting for.
void listener_core::refuse(socket_owner socket, errc code, std::string_view text,
                           std::string_view from) noexcept {
  note(log_level::warning, [&] {
    return uri + ": refused " + std::string(from) + ": " + std::string(text);
  });
  try {
    const auto frame = wire::encode(wire::refusal{code, std::string(text)});
    static_cast<void>(write_at_once(socket.get(), frame));
  } catch (const std::bad_alloc&) {
    // hanging up says enough
  }
  platform::shut_down_writing(socket.get());
}

void listener_core::admit(const greeting& who, socket_owner socket, const wire::hello& hello,
                          std::vector<std::byte> rest) {
  newcomer next{std::move(socket), hello, who.from, std::move(rest),
                who.peer.has_value() ? who.peer->user : 0, who.peer.has_value()};
  if (at_.must_share && (hello.features & wire::feature::share) == 0) {
    return refuse(std::move(next.socket), errc::unsupported, "links here share memory", who.from);
  }
  if (hello.resume_secret.has_value()) return readmit(std::move(next));
  if (!registry_->reserve(next.user, next.has_user)) {
    return refuse(std::move(next.socket), errc::limit_reached, "too many links", who.from);
  }
  worker& home = home_.runtime().pick_home();
  try {
    send(home, [self = shared_from_this(), &home, next = std::move(next)]() mutable noexcept {
      self->begin_link(home, next);
    });
  } catch (...) {
    registry_->give_back(next.user, next.has_user);
    throw;
  }
}

// On the home of the link to be. Its reservation is the registry's from adopt_registry() on.
void listener_core::begin_link(worker& home, newcomer& from) noexcept {
  link_core* core = nullptr;
  try {
    wire::settings settings = make_settings(options_.link);
    settings.share = shares_memory();
    home.runtime().fill_random(settings.attach_secret.data(), settings.attach_secret.size());
    home.runtime().fill_random(settings.resume_secret.data(), settings.resume_secret.size());
    link_core::origin origin;
    origin.peer = from.from;
    origin.kernel_buffers = over_unix() || options_.link.channels == 1;
    core = new link_core(home, options_.link, settings, from.hello, std::move(origin));
  } catch (const std::exception& error) {
    registry_->give_back(from.user, from.has_user);
    return note(log_level::error, [&] { return uri + ": " + error.what(); });
  }
  link handle(core);
  if (!core->wire().ended()) {
    try {
      if (!core->adopt_registry(registry_, from.user, from.has_user)) {
        core->wire().fail(errc::refused, "a link with this id exists");
      }
    } catch (const std::bad_alloc&) {
      core->wire().fail(errc::resource_exhausted, "no memory for another link");
    }
  }
  const bool open = !core->wire().ended();
  if (!open) {
    registry_->give_back(from.user, from.has_user);
    note(log_level::warning, [&] {
      return uri + ": refused " + from.from + ": " + core->wire().why().text();
    });
  }
  core->start(from.socket.give(), from.rest);
  if (open) deliver(std::move(handle));
}

struct listener_core::resuming {
  std::shared_ptr<listener_core> self;
  newcomer from;
  link_core* core = nullptr;

  void operator()() noexcept {
    self->resume(*core, from);
    core->end_visit();
  }
};

// What carries a socket to the home of its link is made first: nothing may fail once the link waits
// for it.
void listener_core::readmit(newcomer from) {
  auto carrier = std::make_unique<errand<resuming>>(resuming{shared_from_this(), std::move(from)});
  newcomer& next = carrier->what().from;
  link_core* const core = registry_->find(next.hello);
  if (core == nullptr) {
    return refuse(std::move(next.socket), errc::refused, not_held, next.from);
  }
  carrier->what().core = core;
  core->home().post(*carrier.release(), priority::control);
}

void listener_core::resume(link_core& core, newcomer& from) noexcept {
  try {
    if (core.resume(from.socket.get(), from.hello, std::move(from.rest))) {
      static_cast<void>(from.socket.give());
    } else {
      refuse(std::move(from.socket), errc::refused, not_held, from.from);
    }
  } catch (const std::bad_alloc&) {
    // to the client it looks like a lost connection: it comes again
  }
}

struct listener_core::attaching {
  std::shared_ptr<listener_core> self;
  socket_owner socket;
  std::size_t channel;
  std::vector<std::byte> rest;
  link_core* core = nullptr;

  void operator()() noexcept {
    self->attach(*core, *this);
    core->end_visit();
  }
};

void listener_core::admit_attach(socket_owner socket, const wire::attach& wanted,
                                 std::vector<std::byte> rest) {
  auto carrier = std::make_unique<errand<attaching>>(
      attaching{shared_from_this(), std::move(socket), static_cast<std::size_t>(wanted.channel),
                std::move(rest)});
  link_core* const core = registry_->find(wanted);
  if (core == nullptr) {
    return refuse(std::move(carrier->what().socket), errc::unauthorized,
                  "an attach without its link or secret", "an attach");
  }
  carrier->what().core = core;
  core->home().post(*carrier.release(), priority::control);
}

void listener_core::attach(link_core& core, attaching& wanted) noexcept {
  const std::size_t channel = wanted.channel;
  try {
    if (channel == 0 || channel >= wire::channel_count || !core.wire().attach_allowed(channel)) {
      return refuse(std::move(wanted.socket), errc::refused,
                    "channel " + std::to_string(channel) + " cannot have another socket",
                    core.peer());
    }
    if (!write_at_once(wanted.socket.get(), wire::encode_attached())) return;
  } catch (const std::bad_alloc&) {
    return;  // to the client it looks like a lost connection: the channel stays where it is
  }
  const auto taken = wanted.socket.give();
  if (!core.attach(channel, taken, wanted.rest)) platform::close(taken);
}

// ---- shared memory --------------------------------------------------------------------------

struct listener_core::sharing {
  std::shared_ptr<listener_core> self;
  socket_owner socket;
  wire::share offered;
  handle_owners handles;
  link_core* core = nullptr;

  void operator()() noexcept {
    self->share(*core, *this);
    core->end_visit();
  }
};

void listener_core::admit_share(socket_owner socket, const wire::share& offered,
                                handle_owners handles) {
  auto carrier = std::make_unique<errand<sharing>>(
      sharing{shared_from_this(), std::move(socket), offered, std::move(handles)});
  link_core* const core = registry_->find(wire::attach{offered.link_id, offered.secret, 0});
  if (core == nullptr) {
    return refuse(std::move(carrier->what().socket), errc::unauthorized,
                  "shared memory without its link or secret", "an offer to share");
  }
  carrier->what().core = core;
  core->home().post(*carrier.release(), priority::control);
}

// Everything that a peer may have made wrong ends in a refusal, and the link goes on over sockets.
void listener_core::share(link_core& core, sharing& offered) noexcept {
  const auto no = [&](errc code, std::string_view why) {
    core.share_failed(why);
    refuse(std::move(offered.socket), code, why, core.peer());
  };
  try {
    if (!core.wire().may_share() || core.wire().shares()) {
      return no(errc::refused, "this link does not share memory now");
    }
    if (offered.offered.layout != shm::layout_version) {
      return no(errc::unsupported, "a layout that is not known here");
    }
    shm::ring_sizes sizes{};
    for (std::size_t i = 0; i < shm::ring_count; ++i) {
      if (!shm::is_ring_size(offered.offered.ring_bytes[i])) {
        return no(errc::protocol_violation, "a ring of that size cannot be");
      }
      sizes[i] = static_cast<std::size_t>(offered.offered.ring_bytes[i]);
    }
    if (shm::segment_bytes(sizes) > options_.link.shared_bytes) {
      return no(errc::limit_reached, "more shared memory than is allowed here");
    }
    const std::uint64_t arena_bytes = offered.offered.arena_bytes;
    if (arena_bytes != 0 && (!core.wire().may_lend() || !shm::is_arena_size(arena_bytes))) {
      return no(errc::protocol_violation, "an arena of that size cannot be");
    }
    if (arena_bytes > options_.link.arena_bytes) {
      return no(errc::limit_reached, "a larger arena than is allowed here");
    }
    auto& handles = offered.handles.all();
    if (handles.cut_short) {
      return no(errc::resource_exhausted, "no descriptor is left for shared memory");
    }
    const shm::passable files = core.passable();
    if (files != shm::passable::none && arena_bytes == 0) {
      return no(errc::protocol_violation, "no arena, and files are to be passed");
    }
    if (handles.count != 1U + (arena_bytes != 0 ? 1 : 0) + (files != shm::passable::none ? 1 : 0)) {
      return no(errc::protocol_violation, "an offer to share has one handle for each memory");
    }
    shm::segment mapped = shm::segment::adopt(handles.handles[0], sizes);
    link_core::lent_memory loans;
    if (arena_bytes != 0) {
      loans.memory =
          shm::arena_memory::adopt(handles.handles[1], static_cast<std::size_t>(arena_bytes));
    }
    if (files != shm::passable::none) {
      loans.files = {std::exchange(handles.handles[2], platform::no_handle), files};
    }
    const auto attached = wire::encode_attached();
    core.share(std::move(mapped), std::move(loans), shm::side::server, offered.socket.give(),
               attached);
  } catch (const std::system_error& error) {
    no(errc::unsupported, error.what());
  } catch (const std::bad_alloc&) {
    // to the client it looks like a lost connection: the link stays where it is
  }
}

}  // namespace detail

// ---- the handle -----------------------------------------------------------------------------

listener::listener(std::shared_ptr<detail::listener_core> core) noexcept : core_(std::move(core)) {}

listener::listener(listener&&) noexcept = default;

listener& listener::operator=(listener&& other) noexcept {
  std::swap(core_, other.core_);
  return *this;
}

listener::~listener() {
  if (core_ != nullptr) core_->close();
}

task<link> listener::accept() {
  const std::shared_ptr<detail::listener_core> core = core_;
  HAWSER_ASSERT(core != nullptr);
  link next = co_await detail::listener_core::accept_op(*core);
  co_return next;
}

const std::string& listener::uri() const noexcept {
  return core_->uri;
}

listener listen(runtime& where, std::string_view uri, listen_options options) {
  detail::endpoint at = detail::parse_uri(uri, options.link);
  const auto check = [](const char* name, unsigned value, unsigned highest) {
    if (value >= 1 && value <= highest) return;
    failure(errc::bad_config, std::string("listen_options::") + name + " is " +
                                  std::to_string(value) + ", accepted are 1 to " +
                                  std::to_string(highest))
        .raise();
  };
  check("max_links", options.max_links, 1'000'000);
  check("max_links_per_user", options.max_links_per_user, 1'000'000);
  check("backlog", options.backlog, 65'535);

  detail::runtime_core& runtime = where.core();
  auto core = std::make_shared<detail::listener_core>(runtime.pick_home(), at, options);
  const int backlog = static_cast<int>(options.backlog);
  std::optional<detail::socket_owner> socket;
  core->uri = detail::to_uri(at);
  switch (at.scheme) {
    case detail::scheme::tcp: {
      const auto addresses = platform::resolve(at.host.empty() ? "127.0.0.1" : at.host, at.port);
      if (addresses.empty()) failure(errc::unreachable, core->uri + ": no address").raise();
      socket.emplace(platform::open_listener(addresses.front(), backlog));
      core->uri = platform::to_string(platform::local_address(socket->get()));
      break;
    }
    case detail::scheme::unix_socket:
      socket.emplace(platform::open_unix_listener(at.name, backlog, options.any_user));
      break;
    case detail::scheme::inproc:
      if (!runtime.add_name(at.name, core)) {
        failure(errc::address_in_use, core->uri + " in this runtime").raise();
      }
      break;
  }
  core->start(socket.has_value() ? std::move(*socket)
                                 : detail::socket_owner(platform::no_handle));
  return listener(std::move(core));
}

}  // namespace hawser
