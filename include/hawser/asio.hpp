// SPDX-License-Identifier: Apache-2.0
#pragma once

// The bridge to Asio, standalone, 1.22 or later: hawser's tasks await Asio's operations, Asio's
// code starts hawser's, a runtime has an executor for Asio, or lives in an io_context.
//
// Shape: the only public header that includes Asio; who does not include it does not need Asio.

#include <array>
#include <asio/associated_allocator.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/dispatch.hpp>
#include <asio/error.hpp>
#include <asio/execution.hpp>
#include <asio/execution_context.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <asio/system_executor.hpp>
#include <atomic>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>

#include "hawser/as_result.hpp"
#include "hawser/awaitable.hpp"
#include "hawser/driven_runtime.hpp"
#include "hawser/errc.hpp"
#include "hawser/executor.hpp"
#include "hawser/group.hpp"
#include "hawser/operation.hpp"
#include "hawser/posted.hpp"
#include "hawser/result.hpp"
#include "hawser/runtime.hpp"
#include "hawser/stop_token.hpp"
#include "hawser/task.hpp"

namespace hawser {

/// The type of use_task.
struct use_task_t {};

/// The completion token with which a task awaits an Asio operation:
/// `auto n = co_await socket.async_read_some(asio::buffer(room), hawser::use_task);`
///
/// The operation starts when it is awaited, and the task goes on where it was: on its own worker,
/// once, whichever thread completes the operation. Yields what the operation's handler would get
/// behind its error: nothing, a value, or a std::tuple of several.
///
/// Shape:   what the token returns is awaited once, in a task, as every operation of hawser;
///          buffers and objects that the operation refers to must be there until it has been.
/// Errors:  an error_code becomes std::system_error, or the error of as_result(); an exception is
///          rethrown; errc::cancelled for an operation that was aborted because the task was asked
///          to stop; asio::error::operation_aborted if the operation was dropped with its context.
/// Threads: the operation is started on the task's worker. Asio has its own rules for what may
///          happen to an object at the same time: give it a strand where several threads run its
///          io_context.
/// Cancel:  by the stop token, through the cancellation slot of the operation, on the executor of
///          its object. The end of the operation is awaited: an io_context that no longer runs, but
///          is still there, keeps the task.
/// Cost:    no allocation for what Asio keeps of an operation of usual size; a post to the worker,
///          and one to the object's executor for a cancellation.
inline constexpr use_task_t use_task{};

class asio_runtime;

namespace detail {

/// Room for one allocation at a time; what is too large, or comes at the same time, is taken from
/// the frame allocator.
///
/// Threads: any.
template <std::size_t Bytes>
class spare_room {
 public:
  [[nodiscard]] void* allocate(std::size_t bytes) {
    // acquire pairs with the release in release()
    if (bytes <= Bytes && !taken_.exchange(true, std::memory_order_acquire)) return room_.data();
    return allocate_frame(bytes);
  }
  void release(void* memory, std::size_t bytes) noexcept {
    if (memory == room_.data()) {
      taken_.store(false, std::memory_order_release);  // pairs with allocate()
    } else {
      release_frame(memory, bytes);
    }
  }

 private:
  alignas(std::max_align_t) std::array<std::byte, Bytes> room_;
  std::atomic<bool> taken_{false};
};

/// An allocator of what `From` has: allocate(bytes) and release(memory, bytes).
template <class T, class From>
class room_allocator {
 public:
  using value_type = T;

  explicit room_allocator(From& from) noexcept : from_(&from) {}
  template <class U>
  room_allocator(const room_allocator<U, From>& other) noexcept : from_(other.from_) {}

  [[nodiscard]] T* allocate(std::size_t count) const {
    static_assert(alignof(T) <= alignof(std::max_align_t));
    return static_cast<T*>(from_->allocate(count * sizeof(T)));
  }
  void deallocate(T* used, std::size_t count) const noexcept {
    from_->release(used, count * sizeof(T));
  }
  template <class U>
  bool operator==(const room_allocator<U, From>& other) const noexcept {
    return from_ == other.from_;
  }

 private:
  template <class, class>
  friend class room_allocator;

  From* from_;
};

// ---- a task awaits Asio -----------------------------------------------------------------------

/// What a task waits for that ends on a thread of its own: a handler, and the memory that was taken
/// for it. The task goes on when all parts are gone.
class foreign_wait : public operation {
 public:
  // The memory of the handler.
  [[nodiscard]] void* allocate(std::size_t bytes) {
    void* const memory = room_.allocate(bytes);
    add_part();
    return memory;
  }
  void release(void* memory, std::size_t bytes) noexcept {
    room_.release(memory, bytes);
    drop_part();
  }

