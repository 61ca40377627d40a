// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every call to the system that can fail, and every operation that is submitted to a ring, by name
// and in one place: tests/faults compiles this folder again with HAWSER_FAULTS, and lets the n-th
// of each fail or come up short. In a build of users the question whether it shall is a constant.
//
// No sites are: closing a descriptor, which is gone whatever is answered; cancelling an operation
// and moving an alarm, which fail only if that ends by itself; files that are read through the
// standard library (cgroup.cpp, names.cpp); asking whether a process that is watched has exited;
// and sleeping on a word, which may end at any time.

#include <fcntl.h>
#include <liburing.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <netdb.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace hawser::calls {

enum class site : std::uint8_t {
  // Addresses and sockets.
  getaddrinfo,
  socket,
  socketpair,
  setsockopt,
  getsockopt,
  getsockname,
  getpeername,
  bind,
  listen,
  connect,
  accept,
  shutdown,
  // Bytes.
  recv,
  recvmsg,
  send,
  sendmsg,
  // The file of a unix socket.
  lstat,
  fchmod,
  chmod,
  unlink,
  // Memory that is shared.
  memfd_create,
  ftruncate,
  add_seals,
  get_seals,
  fstat,
  fstatfs,
  fallocate,
  punch_hole,
  mmap,
  madvise,
  send_handles,
  recv_handles,
  membarrier,
  // Files that are sent.
  open_to_read,
  pread,
  // The names of such memory, and the processes behind them.
  shm_open,
  shm_unlink,
  lock_byte,
  read_note,
  write_note,
  borrow,
  watch_process,
  // Cores and randomness.
  sched_getaffinity,
  sched_setaffinity,
  getrandom,
  // Events.
  eventfd,
  read_event,
  write_event,
  epoll_create,
  epoll_add,
  // Setting up a ring.
  ring_setup,
  ring_probe,
  ring_register_buffers,
  ring_register_itself,
  ring_register_event,
  // Entering it.
  ring_make_room,
  ring_look,
  ring_wait,
  ring_drain,
  // What completes in it. The first three go on until they are cut short.
  submit_accept,
  submit_receive_many,
  submit_bell,
  submit_receive_once,
  submit_receive_direct,
  submit_send,
  submit_silent_send,
  submit_poll,
  submit_alarm,
  submit_word,
};
inline constexpr std::size_t site_count = static_cast<std::size_t>(site::submit_word) + 1;

/// What shall become of a call.
struct verdict {
  int error = 0;     ///< it fails so, and is not made
  bool cut = false;  ///< it moves one byte; what would complete many times does so once
};

#ifdef HAWSER_FAULTS
// Of tests/faults.
[[nodiscard]] verdict decide(site where) noexcept;
void meddle(site where, io_uring_sqe& entry) noexcept;
[[nodiscard]] int outcome_of(const io_uring_cqe& arrived) noexcept;
#else
[[nodiscard]] constexpr verdict decide(site /*where*/) noexcept {
  return {};
}
/// The operation is prepared and has its user data.
inline void meddle(site /*where*/, io_uring_sqe& /*entry*/) noexcept {}
[[nodiscard]] inline int outcome_of(const io_uring_cqe& arrived) noexcept {
  return arrived.res;
}
#endif

/// As the call itself, or -1 and an errno.
template <class Call>
[[nodiscard]] inline auto attempt(site where, Call call) noexcept -> decltype(call()) {
  if (const int error = decide(where).error; error != 0) {
    errno = error;
    return -1;
  }
  return call();
}

/// As the function of liburing itself, or a negative errno.
template <class Call>
[[nodiscard]] inline int attempt_ring(site where, Call call) noexcept {
  const int error = decide(where).error;
  return error != 0 ? -error : call();
}

// ---- addresses and sockets --------------------------------------------------------------------

/// Fails with numbers of its own.
[[nodiscard]] inline int getaddrinfo(const char* host, const char* port, const addrinfo& hints,
                                     addrinfo*& found) noexcept {
  const int error = decide(site::getaddrinfo).error;
  return error != 0 ? error : ::getaddrinfo(host, port, &hints, &found);
}

[[nodiscard]] inline int socket(int family) noexcept {
  return attempt(site::socket, [&] {
    return ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  });
}

[[nodiscard]] inline int socketpair(std::array<int, 2>& ends) noexcept {
  return attempt(site::socketpair, [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data());
  });
}

[[nodiscard]] inline bool setsockopt(int socket, int level, int name, const void* value,
                                     std::size_t bytes) noexcept {
  return attempt(site::setsockopt, [&] {
           return ::setsockopt(socket, level, name, value, static_cast<socklen_t>(bytes));
         }) == 0;
}

