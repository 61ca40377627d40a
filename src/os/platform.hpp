// SPDX-License-Identifier: Apache-2.0
#pragma once

// The portability boundary. Every function here is defined once in io_uring/, once in win/ and
// once in mac/; nothing outside those folders names an operating system. A missing function is a
// link error. All descriptors are close-on-exec; all sockets are non-blocking.

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace hawser {
struct executor_config;
class reactor;
}  // namespace hawser

namespace hawser::platform {

using native_handle = std::intptr_t;
inline constexpr native_handle no_handle = -1;

/// A socket address of any family, as the system writes it.
struct socket_address {
  alignas(8) std::array<std::byte, 128> storage{};
  std::uint32_t size = 0;
};

/// One piece of a gathered write. Not initialised by itself: an array of as many as a write may
/// have would cost more than the usual write of one.
struct io_slice {
  const std::byte* data;
  std::size_t size;
};

struct stream_options {
  bool no_delay = true;                  ///< tcp
  std::size_t send_buffer_bytes = 0;     ///< 0: leave as it is
  std::size_t receive_buffer_bytes = 0;  ///< 0: leave as it is
  std::size_t unsent_bytes = 0;          ///< tcp: takes no more while so much waits; 0: no limit
  bool fast_when_local = false;          ///< tcp to this host: no control that paces what it sends
};

struct peer_identity {
  std::uint32_t user = 0;
  std::uint32_t group = 0;
  std::int64_t process = 0;
};

/// A host that is written in numbers, and so needs nobody to ask. Empty: it is a name.
[[nodiscard]] std::optional<socket_address> numeric_address(const std::string& host,
                                                            const std::string& port);
/// All addresses of a host, in the order the system prefers. Blocks.
///
/// Errors: throws std::system_error with host and port in the text.
[[nodiscard]] std::vector<socket_address> resolve(const std::string& host, const std::string& port);
/// Errors: throws errc::bad_uri if the path does not fit.
[[nodiscard]] socket_address unix_address(const std::string& path);
[[nodiscard]] std::string to_string(const socket_address& address);

/// Binds and listens. Reuses a tcp port in TIME_WAIT, never one that is listened on.
///
/// Errors: throws std::system_error: errc::address_in_use, or the system's code.
[[nodiscard]] native_handle open_listener(const socket_address& address, int backlog);
[[nodiscard]] socket_address local_address(native_handle socket);
[[nodiscard]] socket_address remote_address(native_handle socket);

/// Starts to connect. `pending`: wait until the socket is writable, then finish_connect().
[[nodiscard]] native_handle start_connect(const socket_address& address, bool& pending,
                                          std::error_code& error) noexcept;
[[nodiscard]] std::error_code finish_connect(native_handle socket) noexcept;
/// no_handle with a clear error: nobody waits.
[[nodiscard]] native_handle accept(native_handle listener, std::error_code& error) noexcept;
/// Errors: throws std::system_error.
[[nodiscard]] std::pair<native_handle, native_handle> socket_pair();
/// Ends the connection, or the listening, also where a process that was forked has the socket
/// still; no_handle: nothing to do.
void close(native_handle socket) noexcept;
/// The first half of close(), for sockets that somebody else closes.
void shut_down(native_handle socket) noexcept;
/// No more writes; the peer reads the end.
void shut_down_writing(native_handle socket) noexcept;

/// Both transfer what is possible at once; would_block() tells "nothing now" from failure. A read
/// of 0 without error is the end of the stream.
[[nodiscard]] std::size_t read_some(native_handle socket, std::span<std::byte> into,
                                    std::error_code& error) noexcept;
[[nodiscard]] std::size_t write_some(native_handle socket, std::span<const io_slice> from,
                                     std::error_code& error) noexcept;
[[nodiscard]] bool would_block(const std::error_code& error) noexcept;
/// The error means: out of descriptors or memory, try later.
[[nodiscard]] bool is_exhaustion(const std::error_code& error) noexcept;

/// Best effort: what the system refuses stays as it is.
void apply(native_handle socket, const stream_options& options) noexcept;
/// Who is at the other end of a unix socket; empty where the system cannot tell.
[[nodiscard]] std::optional<peer_identity> peer_of(native_handle socket) noexcept;
[[nodiscard]] std::uint32_t current_user() noexcept;

// ---- memory that is shared ----------------------------------------------------------------

/// Memory without a name, which goes with its last handle and mapping, and whose size nobody can
/// change: so that no peer can take from under us what we have mapped. Filled with zeros, and not
/// there before it is touched or reserved.
///
/// Errors: throws std::system_error.
[[nodiscard]] native_handle create_memory(std::size_t bytes);
/// The size of what somebody else has created, if it is such memory.
///
/// Errors: throws std::system_error, errc::unsupported with the reason if it is anything else.
[[nodiscard]] std::size_t inspect_memory(native_handle memory);
/// Has the system set aside what part of the memory needs, or say now that it cannot: touching it
/// later would end the process.
[[nodiscard]] std::error_code reserve_memory(native_handle memory, std::size_t offset,
                                             std::size_t bytes) noexcept;
/// Gives part of it back: it reads as zeros then, and is reserved or touched anew. Best effort.
void unreserve_memory(native_handle memory, std::size_t offset, std::size_t bytes) noexcept;
enum class access : std::uint8_t { read, read_write };
/// Part of the memory, or all of it up to `bytes`; or of a file. Touching what a file has lost
/// since ends the process, and calls to the system that are given it fail.
///
/// Shape:  `offset` a multiple of page_bytes().
/// Errors: throws std::system_error.
[[nodiscard]] std::byte* map_memory(native_handle memory, std::size_t offset, std::size_t bytes,
                                    access how);
[[nodiscard]] inline std::byte* map_memory(native_handle memory, std::size_t bytes) {
  return map_memory(memory, 0, bytes, access::read_write);
}
void unmap_memory(std::byte* first, std::size_t bytes) noexcept;
/// Makes the pages of a part of a mapping known to this process, so that touching them first costs
/// nothing later. Best effort.
void touch_memory(std::byte* first, std::size_t bytes) noexcept;
/// False: the system does not use large pages for such memory.
[[nodiscard]] bool use_huge_pages(std::byte* first, std::size_t bytes) noexcept;
/// A handle that is readable while the socket is, to wait for in its place where the peer shall
/// learn at once that this process has died: what a reactor waits for may stay open for a while
/// after that, and a handle of this kind does not keep its socket. See release_handle().
///
/// Errors: throws std::system_error.
[[nodiscard]] native_handle watch_socket(native_handle socket);
/// Closes a handle that is no socket; no_handle: nothing to do.
void release_handle(native_handle handle) noexcept;
[[nodiscard]] std::size_t page_bytes() noexcept;

/// One process, and no other that gets its number later.
struct process_mark {
  std::int64_t number = 0;
  std::uint64_t started = 0;  ///< in ticks of the system since it began

