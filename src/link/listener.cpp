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

// Runs a function once on a worker, from anywhere.
class errand final : public work {
 public:
  static void send(worker& where, std::function<void()> what) {
    where.post(*new errand(std::move(what)), priority::control);
  }

 private:
  explicit errand(std::function<void()> what) : work(&errand::arrive), what_(std::move(what)) {}

  static void arrive(work& item) noexcept {
    const std::unique_ptr<errand> self(static_cast<errand*>(&item));
    self->what_();
  }

  std::function<void()> what_;
};

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
      link_ = std::move(owner_.ready_.front());
      owner_.ready_.pop_front();
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

void listener_core::deliver(link ready) {
  {
    const std::lock_guard guard(mutex_);
    if (closed_) return;  // the handle goes, and the link closes in order
    ready_.push_back(std::move(ready));
  }
  errand::send(home_, [self = shared_from_this()] { self->wake_accepters(); });
}

// ---- beginning and end ----------------------------------------------------------------------

listener_core::listener_core(worker& home, endpoint at, listen_options options)
    : home_(home),
      at_(std::move(at)),
      options_(options),
      registry_(std::make_shared<link_registry>(options.max_links, options.max_links_per_user)),
      retry_(*this) {}

void listener_core::start(platform::native_handle socket) {
  self_ = shared_from_this();
  errand::send(home_, [self = self_, socket] { self->begin(socket); });
}

void listener_core::begin(platform::native_handle socket) noexcept {
  home_.add_component(*this);
  if (socket == platform::no_handle) return;
  try {
    acceptor_ = home_.reactor().listen(socket, *this);
    acceptor_->start();
  } catch (const std::exception& error) {
    note(log_level::error, uri + ": cannot accept: " + error.what());
  }
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
  {
    const std::lock_guard guard(mutex_);
    if (closed_) return;
  }
  leave_address();
  try {
    errand::send(home_, [self = shared_from_this()] { self->close_here(); });
  } catch (const std::bad_alloc&) {
    // it closes when the runtime ends
  }
}

void listener_core::close_here() noexcept {
  if (std::exchange(shut_, true)) return;
  std::deque<link> left;
  {
    const std::lock_guard guard(mutex_);
    closed_ = true;
    left.swap(ready_);
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

void listener_core::offer(platform::native_handle socket) {
  errand::send(home_, [self = shared_from_this(), socket] {
    if (self->shut_) return platform::close(socket);
    self->on_accept(socket);
  });
}

// ---- accepting ------------------------------------------------------------------------------

void listener_core::on_accept_failed(std::error_code why) noexcept {
  if (shut_) return;
  if (!std::exchange(exhausted_, true)) {
    note(log_level::warning, uri + ": accepting waits: " + why.message());
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
        note(log_level::warning, uri + ": turned away " + describe(who.peer, socket, true) +
                                     ": " + make_error_code(errc::unauthorized).message());
        return platform::close(socket);
      }
    }
    if (greetings_.size() >= options_.backlog) {
      note(log_level::warning, uri + ": too many connections that say nothing yet");
      return platform::close(socket);
    }
    who.from = describe(who.peer, socket, over_unix());
    const greeting_place place = one.begin();
    exchange::plan plan;
    plan.socket = socket;
    plan.limit = options_.link.handshake_timeout;
    place->words = std::make_unique<exchange>(
        home_, std::move(plan),
        [this, place](const exchange::outcome& why, platform::native_handle greeted_socket,
                      exchange::first_words came) {
          greeted(place, why, greeted_socket, std::move(came));
        });
    greetings_.splice(greetings_.begin(), one);
    place->words->start();
  } catch (const std::exception& error) {
    note(log_level::warning, uri + ": " + error.what());
    platform::close(socket);
  }
}

void listener_core::greeted(greeting_place who, const exchange::outcome& why,
                            platform::native_handle socket, exchange::first_words came) {
  const greeting greeted_one = std::move(*who);
  greetings_.erase(who);
  if (why.has_value()) {
    return note(log_level::info, uri + ": handshake with " + greeted_one.from + ": " + why->text());
  }
  const auto opening = wire::decode_opening(came.header);
  if (!opening.has_value()) {
    return refuse(socket, errc::protocol_violation, "the first frame is no hello and no attach",
                  greeted_one.from);
  }
  if (opening->attach.has_value()) {
    return admit_attach(socket, *opening->attach, std::move(came.rest));
  }
  admit(greeted_one, socket, *opening->hello, std::move(came.rest));
}