[[nodiscard]] inline bool getsockopt(int socket, int level, int name, void* value,
                                     socklen_t bytes) noexcept {
  return attempt(site::getsockopt,
                 [&] { return ::getsockopt(socket, level, name, value, &bytes); }) == 0;
}

[[nodiscard]] inline int getsockname(int socket, sockaddr* name, socklen_t* bytes) noexcept {
  return attempt(site::getsockname, [&] { return ::getsockname(socket, name, bytes); });
}

[[nodiscard]] inline int getpeername(int socket, sockaddr* name, socklen_t* bytes) noexcept {
  return attempt(site::getpeername, [&] { return ::getpeername(socket, name, bytes); });
}

[[nodiscard]] inline int bind(int socket, const sockaddr* name, socklen_t bytes) noexcept {
  return attempt(site::bind, [&] { return ::bind(socket, name, bytes); });
}

[[nodiscard]] inline int listen(int socket, int backlog) noexcept {
  return attempt(site::listen, [&] { return ::listen(socket, backlog); });
}

[[nodiscard]] inline int connect(int socket, const sockaddr* name, socklen_t bytes) noexcept {
  return attempt(site::connect, [&] { return ::connect(socket, name, bytes); });
}

[[nodiscard]] inline int accept(int listener) noexcept {
  return attempt(site::accept, [&] {
    return ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  });
}

inline void shutdown(int socket, int how) noexcept {
  static_cast<void>(attempt(site::shutdown, [&] { return ::shutdown(socket, how); }));
}

inline void close(int descriptor) noexcept {
  ::close(descriptor);
}

// ---- bytes ------------------------------------------------------------------------------------

[[nodiscard]] inline ssize_t recv(int socket, void* into, std::size_t bytes, int flags) noexcept {
  const verdict now = decide(site::recv);
  if (now.cut) bytes = std::min<std::size_t>(bytes, 1);
  if (now.error == 0) return ::recv(socket, into, bytes, flags);
  errno = now.error;
  return -1;
}

[[nodiscard]] inline ssize_t recvmsg(int socket, msghdr& message, int flags) noexcept {
  const verdict now = decide(site::recvmsg);
  if (now.cut) return ::recv(socket, message.msg_iov->iov_base, 1, flags);
  if (now.error == 0) return ::recvmsg(socket, &message, flags);
  errno = now.error;
  return -1;
}

[[nodiscard]] inline ssize_t send(int socket, const void* from, std::size_t bytes,
                                  int flags) noexcept {
  const verdict now = decide(site::send);
  if (now.cut) bytes = std::min<std::size_t>(bytes, 1);
  if (now.error == 0) return ::send(socket, from, bytes, flags);
  errno = now.error;
  return -1;
}

[[nodiscard]] inline ssize_t sendmsg(int socket, const msghdr& message, int flags) noexcept {
  const verdict now = decide(site::sendmsg);
  if (now.cut) return ::send(socket, message.msg_iov->iov_base, 1, flags);
  if (now.error == 0) return ::sendmsg(socket, &message, flags);
  errno = now.error;
  return -1;
}

// ---- the file of a unix socket ----------------------------------------------------------------

[[nodiscard]] inline int lstat(const char* path, struct stat& found) noexcept {
  return attempt(site::lstat, [&] { return ::lstat(path, &found); });
}

[[nodiscard]] inline int fchmod(int descriptor, mode_t mode) noexcept {
  return attempt(site::fchmod, [&] { return ::fchmod(descriptor, mode); });
}

[[nodiscard]] inline int chmod(const char* path, mode_t mode) noexcept {
  return attempt(site::chmod, [&] { return ::chmod(path, mode); });
}

inline void unlink(const char* path) noexcept {
  static_cast<void>(attempt(site::unlink, [&] { return ::unlink(path); }));
}

// ---- memory that is shared --------------------------------------------------------------------

[[nodiscard]] inline int memfd_create(const char* name, unsigned flags) noexcept {
  return attempt(site::memfd_create, [&] { return ::memfd_create(name, flags); });
}

/// Who makes a file larger than his process may (RLIMIT_FSIZE) is not told so but ended, by a
/// signal. False: do not try.
[[nodiscard]] inline bool may_have_bytes(std::size_t bytes) noexcept {
  rlimit most{};
  if (::getrlimit(RLIMIT_FSIZE, &most) != 0 || bytes <= most.rlim_cur) return true;
  errno = EFBIG;
  return false;
}