  bool operator==(const process_mark&) const = default;
};
/// Errors: throws std::system_error, errc::unsupported if the system does not say.
[[nodiscard]] process_mark current_process();
/// A handle by which has_exited() is asked. no_handle with a clear error: there is no such process
/// any more.
[[nodiscard]] native_handle watch_process(const process_mark& which,
                                          std::error_code& error) noexcept;
[[nodiscard]] bool has_exited(native_handle watched) noexcept;

/// The name in the system's list of shared memory that stands for `name` of this user, until the
/// next start of the system: never one that an earlier start has left behind.
///
/// Errors: throws std::system_error: errc::bad_uri if it is not 1 to 64 letters, digits, `.`, `-`
///         and `_`, beginning with none of the signs; errc::unsupported.
[[nodiscard]] std::string memory_name(std::string_view name);
/// Leaves a note under a name that leads to memory of this process, see create_memory(): what is
/// found is the memory itself, whose size is sealed, while a file with a name could be cut short
/// by any process of the user. The note is 0600, and stays until withdraw_name(); one whose maker
/// has died is replaced.
///
/// Errors: throws std::system_error: errc::address_in_use, errc::unauthorized if another user has
///         the name or others may read it, the system's codes. Nothing is left behind.
[[nodiscard]] native_handle announce_memory(const std::string& name, native_handle memory);

/// What a note leads to. Both handles are the caller's.
struct found_memory {
  native_handle note = no_handle;    ///< held: nobody else finds it meanwhile
  native_handle memory = no_handle;  ///< anything, before inspect_memory() has said
  process_mark owner;
};
/// Errors: throws std::system_error: errc::unreachable if there is no such name, or its maker has
///         gone; errc::refused if another process holds it; errc::unauthorized as above, or if the
///         maker does not let us; errc::unsupported if it is no such note.
[[nodiscard]] found_memory find_memory(const std::string& name);
/// Takes the name away, unless it leads somewhere else by now, or somebody else takes it away.
void withdraw_name(const std::string& name, native_handle note) noexcept;

/// Handles that came along with bytes. More than fit are closed.
struct handle_list {
  static constexpr std::size_t most = 8;