  // relaxed: who adds a part holds one
  void add_part() noexcept { parts_.fetch_add(1, std::memory_order_relaxed); }
  /// False: all are gone, the end is on its way home.
  [[nodiscard]] bool try_add_part() noexcept {
    unsigned parts = parts_.load(std::memory_order_relaxed);
    while (parts != 0) {
      if (parts_.compare_exchange_weak(parts, parts + 1, std::memory_order_relaxed,
                                       std::memory_order_relaxed)) {
        return true;
      }
    }
    return false;
  }
  /// The last one may end the operation, and with it us.
  void drop_part() noexcept {
    // acq_rel: all that was done to us comes before the task goes on
    if (parts_.fetch_sub(1, std::memory_order_acq_rel) == 1) go_home();
  }

 protected:
  foreign_wait() noexcept : arrival_(*this) {}
  foreign_wait(foreign_wait&& other) noexcept : operation(std::move(other)), arrival_(*this) {}
  ~foreign_wait() = default;

 private:
  static constexpr std::size_t handler_bytes = 384;

  struct arrival : detail::work {
    explicit arrival(foreign_wait& owner) noexcept
        : detail::work([](detail::work& self) noexcept {
            static_cast<arrival&>(self).of.finish();
          }),
          of(owner) {}
    foreign_wait& of;
  };

  void go_home() noexcept {
    if (executor::current() == &home()) {
      finish();
    } else {
      home().deliver(arrival_, urgency());
    }
  }

  arrival arrival_;
  std::atomic<unsigned> parts_{1};  // the handler
  spare_room<handler_bytes> room_;
};

template <class... Values>
struct several_values {
  using type = std::tuple<Values...>;
};
template <>
struct several_values<> {
  using type = void;
};
template <class Value>
struct several_values<Value> {
  using type = Value;
};

/// What an Asio operation says at its end, taken apart: its error, and the rest.
template <class... Args>
struct asio_outcome {
  using value_type = typename several_values<Args...>::type;
  using error_type = void;
  static constexpr std::size_t errors = 0;
};
template <class... Args>
struct asio_outcome<std::error_code, Args...> {
  using value_type = typename several_values<Args...>::type;
  using error_type = std::error_code;
  static constexpr std::size_t errors = 1;
};
template <class... Args>
struct asio_outcome<std::exception_ptr, Args...> {
  using value_type = typename several_values<Args...>::type;
  using error_type = std::exception_ptr;
  static constexpr std::size_t errors = 1;
};

/// The handler of an operation that a task awaits. One that is dropped ends the operation, too.
template <class Operation>
class task_handler {
 public:
  using allocator_type = room_allocator<void, foreign_wait>;
  using cancellation_slot_type = asio::cancellation_slot;

  explicit task_handler(Operation& waiting) noexcept : waiting_(&waiting) {}
  task_handler(task_handler&& other) noexcept
      : waiting_(std::exchange(other.waiting_, nullptr)) {}
  task_handler& operator=(task_handler&&) = delete;
  ~task_handler() {
    if (waiting_ != nullptr) waiting_->drop_part();
  }

  template <class... Values>
  void operator()(Values&&... values) noexcept {
    Operation& waiting = *std::exchange(waiting_, nullptr);
    waiting.set(std::forward<Values>(values)...);
    waiting.drop_part();
  }

  [[nodiscard]] allocator_type get_allocator() const noexcept { return allocator_type(*waiting_); }
  [[nodiscard]] cancellation_slot_type get_cancellation_slot() const noexcept {
    return waiting_->slot();
  }

 private:
  Operation* waiting_;
};

}  // namespace detail

/// What the token use_task returns; await it once.
template <class Initiation, class Inputs, class... Args>
class [[nodiscard]] asio_op final : public detail::foreign_wait {
  using outcome = detail::asio_outcome<Args...>;
  using home_of_object = asio::associated_executor_t<Initiation>;
  using error_type = typename outcome::error_type;
  static constexpr bool throws = std::same_as<error_type, std::exception_ptr>;

 public:
  using value_type = typename outcome::value_type;

  asio_op(Initiation start, Inputs inputs)
      : start_(std::move(start)), inputs_(std::move(inputs)) {}
  asio_op(asio_op&& other)
      : foreign_wait(std::move(other)),
        start_(std::move(other.start_)),
        inputs_(std::move(other.inputs_)) {}

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  template <class Promise>
  [[nodiscard]] bool await_suspend(std::coroutine_handle<Promise> waiter) noexcept {
    return suspend(waiter, detail::context_of(waiter));
  }
  value_type await_resume() {
    if constexpr (throws) {
      check().value();
      if (auto error = std::get<0>(*values_)) std::rethrow_exception(std::move(error));
      return take();
    } else {
      return await_result().value();
    }
  }
  [[nodiscard]] result<value_type> await_result()
    requires(!throws)
  {
    if (auto ended = check(); !ended) return {std::in_place_index<1>, ended.error()};
    if constexpr (std::is_void_v<value_type>) {
      return {};
    } else {
      return take();
    }
  }

 private:
  friend detail::task_handler<asio_op>;

