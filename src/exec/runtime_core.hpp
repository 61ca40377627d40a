// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "exec/blocking_pool.hpp"
#include "exec/idle_workers.hpp"
#include "exec/injector.hpp"
#include "exec/worker.hpp"
#include "hawser/log.hpp"
#include "hawser/runtime.hpp"
#include "hawser/stop_token.hpp"
#include "os/birthmark.hpp"
#include "os/platform.hpp"

namespace hawser::detail {

class stall_watch;
class startup;

/// What a runtime consists of, for the layers above.
///
/// Threads: any, all members.
class runtime_core {
 public:
  /// Errors: as runtime's constructor.
  explicit runtime_core(executor_config config);
  /// One worker without a thread: the caller drives it.
  ///
  /// Errors: also errc::unsupported, see driven_runtime.
  struct driven_by_caller {};
  runtime_core(executor_config config, driven_by_caller);
  ~runtime_core();
  runtime_core(const runtime_core&) = delete;
  runtime_core& operator=(const runtime_core&) = delete;

  /// This process is a fork of the one that made it: nothing may be asked of it.
  [[nodiscard]] bool is_inherited() const noexcept { return birthmark_.is_inherited(); }
  [[nodiscard]] unsigned size() const noexcept { return static_cast<unsigned>(workers_.size()); }
  [[nodiscard]] detail::worker& worker(unsigned index) noexcept { return *workers_[index]; }
  /// The worker with the fewest open links; takes turns among equals. Say link_opened() to it.
  [[nodiscard]] detail::worker& pick_home() noexcept;
  /// Where a task starts that came from outside: the workers in turn.
  [[nodiscard]] detail::worker& next_entry() noexcept;

  /// Queues work that any worker may run.
  void inject(work& item, priority urgency) noexcept;
  /// runtime::post(): on a worker as spawn(), elsewhere within queue_limit.
  ///
  /// Errors: throws errc::limit_reached, see executor_config::on_full; `item` was not queued.
  void post(work& item, priority urgency);
  void adjust(const runtime::adjustment& change);

  /// Has no threads. Then worker(0).drive() is the caller's.
  [[nodiscard]] bool is_driven() const noexcept { return threads_.empty(); }
  [[nodiscard]] platform::native_handle poll_handle() const noexcept { return poll_handle_; }

  /// See driven_runtime.
  void on_wanted(void (*wanted)(void* context) noexcept, void* context) noexcept {
    wanted_ = wanted;
    wanted_context_ = context;
  }

  // Of work that start() has started: the end of the runtime waits for it as for a link.
  void work_began() noexcept { component_added(); }
  void work_ended() noexcept { component_removed(); }
  [[nodiscard]] bool has_components() noexcept {
    const std::lock_guard guard(mutex_);
    return components_ != 0;
  }

  void request_stop() noexcept { stop_.request_stop(); }
  [[nodiscard]] stop_token stop() noexcept { return stop_.token(); }

  /// Hands an event to the application's sink; what the sink throws is dropped.
  void log(log_level level, std::string_view area, std::string_view text) noexcept;
  /// The text is what `make_text()` says, which is asked only if somebody listens; without memory
  /// for it the event is lost.
  template <std::invocable F>
  void log(log_level level, std::string_view area, F&& make_text) noexcept {
    if (!has_log()) return;
    try {
      log(level, area, std::string_view(make_text()));
    } catch (const std::exception&) {
      // the event is lost, nothing else
    }
  }
  /// True: somebody listens; skip building the text otherwise.
  [[nodiscard]] bool has_log() const noexcept { return static_cast<bool>(config_.log); }
  void fill_random(std::byte* bytes, std::size_t count) noexcept;
  void report_failure(std::exception_ptr failure) noexcept;
  [[nodiscard]] errc post_blocking(work& item) noexcept { return blocking_.post(item); }

  /// Names of `inproc:` listeners. False: taken.
  [[nodiscard]] bool add_name(const std::string& name, std::weak_ptr<void> owner);
  void remove_name(const std::string& name) noexcept;
  /// Null: nobody listens there.
  [[nodiscard]] std::shared_ptr<void> find_name(const std::string& name);

  [[nodiscard]] const executor_config& config() const noexcept { return config_; }
  [[nodiscard]] const backend_report& report() const noexcept { return report_; }
  [[nodiscard]] runtime_stats stats() const;