  std::array<native_handle, most> handles{};
  std::size_t count = 0;
  bool cut_short = false;  ///< the process may not have as many as came
};
/// As write_some() of one slice and read_some(), on a unix socket, with handles attached to the
/// first byte. The writer keeps its own.
///
/// Shape: at most handle_list::most; `came` is added to, and what it has no room for is closed.
[[nodiscard]] std::size_t write_with_handles(native_handle socket, const io_slice& from,
                                             std::span<const native_handle> handles,
                                             std::error_code& error) noexcept;
[[nodiscard]] std::size_t read_with_handles(native_handle socket, std::span<std::byte> into,
                                            handle_list& came, std::error_code& error) noexcept;

// ---- files --------------------------------------------------------------------------------

struct file_facts {
  std::uint64_t bytes = 0;
  bool keeps_size = false;  ///< nobody can cut it short: what is mapped of it stays there
};
/// Errors: throws std::system_error, errc::unsupported if it is no regular file.
[[nodiscard]] file_facts inspect_file(native_handle file);
/// Another handle of it that can read, and nothing else.
///
/// Errors: throws std::system_error.
[[nodiscard]] native_handle open_to_read(native_handle file);
/// Fills all of `into`. Blocks.
///
/// Errors: throws std::system_error: std::errc::invalid_argument if the file ends before.
void read_file(native_handle file, std::uint64_t offset, std::span<std::byte> into);
/// Brings what is mapped of a file into memory. Blocks. Best effort.
void read_ahead(std::span<const std::byte> mapped) noexcept;

// ---- waiting for a word, in any process ---------------------------------------------------

/// Sleeps while `word` is `expected`, at most `limit`; may return early for no reason.
void sleep_on(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
              std::chrono::nanoseconds limit) noexcept;
/// Sleeps while all the words are `expected`, likewise.
///
/// Shape: 1 to words_most.
inline constexpr std::size_t words_most = 128;
void sleep_on_any(std::span<const std::atomic<std::uint32_t>* const> words, std::uint32_t expected,
                  std::chrono::nanoseconds limit) noexcept;
/// Ends the sleep of those that wait for it, in whatever process that has mapped it.
void wake_one(const std::atomic<std::uint32_t>& word) noexcept;
void wake_all(const std::atomic<std::uint32_t>& word) noexcept;

/// Has this process take part in pass_barrier() of any process. False: the system has none.
///
/// Threads: any. Cost: a system call the first time.
[[nodiscard]] bool join_barriers() noexcept;
/// Makes every thread of all processes that have joined pass a memory barrier, and the caller.
///
/// Shape: join_barriers() was true.
void pass_barrier() noexcept;

/// What lies at the path of a unix socket.
enum class socket_file : std::uint8_t { none, socket, foreign_owner, not_a_socket };
/// Does not follow a symbolic link: that is not_a_socket. `owner` other than `user` or the
/// superuser is foreign.
[[nodiscard]] socket_file inspect_socket_file(const std::string& path, std::uint32_t user) noexcept;
/// Binds, restricts the file to its owner (0600, or 0666 for any_user), listens. A stale file (no
/// process listens on it) is replaced.
///
/// Errors: throws std::system_error: errc::address_in_use, errc::unauthorized, system codes.
[[nodiscard]] native_handle open_unix_listener(const std::string& path, int backlog, bool any_user);
void remove_file(const std::string& path) noexcept;

/// The cores that the calling thread, and those that it starts, may use: at least one, ascending.
///
/// Errors: throws std::bad_alloc.
[[nodiscard]] std::vector<unsigned> usable_core_list();
/// How many these are.
[[nodiscard]] unsigned usable_cores();
/// The CPU time a second that this process may use, in cores; empty: as much as there are.
///
/// Errors: throws std::bad_alloc.
[[nodiscard]] std::optional<double> cpu_quota();
/// Binds the calling thread to one core. False: the system refuses, or there is no such core.
///
/// Errors: throws std::bad_alloc.
[[nodiscard]] bool pin_thread(unsigned core);
/// The forks that lie between this process and the first that asked.
///
/// Threads: any. Cost: that of reading a variable.
[[nodiscard]] unsigned generation() noexcept;
/// Errors: terminates if the system has no randomness.
void fill_random(std::byte* bytes, std::size_t count) noexcept;
/// The function that `address` lies in, as linkers know it, or the file and the offset in it, which
/// addr2line understands; "unknown code" if neither is known. Null is unknown.
[[nodiscard]] std::string describe_code(const void* address);
/// Starts a thread of ours: it has a name, as debuggers show it, and what the process is sent is
/// for other threads to handle. Faults of its own, aborts and profilers still reach it.
///
/// Errors: throws std::bad_alloc, or std::system_error if the system has no more threads.
[[nodiscard]] std::thread start_thread(std::string name, std::function<void()> body);

/// What the platform's own reactor offers: created, or the reason why not.
struct native_reactor {
  std::unique_ptr<reactor> created;
  std::string mechanism;               ///< "io_uring"
  std::string reason;                  ///< why refused, or what was probed
  std::vector<std::string> features;
};
/// Probes and creates; a refusal is no error. Called on the thread that will turn it.
///
/// Errors: throws std::bad_alloc.
[[nodiscard]] native_reactor make_native_reactor();
/// The name of what the portable reactor uses here: "epoll".
[[nodiscard]] const char* portable_mechanism() noexcept;

}  // namespace hawser::platform