  /// A request to cancel on its way to the object's executor.
  class emission {
   public:
    /// Takes over a part.
    explicit emission(asio_op& target) noexcept : target_(&target) {}
    emission(emission&& other) noexcept : target_(std::exchange(other.target_, nullptr)) {}
    emission& operator=(emission&&) = delete;
    ~emission() {
      if (target_ != nullptr) target_->drop_part();
    }
    void operator()() const { target_->emit(); }

   private:
    asio_op* target_;
  };

  bool suspend(std::coroutine_handle<> waiter, const detail::task_context& context) noexcept {
    if (context.stop.stop_requested()) {
      stopped_ = true;
      return false;
    }
    begin(*detail::executor::current(), waiter, context);
    if (context.stop.stop_possible()) object_.emplace(asio::get_associated_executor(start_));
    start();
    watch_stop();
    return true;
  }
  // What it throws has dropped the handler, so the end comes by that.
  void start() noexcept {
    try {
      std::apply(
          [this](auto&... inputs) {
            std::move(start_)(detail::task_handler<asio_op>(*this), std::move(inputs)...);
          },
          inputs_);
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  template <class... Values>
  void set(Values&&... values) noexcept {
    ended_.store(true, std::memory_order_relaxed);  // for emit(), which runs on the same executor
    try {
      values_.emplace(std::forward<Values>(values)...);
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  [[nodiscard]] asio::cancellation_slot slot() noexcept {
    return object_.has_value() ? signal_.slot() : asio::cancellation_slot();
  }
  // Without memory for the request the operation goes on to its own end.
  void on_cancel() noexcept override {
    stopped_ = true;
    if (!try_add_part()) return;
    try {
      asio::dispatch(*object_, emission(*this));
    } catch (...) {
    }
  }
  void emit() {
    if (!ended_.load(std::memory_order_relaxed)) signal_.emit(asio::cancellation_type::all);
  }

  [[nodiscard]] result<void> check() const {
    if (error_) std::rethrow_exception(error_);
    if (!values_.has_value()) {
      if (stopped_) return failure(errc::cancelled, "asio operation");
      return failure(asio::error::operation_aborted, "the asio operation was dropped");
    }
    if constexpr (std::same_as<error_type, std::error_code>) {
      const std::error_code& code = std::get<0>(*values_);
      if (stopped_ && code == asio::error::operation_aborted) {
        return failure(errc::cancelled, "asio operation");
      }
      if (code) return failure(code);
    }
    return {};
  }
  [[nodiscard]] value_type take() {
    return std::apply(
        [](auto&... all) -> value_type {
          auto whole = std::tie(all...);
          return take_rest(whole, std::make_index_sequence<sizeof...(Args) - outcome::errors>());
        },
        *values_);
  }
  template <class Whole, std::size_t... At>
  static value_type take_rest(Whole& whole, std::index_sequence<At...> /*which*/) {
    if constexpr (!std::is_void_v<value_type>) {
      return value_type(std::move(std::get<At + outcome::errors>(whole))...);
    }
  }

  Initiation start_;
  Inputs inputs_;
  std::optional<home_of_object> object_;  // engaged: the task can be asked to stop
  asio::cancellation_signal signal_;
  std::optional<std::tuple<Args...>> values_;
  std::exception_ptr error_;
  std::atomic<bool> ended_{false};
  bool stopped_ = false;
};

// ---- Asio code starts hawser's operations -----------------------------------------------------

namespace detail {

class asio_driver;

/// Asks a task to stop when a cancellation signal says so. Shared with the task, so that a signal
/// may come while the task ends elsewhere.
class stop_on_signal {
 public:
  stop_on_signal(std::shared_ptr<stop_source> asked, asio::cancellation_type heeded) noexcept
      : asked_(std::move(asked)), heeded_(heeded) {}
  void operator()(asio::cancellation_type type) const noexcept {
    if ((type & heeded_) != asio::cancellation_type::none) asked_->request_stop();
  }

 private:
  std::shared_ptr<stop_source> asked_;
  asio::cancellation_type heeded_;
};

/// The stop token of what was started: the runtime's, or also a cancellation slot's.
class started_stop {
 public:
  explicit started_stop(stop_token of_runtime) noexcept : of_runtime_(of_runtime) {}

  template <class Slot, class Allocator>
  void connect(Slot slot, asio::cancellation_type heeded, const Allocator& allocator) {
    if (!slot.is_connected()) return;
    asked_ = std::allocate_shared<stop_source>(allocator);
    slot.template emplace<stop_on_signal>(asked_, heeded);
    forward_.emplace(of_runtime_, request(*asked_));
  }
  [[nodiscard]] stop_token token() noexcept {
    return asked_ == nullptr ? of_runtime_ : asked_->token();
  }
  /// Lets go of the runtime.
  void disconnect() noexcept { forward_.reset(); }

 private:
  class request {
   public:
    explicit request(stop_source& target) noexcept : target_(&target) {}
    void operator()() const noexcept { target_->request_stop(); }

   private:
    stop_source* target_;
  };

  stop_token of_runtime_;
  std::shared_ptr<stop_source> asked_;
  std::optional<stop_callback<request>> forward_;
};

/// Something that Asio code has started, from its start until its handler can be called.
///
/// Its last step on a worker is run_end(): then it is the runtime's no more.
class started_base : private work {
 public:
  /// Hands the handler to its executor. Destroys us before.
  virtual void complete() = 0;

 protected:
  started_base(runtime& where, asio_driver* inside) noexcept
      : work(&started_base::run_end), stop_(entry_stop(where)), where_(&where), inside_(inside) {}
  ~started_base() = default;

  void begin(child root) {
    task_context context;
    context.stop = stop_.token();
    home_ = &entry_executor(*where_);
    work_began(*where_);
    std::move(root).start_on(*home_, context);
  }
  /// The last act of the task. In an io_context all handlers come from one place.
  void end() noexcept {
    executor& last = inside_ == nullptr ? *executor::current() : *home_;
    last.post(*this, priority::rpc);
  }

  started_stop stop_;

 private:
  friend class asio_driver;

  static inline void run_end(work& self) noexcept;

  runtime* where_;
  asio_driver* inside_;  // null: a runtime with threads of its own
  executor* home_ = nullptr;
  started_base* next_ = nullptr;
};

/// How a handler is told the end of `A`: an operation's by an error code, a task's by an exception.
template <class A>
using started_error =
    std::conditional_t<resultful<A>, std::error_code, std::exception_ptr>;

template <class Error, class Value>
struct started_signature {
  using type = void(Error, Value);
};
template <class Error>
struct started_signature<Error, void> {
  using type = void(Error);
};

template <class A>
using started_value = std::remove_cvref_t<await_result_t<A>>;

/// What a handler is called with.
template <class A>
class started_outcome {
 public:
  void set(await_value_t<A> value) { value_.emplace(std::move(value)); }
  void set(const failure& why) noexcept { error_ = in_asio(why.code()); }
  // An operation ends with an error code, and there is nothing else it could end with.
  void set(std::exception_ptr error) noexcept {
    if constexpr (resultful<A>) {
      set_code(error);
    } else {
      error_ = std::move(error);
    }
  }

  template <class Handler>
  void tell(Handler&& handler) {
    if constexpr (std::is_void_v<started_value<A>>) {
      std::forward<Handler>(handler)(std::move(error_));
    } else {
      if (!value_.has_value()) value_.emplace(no_value());
      std::forward<Handler>(handler)(std::move(error_), std::move(*value_));
    }
  }

 private:
  [[nodiscard]] static await_value_t<A> no_value() {
    if constexpr (std::default_initializable<await_value_t<A>>) {
      return {};
    } else {
      return await_value_t<A>(failure(errc::cancelled));  // a result<T>
    }
  }
  // What Asio's code compares with.
  [[nodiscard]] static std::error_code in_asio(const std::error_code& code) noexcept {
    return code == errc::cancelled ? asio::error::operation_aborted : code;
  }
  void set_code(const std::exception_ptr& error) noexcept {
    try {
      std::rethrow_exception(error);
    } catch (const std::system_error& why) {
      error_ = in_asio(why.code());
    } catch (const std::bad_alloc&) {
      error_ = errc::resource_exhausted;
    }
  }

  started_error<A> error_{};
  std::optional<await_value_t<A>> value_;
};

/// The handler on its way to its executor.
template <class Handler, class A>
class started_completion {
 public:
  using allocator_type = asio::associated_allocator_t<Handler>;

  started_completion(Handler handler, started_outcome<A> outcome)
      : handler_(std::move(handler)), outcome_(std::move(outcome)) {}

  [[nodiscard]] allocator_type get_allocator() const noexcept {
    return asio::get_associated_allocator(handler_);
  }
  // The slot belongs to the thread of the handler.
  void operator()() {
    if (auto slot = asio::get_associated_cancellation_slot(handler_); slot.is_connected()) {
      slot.clear();
    }
    outcome_.tell(std::move(handler_));
  }

 private:
  Handler handler_;
  started_outcome<A> outcome_;
};

template <class A, class Handler, class Fallback>
class started final : public started_base {
  using executor_type = asio::associated_executor_t<Handler, Fallback>;
  using allocator_type = typename std::allocator_traits<
      asio::associated_allocator_t<Handler>>::template rebind_alloc<started>;
  using storage = std::allocator_traits<allocator_type>;

 public:
  /// Errors: throws std::bad_alloc; nothing was started then.
  static void start(runtime& where, asio_driver* inside, const Fallback& fallback,
                    Handler&& handler, A&& awaitable) {
    allocator_type allocator(asio::get_associated_allocator(handler));
    owner memory{allocator, storage::allocate(allocator, 1)};
    started* const made =
        new (memory.at) started(where, inside, fallback, std::move(handler));
    memory.made = made;
    child root = made->run(std::move(awaitable));
    made->stop_.connect(asio::get_associated_cancellation_slot(made->handler_), heeded, allocator);
    memory.at = nullptr;
    made->begin(std::move(root));
  }

  void complete() override {
    owner memory{allocator_type(asio::get_associated_allocator(handler_)), this, this};
    const auto counted = std::move(work_);
    started_completion<Handler, A> completion(std::move(handler_), std::move(outcome_));
    memory.release();
    asio::dispatch(counted, std::move(completion));
  }

 private:
  /// The memory of one, and the one in it if it was made.
  struct owner {
    allocator_type allocator;
    started* at;
    started* made = nullptr;

    void release() noexcept {
      if (made != nullptr) made->~started();
      if (at != nullptr) storage::deallocate(allocator, at, 1);
      at = made = nullptr;
    }
    ~owner() {
      if (at != nullptr) release();
    }
  };

  // An operation that is cancelled has done nothing; a task may have done a part.
  static constexpr asio::cancellation_type heeded =
      resultful<A> ? asio::cancellation_type::all
                   : asio::cancellation_type::terminal | asio::cancellation_type::partial;

  started(runtime& where, asio_driver* inside, const Fallback& fallback, Handler&& handler)
      : started_base(where, inside),
        handler_(std::move(handler)),
        work_(asio::prefer(executor_type(asio::get_associated_executor(handler_, fallback)),
                           asio::execution::outstanding_work.tracked)) {}
  ~started() = default;

  child run(A awaitable) {
    try {
      A own = std::move(awaitable);
      if constexpr (resultful<A>) {
        auto got = co_await as_result(std::move(own));
        set(got);
      } else {
        auto got = co_await as_value(std::move(own));
        outcome_.set(std::move(got));
      }
    } catch (...) {
      outcome_.set(std::current_exception());
    }
    end();
  }
  template <class Result>
  void set(Result& got) {
    if (!got.has_value()) {
      outcome_.set(got.error());
    } else if constexpr (!std::is_void_v<started_value<A>>) {
      outcome_.set(std::move(*got));
    }
  }

  Handler handler_;
  // No executor_work_guard: that has a second copy, which outlives the work, and so perhaps the
  // execution context.
  std::decay_t<decltype(asio::prefer(std::declval<executor_type>(),
                                     asio::execution::outstanding_work.tracked))>
      work_;
  started_outcome<A> outcome_;
};

/// Begins what async_start() was given, once there is a handler.
template <class Fallback>
class start_initiation {
 public:
  using executor_type = Fallback;

  start_initiation(runtime& where, asio_driver* inside, const Fallback& fallback) noexcept
      : where_(&where), inside_(inside), fallback_(fallback) {}

  [[nodiscard]] executor_type get_executor() const noexcept { return fallback_; }
  template <class Handler, class A>
  void operator()(Handler&& handler, A&& awaitable) const {
    using kept = std::decay_t<Handler>;
    using input = std::decay_t<A>;
    started<input, kept, Fallback>::start(*where_, inside_, fallback_,
                                          kept(std::forward<Handler>(handler)),
                                          input(std::forward<A>(awaitable)));
  }

 private:
  runtime* where_;
  asio_driver* inside_;
  Fallback fallback_;
};

template <class A, class Token, class Fallback>
auto start_for_asio(runtime& where, asio_driver* inside, const Fallback& fallback, A&& awaitable,
                    Token&& token) {
  using input = std::decay_t<A>;
  using signature =
      typename started_signature<started_error<input>, started_value<input>>::type;
  return asio::async_initiate<Token, signature>(
      start_initiation<Fallback>(where, inside, fallback), token, std::forward<A>(awaitable));
}

}  // namespace detail

/// Starts `awaitable`, an operation or a task, on a worker of `where`, and ends as `token` says:
/// asio::use_awaitable, deferred, use_future, a callback, with bind_executor and the like.
///
/// `auto message = co_await hawser::async_start(runtime, link.rpc().recv(), asio::use_awaitable);`
///
/// An operation (what as_result() takes without an exception: those of channels, sleep_for(),
/// use_task) ends as one of Asio does, void(std::error_code, T). All else, and so a task, ends as
/// what co_spawn() started, void(std::exception_ptr, T), and keeps the text of an error. There is
/// no T if there is no value; after a failure it is T().
///
/// Shape:   `awaitable` is moved. T can be made by default: else wrap it in a task that yields an
///          optional. What it refers to must be there until the handler runs: a span that is sent,
///          the handle of a link that receives.
/// Errors:  cancelled, an operation ends with asio::error::operation_aborted. Throws
///          std::bad_alloc when nothing was started.
/// Threads: any. The handler runs on its associated executor, which has work outstanding until
///          then; without one on the io_context of an asio_runtime, else on a worker, where it must
///          not throw. Never inside this call.
/// Cancel:  by the handler's cancellation slot, emitted where Asio allows it: operations heed all
///          types, tasks terminal and partial. By runtime::request_stop().
/// Cost:    one allocation by the handler's associated allocator, a second one if the slot is
///          connected, and a recycled frame; a post to the worker, one to the executor.
template <awaitable A, class Token>
auto async_start(runtime& where, A&& awaitable, Token&& token) {
  return detail::start_for_asio(where, nullptr, asio::system_executor(),
                                std::forward<A>(awaitable), std::forward<Token>(token));
}

// ---- a runtime as an execution context --------------------------------------------------------

/// What a runtime is to Asio: a context whose executor runs functions on the runtime's workers.
/// Timers, sockets and strands can be made with it; what they need of an event loop they get from
/// a thread of Asio's.
///
/// Shape:   lives shorter than the runtime, and longer than what was made with its executor.
class asio_context : public asio::execution_context {
 public:
  class executor_type;

  explicit asio_context(runtime& where) noexcept : where_(&where) {}
  ~asio_context() {
    shutdown();
    destroy();
  }

  /// Threads: any.
  [[nodiscard]] executor_type get_executor(priority urgency = priority::rpc) noexcept;

 private:
  runtime* where_;
};

/// Satisfies Asio's requirements of an executor: blocking.possibly (by default) and never,
/// relationship.fork and continuation, outstanding_work.tracked and untracked, context, mapping.
///
/// What is executed runs once, on whichever worker is free first; with blocking.possibly at once if
/// this is a worker. What it throws there goes to the caller, else it is logged and counted. While
/// work is tracked the end of the runtime waits, as for a link.
///
/// Shape:   posts are not limited by executor_config::queue_limit: Asio's operations are their own
///          limit, and an executor must not sleep.
/// Threads: any.
/// Cost:    one recycled block of memory a function.
class asio_context::executor_type {
 public:
  executor_type(const executor_type& other) noexcept
      : context_(other.context_), where_(other.where_), urgency_(other.urgency_),
        never_(other.never_), continues_(other.continues_), tracked_(other.tracked_) {
    if (tracked_) detail::work_began(where());
  }
  executor_type& operator=(const executor_type& other) noexcept {
    executor_type copy(other);
    std::swap(context_, copy.context_);
    std::swap(where_, copy.where_);
    std::swap(urgency_, copy.urgency_);
    std::swap(never_, copy.never_);
    std::swap(continues_, copy.continues_);
    std::swap(tracked_, copy.tracked_);
    return *this;
  }
  ~executor_type() {
    if (tracked_) detail::work_ended(where());
  }

  template <class F>
  void execute(F&& function) const {
    if (!never_ && running_in_this_thread()) {
      std::decay_t<F> own(std::forward<F>(function));
      own();
      return;
    }
    auto& item = detail::make_posted(std::forward<F>(function));
    detail::entry_executor(where()).spawn(item, urgency_);
  }
  [[nodiscard]] bool running_in_this_thread() const noexcept { return detail::runs_here(where()); }

  [[nodiscard]] asio_context& query(asio::execution::context_t /*what*/) const noexcept {
    return *context_;
  }
  [[nodiscard]] static constexpr asio::execution::mapping_t query(
      asio::execution::mapping_t /*what*/) noexcept {
    return asio::execution::mapping.thread;
  }
  [[nodiscard]] constexpr asio::execution::blocking_t query(
      asio::execution::blocking_t /*what*/) const noexcept {
    if (never_) return asio::execution::blocking.never;
    return asio::execution::blocking.possibly;
  }
  [[nodiscard]] constexpr asio::execution::relationship_t query(
      asio::execution::relationship_t /*what*/) const noexcept {
    if (continues_) return asio::execution::relationship.continuation;
    return asio::execution::relationship.fork;
  }
  [[nodiscard]] constexpr asio::execution::outstanding_work_t query(
      asio::execution::outstanding_work_t /*what*/) const noexcept {
    if (tracked_) return asio::execution::outstanding_work.tracked;
    return asio::execution::outstanding_work.untracked;
  }

  [[nodiscard]] executor_type require(asio::execution::blocking_t::possibly_t /*it*/) const {
    return with(&executor_type::never_, false);
  }
  [[nodiscard]] executor_type require(asio::execution::blocking_t::never_t /*it*/) const {
    return with(&executor_type::never_, true);
  }
  [[nodiscard]] executor_type require(asio::execution::relationship_t::fork_t /*it*/) const {
    return with(&executor_type::continues_, false);
  }
  [[nodiscard]] executor_type require(
      asio::execution::relationship_t::continuation_t /*it*/) const {
    return with(&executor_type::continues_, true);
  }
  [[nodiscard]] executor_type require(asio::execution::outstanding_work_t::tracked_t /*it*/) const {
    return executor_type(*context_, urgency_, never_, continues_, true);
  }
  [[nodiscard]] executor_type require(
      asio::execution::outstanding_work_t::untracked_t /*it*/) const {
    return executor_type(*context_, urgency_, never_, continues_, false);
  }

  [[nodiscard]] bool operator==(const executor_type& other) const noexcept {
    return context_ == other.context_ && urgency_ == other.urgency_ && never_ == other.never_ &&
           continues_ == other.continues_ && tracked_ == other.tracked_;
  }

 private:
  friend class asio_context;

  executor_type(asio_context& context, priority urgency, bool never, bool continues,
                bool tracked) noexcept
      : context_(&context), where_(context.where_), urgency_(urgency), never_(never),
        continues_(continues), tracked_(tracked) {
    if (tracked_) detail::work_began(where());
  }
  [[nodiscard]] executor_type with(bool executor_type::*which, bool value) const noexcept {
    executor_type changed(*this);
    changed.*which = value;
    return changed;
  }
  [[nodiscard]] runtime& where() const noexcept { return *where_; }

  asio_context* context_;
  runtime* where_;  // which waits for tracked work, when the context has gone
  priority urgency_;
  bool never_;
  bool continues_;
  bool tracked_;
};

inline asio_context::executor_type asio_context::get_executor(priority urgency) noexcept {
  return executor_type(*this, urgency, false, false, false);
}

/// An Asio executor on the workers of a runtime.
using asio_executor = asio_context::executor_type;

// ---- a runtime in an io_context ---------------------------------------------------------------

namespace detail {

/// Drives a runtime from an io_context: waits for its handle and its next deadline, runs it, and
/// calls the handlers of what has ended in it.
///
/// Its waits count as work of the io_context only while something lives in the runtime.
///
/// Threads: the one that runs the io_context.
class asio_driver : public std::enable_shared_from_this<asio_driver> {
 public:
  using executor_type = asio::io_context::executor_type;

  explicit asio_driver(asio::io_context& io) : executor_(io.get_executor()), deadline_(io) {}

  void begin(driven_runtime& guest) {
    guest_ = &guest;
    readable_.emplace(executor_, static_cast<int>(guest.poll_handle()));
    guest.on_wanted([](void* self) noexcept { static_cast<asio_driver*>(self)->want(); }, this);
    run_soon();
  }
  void end() noexcept {
    guest_->on_wanted(nullptr, nullptr);
    guest_ = nullptr;
    readable_->release();
    readable_.reset();
    deadline_.cancel();
  }
  /// Of what ended after end().
  ~asio_driver() {
    while (started_base* const next = take()) complete(*next);
  }

  [[nodiscard]] const executor_type& get_executor() const noexcept { return executor_; }
  void add(started_base& ended) noexcept {
    ended.next_ = nullptr;
    (last_ == nullptr ? first_ : last_->next_) = &ended;
    last_ = &ended;
  }

 private:
  static constexpr unsigned turns_at_once = 16;
  static constexpr std::size_t handler_bytes = 256;
  using room = spare_room<handler_bytes>;

  /// A member function to be called by the io_context; keeps us.
  class call {
   public:
    using allocator_type = room_allocator<void, room>;

    call(asio_driver& driver, room& memory, void (asio_driver::*what)())
        : driver_(driver.shared_from_this()), memory_(&memory), what_(what) {}
    [[nodiscard]] allocator_type get_allocator() const noexcept { return allocator_type(*memory_); }
    void operator()() const { ((*driver_).*what_)(); }
    void operator()(const std::error_code& /*aborted*/) const { ((*driver_).*what_)(); }

   private:
    std::shared_ptr<asio_driver> driver_;
    room* memory_;
    void (asio_driver::*what_)();
  };

  /// While it runs; an exception of a handler leaves something to be done.
  class running {
   public:
    explicit running(asio_driver& driver) noexcept : driver_(driver) { driver_.running_ = true; }
    ~running() {
      driver_.running_ = false;
      if (std::uncaught_exceptions() > exceptions_) driver_.want();
    }

   private:
    asio_driver& driver_;
    int exceptions_ = std::uncaught_exceptions();
  };

  // Queued by our own thread. What it runs now looks again at its end.
  void want() noexcept {
    wanted_ = true;
    if (!running_) run_soon();
  }
  void run_soon() {
    if (std::exchange(posted_, true)) return;
    asio::post(executor_, call(*this, post_room_, &asio_driver::on_posted));
  }
  void on_posted() {
    posted_ = false;
    run();
  }
  void on_readable() {
    waiting_ = false;
    readable_now_ = true;
    count_wait(true);  // before the io_context takes it back
    run();
  }
  // A wait that a nearer deadline has ended is not the last, and tells nothing.
  void on_deadline() {
    if (--deadline_waits_ != 0) return;
    armed_.reset();
    run();
  }

  void run() {
    if (running_ || guest_ == nullptr) return;
    const running now(*this);
    for (unsigned turn = 0; turn < turns_at_once; ++turn) {
      complete_all();
      if (guest_ == nullptr) return;
      wanted_ = false;
      const bool more = guest_->run_ready(std::exchange(readable_now_, false));
      if (!more && !wanted_ && first_ == nullptr) return wait();
    }
    run_soon();
  }
  // Handlers may start more, which is for the next turn, and may end us.
  void complete_all() {
    started_base* const last = last_;
    while (started_base* const next = take()) {
      complete(*next);
      if (next == last) return;
    }
  }
  void complete(started_base& ended) { ended.complete(); }
  [[nodiscard]] started_base* take() noexcept {
    started_base* const next = first_;
    if (next == nullptr) return nullptr;
    first_ = next->next_;
    if (first_ == nullptr) last_ = nullptr;
    return next;
  }

  void wait() {
    if (!std::exchange(waiting_, true)) {
      readable_->async_wait(asio::posix::stream_descriptor::wait_read,
                            call(*this, wait_room_, &asio_driver::on_readable));
    }
    const bool has_work = guest_->has_work();
    const auto next = has_work ? guest_->next_deadline() : std::nullopt;
    if (!next) {
      if (armed_) deadline_.cancel();
    } else if (!armed_ || *next < *armed_) {
      armed_ = next;
      deadline_.expires_at(*next);
      ++deadline_waits_;
      deadline_.async_wait(call(*this, deadline_room_, &asio_driver::on_deadline));
    }
    count_wait(has_work);
  }
  void count_wait(bool counts) {
    if (counts == counted_) return;
    counted_ = counts;
    if constexpr (requires { executor_.on_work_finished(); }) {
      counts ? executor_.on_work_started() : executor_.on_work_finished();
    }
  }

  executor_type executor_;
  driven_runtime* guest_ = nullptr;
  std::optional<asio::posix::stream_descriptor> readable_;
  asio::steady_timer deadline_;
  std::optional<clock::time_point> armed_;  // an early one is as good: it looks again
  unsigned deadline_waits_ = 0;             // of which only the last is not aborted
  started_base* first_ = nullptr;           // ended, to be told
  started_base* last_ = nullptr;
  bool waiting_ = false;
  bool counted_ = true;
  bool posted_ = false;
  bool running_ = false;
  bool wanted_ = false;
  bool readable_now_ = false;
  room post_room_;
  room wait_room_;
  room deadline_room_;
};

/// Begins before the runtime it drives, and ends after it.
class asio_driver_owner {
 protected:
  explicit asio_driver_owner(asio::io_context& io) : driver_(std::make_shared<asio_driver>(io)) {}
  ~asio_driver_owner() = default;

  std::shared_ptr<asio_driver> driver_;
};

inline void started_base::run_end(work& self) noexcept {
  auto& ended = static_cast<started_base&>(self);
  ended.stop_.disconnect();
  work_ended(*ended.where_);
  if (ended.inside_ == nullptr) {
    ended.complete();
  } else {
    ended.inside_->add(ended);
  }
}

}  // namespace detail

/// A runtime of one worker in an io_context: hawser's tasks, links and listeners run between the
/// handlers of Asio, on the same thread, and no other thread has anything to do with them.
///
/// io_context::run() also goes on as long as tasks, links or listeners live here. To end it,
/// request_stop(), let go of links and listeners, and let run() return.
///
/// Shape:   begins after its io_context and ends before it. Links and tasks that are left are ended
///          by the destructor as by that of runtime, without the io_context: a task that then still
///          awaits an operation of Asio is left behind after `shutdown_deadline`.
/// Errors:  as driven_runtime, and what Asio throws.
/// Threads: one runs the io_context, and also makes and destroys this. Members of runtime: any.
/// Cost:    against a runtime with threads some four system calls a wake-up of the io_context;
///          nothing spins.
class asio_runtime final : private detail::asio_driver_owner, public driven_runtime {
 public:
  explicit asio_runtime(asio::io_context& io, executor_config config = {})
      : asio_driver_owner(io), driven_runtime(std::move(config)) {
    driver_->begin(*this);
  }
  ~asio_runtime() { driver_->end(); }

  [[nodiscard]] asio::io_context::executor_type get_executor() const noexcept {
    return driver_->get_executor();
  }

 private:
  template <awaitable A, class Token>
  friend auto async_start(asio_runtime& where, A&& awaitable, Token&& token);
};

/// async_start() inside the io_context: started by its own thread, no other is involved.
template <awaitable A, class Token>
auto async_start(asio_runtime& where, A&& awaitable, Token&& token) {
  return detail::start_for_asio(where, where.driver_.get(), where.get_executor(),
                                std::forward<A>(awaitable), std::forward<Token>(token));
}

}  // namespace hawser

template <class R, class... Args>
class asio::async_result<hawser::use_task_t, R(Args...)> {
 public:
  template <class Initiation, class... Inputs>
  [[nodiscard]] static auto initiate(Initiation&& start, hawser::use_task_t /*token*/,
                                     Inputs&&... inputs) {
    using kept = std::tuple<std::decay_t<Inputs>...>;
    return hawser::asio_op<std::decay_t<Initiation>, kept, std::decay_t<Args>...>(
        std::forward<Initiation>(start), kept(std::forward<Inputs>(inputs)...));
  }
};