[[nodiscard]] inline int ftruncate(int file, std::size_t bytes) noexcept {
  return attempt(site::ftruncate, [&] {
    return may_have_bytes(bytes) ? ::ftruncate(file, static_cast<off_t>(bytes)) : -1;
  });
}

[[nodiscard]] inline int add_seals(int file, int seals) noexcept {
  return attempt(site::add_seals, [&] { return ::fcntl(file, F_ADD_SEALS, seals); });
}

[[nodiscard]] inline int get_seals(int file) noexcept {
  return attempt(site::get_seals, [&] { return ::fcntl(file, F_GET_SEALS); });
}

[[nodiscard]] inline int fstat(int file, struct stat& found) noexcept {
  return attempt(site::fstat, [&] { return ::fstat(file, &found); });
}

[[nodiscard]] inline int fstatfs(int file, struct statfs& found) noexcept {
  return attempt(site::fstatfs, [&] { return ::fstatfs(file, &found); });
}

[[nodiscard]] inline int fallocate(int file, std::size_t offset, std::size_t bytes) noexcept {
  return attempt(site::fallocate, [&] {
    return ::fallocate(file, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  });
}

inline void punch_hole(int file, std::size_t offset, std::size_t bytes) noexcept {
  static_cast<void>(attempt(site::punch_hole, [&] {
    return ::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(offset), static_cast<off_t>(bytes));
  }));
}

/// Null: refused.
[[nodiscard]] inline void* mmap(int file, std::size_t offset, std::size_t bytes,
                                int protection) noexcept {
  if (const int error = decide(site::mmap).error; error != 0) {
    errno = error;
    return nullptr;
  }
  void* const at = ::mmap(nullptr, bytes, protection, MAP_SHARED, file, static_cast<off_t>(offset));
  return at == MAP_FAILED ? nullptr : at;
}