  // For the workers.
  struct adjustable {
    spin_policy spin;
    std::array<unsigned, priority_count> weights{};
  };
  [[nodiscard]] injector& injected() noexcept { return injected_; }
  [[nodiscard]] bool has_injected() const noexcept;
  [[nodiscard]] idle_workers<>& sleepers() noexcept { return sleepers_; }
  /// How many may search at a time.
  [[nodiscard]] unsigned search_limit() const noexcept { return std::max(size() / 2, 1U); }
  [[nodiscard]] bool shares_work() const noexcept { return shares_work_; }
  /// Wakes `target` if it sleeps; call after a push to its inbox. False: it was awake.
  bool call(detail::worker& target) noexcept;
  /// Wakes a worker if some sleep and none searches; call after a push that any may take.
  void call_somebody() noexcept;
  /// Counts up with each adjust().
  [[nodiscard]] std::uint64_t adjustments() const noexcept {
    return adjustments_.load(std::memory_order_acquire);  // pairs with the release in adjust()
  }
  [[nodiscard]] adjustable adjusted() noexcept;
  // Caps, see executor_config::max_workers.
  [[nodiscard]] bool is_capped(std::size_t at) const noexcept {
    const unsigned most = caps_[at].most.load(std::memory_order_relaxed);
    return most != 0 && most < size();
  }
  [[nodiscard]] bool permit_free(std::size_t at) const noexcept;
  [[nodiscard]] bool take_permit(std::size_t at) noexcept;
  void return_permit(std::size_t at) noexcept;
  /// True: more were held than there are now, and the caller's is returned.
  [[nodiscard]] bool return_excess_permit(std::size_t at) noexcept;
  /// Some that were injected have left their list.
  void tell_producers() noexcept;
  /// A task holds `where` and does not give way, or has done so until now.
  void report_stall(const detail::worker& where, clock::duration held) noexcept;

 private:
  friend class detail::worker;

  struct alignas(64) cap {
    std::atomic<unsigned> most{0};
    std::atomic<unsigned> held{0};
  };

  void limit_caps() noexcept;
  void equip();
  void tell_of_fallback(const startup& start) noexcept;
  bool drive_for_components(std::chrono::milliseconds limit) noexcept;
  void start_threads(const std::shared_ptr<startup>& start);
  void thread_main(detail::worker& self, startup& start) noexcept;
  void pin(unsigned index) noexcept;
  void shut_down() noexcept;
  void tell_workers(detail::worker::phase next) noexcept;
  /// True: none is left.
  bool wait_for_components(std::chrono::milliseconds limit) noexcept;
  [[nodiscard]] bool has_room(std::size_t at) noexcept;
  [[nodiscard]] std::uint64_t injected_taken(std::size_t at) const noexcept;
  void wake(detail::worker& target) noexcept;
  // What workers say.
  void component_added() noexcept;
  void component_removed() noexcept;
  /// By a worker that stops: it has run out of work; before it takes some again.
  void falls_quiet() noexcept;
  void stirs() noexcept;
  /// All are out of work, and none can get any more.
  [[nodiscard]] bool all_done() noexcept;

  birthmark birthmark_;
  executor_config config_;
  backend_report report_;
  stop_source stop_;
  blocking_pool blocking_;
  std::vector<std::unique_ptr<detail::worker>> workers_;
  std::vector<std::thread> threads_;
  // Driven:
  platform::native_handle poll_handle_ = platform::no_handle;
  std::thread::id driver_;
  void (*wanted_)(void* context) noexcept = nullptr;  // the driver's own
  void* wanted_context_ = nullptr;
  std::unique_ptr<stall_watch> watch_;
  const std::vector<unsigned> cores_;
  const bool shares_work_;
  injector injected_;
  idle_workers<> sleepers_;
  std::array<cap, priority_count> caps_;
  std::atomic<std::uint64_t> adjustments_{0};
  std::atomic<std::uint64_t> rejected_count_{0};
  std::atomic<unsigned> waiting_producers_{0};
  std::atomic<unsigned> next_home_{0};
  std::atomic<unsigned> next_entry_{0};
  std::atomic<std::uint64_t> failed_tasks_{0};
  // How many workers are quiet, and in the upper half how often one has stirred.
  static constexpr std::uint64_t one_stir = std::uint64_t{1} << 32;
  std::atomic<std::uint64_t> quiet_{0};
  std::atomic<bool> all_done_{false};
  std::mutex mutex_;  // what follows
  std::condition_variable changed_;
  executor_config live_;  // config_ and what adjust() has changed since
  std::size_t components_ = 0;
  std::size_t ended_workers_ = 0;
  bool reactors_may_go_ = false;
  std::map<std::string, std::weak_ptr<void>, std::less<>> names_;
};

}  // namespace hawser::detail