// One attempt: what the system does not take at once is not worth waiting for.
void listener_core::refuse(platform::native_handle socket, errc code, const std::string& text,
                           const std::string& from) {
  note(log_level::warning, uri + ": refused " + from + ": " + text);
  const auto frame = wire::encode(wire::refusal{code, text});
  const platform::io_slice slice{frame.data(), frame.size()};
  std::error_code ignored;
  static_cast<void>(platform::write_some(socket, {&slice, 1}, ignored));
  platform::shut_down_writing(socket);
  platform::close(socket);
}

void listener_core::admit(const greeting& who, platform::native_handle socket,
                          const wire::hello& hello, std::vector<std::byte> rest) {
  const std::uint32_t user = who.peer.has_value() ? who.peer->user : 0;
  const bool has_user = who.peer.has_value();
  if (!registry_->reserve(user, has_user)) {
    return refuse(socket, errc::limit_reached, "too many links", who.from);
  }
  worker& home = home_.runtime().pick_home();
  errand::send(home, [self = shared_from_this(), &home, socket, hello, from = who.from, user,
                      has_user, rest = std::move(rest)] {
    link_core* core = nullptr;
    try {
      wire::settings settings = make_settings(self->options_.link);
      home.runtime().fill_random(settings.attach_secret.data(), settings.attach_secret.size());
      home.runtime().fill_random(settings.resume_secret.data(), settings.resume_secret.size());
      link_core::origin origin;
      origin.peer = from;
      origin.kernel_buffers = self->over_unix() || self->options_.link.channels == 1;
      core = new link_core(home, self->options_.link, settings, hello, std::move(origin));
      link handle(core);
      if (!core->wire().ended() && !core->adopt_registry(self->registry_, user, has_user)) {
        core->wire().fail(errc::refused, "a link with this id exists");
      }
      if (core->wire().ended()) {
        self->registry_->give_back(user, has_user);
        self->note(log_level::warning,
                   self->uri + ": refused " + from + ": " + core->wire().why().text());
      }
      const bool open = !core->wire().ended();
      core->start(socket, rest);
      if (open) self->deliver(std::move(handle));
    } catch (const std::exception& error) {
      self->note(log_level::error, self->uri + ": " + error.what());
      if (core == nullptr) {
        self->registry_->give_back(user, has_user);
        platform::close(socket);
      }
    }
  });
}

void listener_core::admit_attach(platform::native_handle socket, const wire::attach& wanted,
                                 std::vector<std::byte> rest) {
  link_core* const core = registry_->find(wanted);
  if (core == nullptr) {
    return refuse(socket, errc::unauthorized, "an attach without its link or secret", "an attach");
  }
  errand::send(core->home(), [self = shared_from_this(), core, socket,
                              channel = static_cast<std::size_t>(wanted.channel),
                              rest = std::move(rest)] {
    if (channel == 0 || channel >= wire::channel_count || !core->wire().attach_allowed(channel)) {
      self->refuse(socket, errc::refused,
                   "channel " + std::to_string(channel) + " cannot have another socket",
                   core->peer());
    } else {
      const auto frame = wire::encode_attached();
      const platform::io_slice slice{frame.data(), frame.size()};
      std::error_code error;
      const std::size_t wrote = platform::write_some(socket, {&slice, 1}, error);
      if (wrote != frame.size() || !core->attach(channel, socket, rest)) {
        platform::close(socket);
      }
    }
    core->end_visit();
  });
}

void listener_core::note(log_level level, const std::string& text) noexcept {
  home_.runtime().log(level, "listener", text);
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
  platform::native_handle socket = platform::no_handle;
  core->uri = detail::to_uri(at);
  switch (at.scheme) {
    case detail::scheme::tcp: {
      const auto addresses = platform::resolve(at.host.empty() ? "127.0.0.1" : at.host, at.port);
      if (addresses.empty()) failure(errc::unreachable, core->uri + ": no address").raise();
      socket = platform::open_listener(addresses.front(), backlog);
      core->uri = platform::to_string(platform::local_address(socket));
      break;
    }
    case detail::scheme::unix_socket:
      socket = platform::open_unix_listener(at.name, backlog, options.any_user);
      break;
    case detail::scheme::inproc:
      if (!runtime.add_name(at.name, core)) {
        failure(errc::address_in_use, core->uri + " in this runtime").raise();
      }
      break;
  }
  core->start(socket);
  return listener(std::move(core));
}

}  // namespace hawser