/// Never fails.
[[nodiscard]] inline std::size_t page_bytes() noexcept {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

inline void munmap(void* first, std::size_t bytes) noexcept {
  ::munmap(first, bytes);
}

inline int madvise(void* first, std::size_t bytes, int advice) noexcept {
  return attempt(site::madvise, [&] { return ::madvise(first, bytes, advice); });
}

[[nodiscard]] inline ssize_t send_handles(int socket, const msghdr& message) noexcept {
  return attempt(site::send_handles,
                 [&] { return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
}

[[nodiscard]] inline ssize_t recv_handles(int socket, msghdr& message) noexcept {
  return attempt(site::recv_handles,
                 [&] { return ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
}

[[nodiscard]] inline int open_to_read(const char* path) noexcept {
  return attempt(site::open_to_read, [&] { return ::open(path, O_RDONLY | O_CLOEXEC); });
}

[[nodiscard]] inline ssize_t pread(int file, void* into, std::size_t bytes,
                                   std::uint64_t offset) noexcept {
  const verdict now = decide(site::pread);
  if (now.cut) bytes = std::min<std::size_t>(bytes, 1);
  if (now.error == 0) return ::pread(file, into, bytes, static_cast<off_t>(offset));
  errno = now.error;
  return -1;
}

[[nodiscard]] inline int membarrier(int command) noexcept {
  return attempt(site::membarrier, [&] {
    return static_cast<int>(::syscall(SYS_membarrier, command, 0, 0));
  });
}

inline long futex(const void* word, int what, std::uint32_t value, const timespec* limit) noexcept {
  return ::syscall(SYS_futex, word, what, value, limit, nullptr, 0);
}

/// Linux 5.16. The limit is a time of CLOCK_MONOTONIC.
inline long futex_any(const futex_waitv* words, std::size_t count, const timespec& limit) noexcept {
  return ::syscall(SYS_futex_waitv, words, static_cast<unsigned>(count), 0U, &limit,
                   CLOCK_MONOTONIC);
}

// ---- names of memory, and processes -----------------------------------------------------------

[[nodiscard]] inline int shm_open(const char* name, int flags) noexcept {
  return attempt(site::shm_open, [&] { return ::shm_open(name, flags | O_CLOEXEC, 0600); });
}

inline void shm_unlink(const char* name) noexcept {
  static_cast<void>(attempt(site::shm_unlink, [&] { return ::shm_unlink(name); }));
}

/// Locks one byte of a file for this descriptor and its copies, unless another has it.
[[nodiscard]] inline int lock_byte(int file, std::size_t at) noexcept {
  return attempt(site::lock_byte, [&] {
    struct flock wanted {};
    wanted.l_type = F_WRLCK;
    wanted.l_whence = SEEK_SET;
    wanted.l_start = static_cast<off_t>(at);
    wanted.l_len = 1;
    return ::fcntl(file, F_OFD_SETLK, &wanted);
  });
}

[[nodiscard]] inline ssize_t read_note(int file, void* into, std::size_t bytes) noexcept {
  return attempt(site::read_note, [&] { return ::pread(file, into, bytes, 0); });
}

[[nodiscard]] inline ssize_t write_note(int file, const void* from, std::size_t bytes) noexcept {
  return attempt(site::write_note,
                 [&] { return may_have_bytes(bytes) ? ::pwrite(file, from, bytes, 0) : -1; });
}

/// Opens what another process has open; never waits, whatever that is.
[[nodiscard]] inline int borrow(const char* path) noexcept {
  return attempt(site::borrow,
                 [&] { return ::open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); });
}

/// Never fails.
[[nodiscard]] inline std::int64_t own_process() noexcept {
  return ::getpid();
}

[[nodiscard]] inline int watch_process(std::int64_t process) noexcept {
  return attempt(site::watch_process, [&] {
    return static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(process), 0));
  });
}

/// True: what is watched has ended.
[[nodiscard]] inline bool is_readable(int descriptor) noexcept {
  pollfd watched{descriptor, POLLIN, 0};
  return ::poll(&watched, 1, 0) == 1;
}

// ---- cores and randomness ---------------------------------------------------------------------

[[nodiscard]] inline int sched_getaffinity(std::size_t bytes, cpu_set_t* set) noexcept {
  return attempt(site::sched_getaffinity, [&] { return ::sched_getaffinity(0, bytes, set); });
}

[[nodiscard]] inline int sched_setaffinity(std::size_t bytes, const cpu_set_t* set) noexcept {
  return attempt(site::sched_setaffinity, [&] { return ::sched_setaffinity(0, bytes, set); });
}

[[nodiscard]] inline ssize_t getrandom(void* into, std::size_t bytes) noexcept {
  const verdict now = decide(site::getrandom);
  if (now.cut) bytes = std::min<std::size_t>(bytes, 1);
  if (now.error == 0) return ::getrandom(into, bytes, 0);
  errno = now.error;
  return -1;
}

// ---- events -----------------------------------------------------------------------------------

[[nodiscard]] inline int eventfd() noexcept {
  return attempt(site::eventfd, [] { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); });
}

[[nodiscard]] inline int epoll_create() noexcept {
  return attempt(site::epoll_create, [] { return ::epoll_create1(EPOLL_CLOEXEC); });
}

/// What is added makes `set` readable while it is readable itself.
[[nodiscard]] inline int epoll_add(int set, int added) noexcept {
  return attempt(site::epoll_add, [&] {
    epoll_event when{};
    when.events = EPOLLIN;
    return ::epoll_ctl(set, EPOLL_CTL_ADD, added, &when);
  });
}

/// Its count is no longer needed.
inline void read_event(int event) noexcept {
  std::uint64_t count = 0;
  static_cast<void>(attempt(site::read_event, [&] { return ::read(event, &count, sizeof count); }));
}

[[nodiscard]] inline ssize_t write_event(int event) noexcept {
  const std::uint64_t once = 1;
  return attempt(site::write_event, [&] { return ::write(event, &once, sizeof once); });
}

// ---- rings ------------------------------------------------------------------------------------

[[nodiscard]] inline int ring_setup(unsigned entries, io_uring& ring,
                                    io_uring_params& wanted) noexcept {
  return attempt_ring(site::ring_setup,
                      [&] { return io_uring_queue_init_params(entries, &ring, &wanted); });
}

/// Null: refused.
[[nodiscard]] inline io_uring_probe* ring_probe(io_uring& ring) noexcept {
  return decide(site::ring_probe).error != 0 ? nullptr : io_uring_get_probe_ring(&ring);
}

[[nodiscard]] inline int ring_register_buffers(io_uring& ring, io_uring_buf_reg& what) noexcept {
  return attempt_ring(site::ring_register_buffers,
                      [&] { return io_uring_register_buf_ring(&ring, &what, 0); });
}

[[nodiscard]] inline bool ring_register_itself(io_uring& ring) noexcept {
  return attempt_ring(site::ring_register_itself,
                      [&] { return io_uring_register_ring_fd(&ring); }) == 1;
}

[[nodiscard]] inline int ring_register_event(io_uring& ring, int event) noexcept {
  return attempt_ring(site::ring_register_event,
                      [&] { return io_uring_register_eventfd(&ring, event); });
}

/// Submits because no entry is free.
[[nodiscard]] inline int ring_make_room(io_uring& ring) noexcept {
  return attempt_ring(site::ring_make_room, [&] { return io_uring_submit(&ring); });
}

[[nodiscard]] inline int ring_look(io_uring& ring) noexcept {
  return attempt_ring(site::ring_look, [&] { return io_uring_submit_and_get_events(&ring); });
}

[[nodiscard]] inline int ring_wait(io_uring& ring) noexcept {
  return attempt_ring(site::ring_wait, [&] { return io_uring_submit_and_wait(&ring, 1); });
}

/// Waits for one more completion of a ring that ends.
inline void ring_drain(io_uring& ring, __kernel_timespec limit) noexcept {
  io_uring_cqe* arrived = nullptr;
  static_cast<void>(attempt_ring(site::ring_drain, [&] {
    return io_uring_submit_and_wait_timeout(&ring, &arrived, 1, &limit, nullptr);
  }));
}

// ---- what completes in a ring -----------------------------------------------------------------

/// IORING_OP_FUTEX_WAIT of Linux 6.7, which liburing 2.3 has no name for.
inline constexpr int op_futex_wait = 51;

inline void submit_accept(io_uring_sqe& entry, int listener) noexcept {
  io_uring_prep_multishot_accept(&entry, listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  meddle(site::submit_accept, entry);
}

/// The kernel chooses a buffer of the group whenever bytes have come.
inline void submit_receive_many(io_uring_sqe& entry, int socket, unsigned short group) noexcept {
  io_uring_prep_recv_multishot(&entry, socket, nullptr, 0, 0);
  entry.flags |= IOSQE_BUFFER_SELECT;
  entry.buf_group = group;
  meddle(site::submit_receive_many, entry);
}

inline void submit_receive_once(io_uring_sqe& entry, int socket, std::size_t bytes,
                                unsigned short group) noexcept {
  io_uring_prep_recv(&entry, socket, nullptr, bytes, 0);
  entry.flags |= IOSQE_BUFFER_SELECT;
  entry.buf_group = group;
  meddle(site::submit_receive_once, entry);
}

inline void submit_receive_direct(io_uring_sqe& entry, int socket, msghdr& into) noexcept {
  io_uring_prep_recvmsg(&entry, socket, &into, 0);
  meddle(site::submit_receive_direct, entry);
}

/// One that is silent completes only if it does not go out whole at once.
inline void finish_send(io_uring_sqe& entry, bool silent) noexcept {
  if (silent) entry.flags |= IOSQE_CQE_SKIP_SUCCESS;
  meddle(silent ? site::submit_silent_send : site::submit_send, entry);
}

inline void submit_send(io_uring_sqe& entry, int socket, const void* from, std::size_t bytes,
                        int flags, bool silent) noexcept {
  io_uring_prep_send(&entry, socket, from, bytes, flags);
  finish_send(entry, silent);
}

inline void submit_send(io_uring_sqe& entry, int socket, const msghdr& from, int flags,
                        bool silent) noexcept {
  io_uring_prep_sendmsg(&entry, socket, &from, static_cast<unsigned>(flags));
  finish_send(entry, silent);
}

inline void submit_poll(io_uring_sqe& entry, int descriptor, unsigned events) noexcept {
  io_uring_prep_poll_add(&entry, descriptor, events);
  meddle(site::submit_poll, entry);
}

inline void submit_bell(io_uring_sqe& entry, int event) noexcept {
  io_uring_prep_poll_multishot(&entry, event, POLLIN);
  meddle(site::submit_bell, entry);
}

inline void submit_alarm(io_uring_sqe& entry, __kernel_timespec& at) noexcept {
  io_uring_prep_timeout(&entry, &at, 0, IORING_TIMEOUT_ABS);
  meddle(site::submit_alarm, entry);
}

/// Waits while the word is `expected`; seen by other processes that have the memory mapped.
inline void submit_word(io_uring_sqe& entry, const void* word, std::uint32_t expected) noexcept {
  constexpr int futex2_size_u32 = 2;
  io_uring_prep_rw(op_futex_wait, &entry, futex2_size_u32, word, 0, expected);
  entry.addr3 = FUTEX_BITSET_MATCH_ANY;
  meddle(site::submit_word, entry);
}

inline void submit_cancel(io_uring_sqe& entry, void* target) noexcept {
  io_uring_prep_cancel(&entry, target, 0);
}

inline void submit_cancel_all(io_uring_sqe& entry) noexcept {
  io_uring_prep_cancel(&entry, nullptr, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
}

inline void submit_alarm_move(io_uring_sqe& entry, const void* alarm,
                              __kernel_timespec& to) noexcept {
  io_uring_prep_timeout_update(&entry, &to, reinterpret_cast<std::uintptr_t>(alarm),
                               IORING_TIMEOUT_ABS);
}

}  // namespace hawser::calls
