// SPDX-License-Identifier: Apache-2.0
// Names that lead to memory of another process, and the processes behind them.
//
// A name is a file of shm_open() with a note in it: whose memory it is, and under which descriptor
// its owner has it open. The file is never mapped, so nothing depends on its length. Two of its
// bytes are locks, which go with their holder:
//
//   byte 0   its maker lives, from before the note is complete
//   byte 1   who holds it may take the name away: the peer that has come, a maker that leaves, or
//            one that finds the note of a dead one. So nobody takes away a name that leads to
//            something else by now.
#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "calls.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"
#include "os/platform.hpp"

namespace hawser::platform {
namespace {

constexpr std::size_t makers_byte = 0;
constexpr std::size_t removers_byte = 1;
constexpr std::size_t name_longest = 64;
constexpr unsigned attempts = 16;  // against others that make and remove the same name

struct note {
  std::array<char, 8> magic{'h', 'a', 'w', 's', 'e', 'r', 's', 'n'};
  std::int64_t process = 0;
  std::uint64_t started = 0;
  std::int64_t memory = -1;

  [[nodiscard]] process_mark owner() const noexcept { return {process, started}; }
};
static_assert(sizeof(note) == 32);

class owned {
 public:
  explicit owned(int handle) noexcept : handle_(handle) {}
  ~owned() { release_handle(handle_); }
  owned(const owned&) = delete;
  owned& operator=(const owned&) = delete;
  [[nodiscard]] int get() const noexcept { return handle_; }
  [[nodiscard]] native_handle give() noexcept { return std::exchange(handle_, -1); }

 private:
  int handle_;
};

[[noreturn]] void refused(const std::string& name, const char* action) {
  throw std::system_error(last_error(), std::string("cannot ") + action + " " + name);
}

// Empty if it is not there, or not to be read. Throws if it is this process that lacks something:
// who is not seen because of that has not gone.
std::string first_line(const char* path) {
  errno = 0;
  std::ifstream file(path);
  const std::error_code why = last_error();
  if (!file.is_open() && is_exhaustion(why)) {
    throw std::system_error(why, std::string("cannot read ") + path);
  }
  std::string line;
  std::getline(file, line);
  return line;
}

// Field 22 of /proc/PID/stat; the second, which is in parentheses, may hold anything. 0: unknown.
std::uint64_t start_of(std::int64_t process) {
  const std::string line = first_line(("/proc/" + std::to_string(process) + "/stat").c_str());
  const auto name_end = line.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  std::uint64_t started = 0;
  fields >> started;
  return started;
}

bool is_plain(char letter) noexcept {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
         (letter >= '0' && letter <= '9');
}

bool is_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= name_longest && is_plain(name.front()) &&
         std::all_of(name.begin(), name.end(), [](char each) {
           return is_plain(each) || each == '.' || each == '-' || each == '_';
         });
}

void require_ours(const std::string& name, int file) {
  struct stat found {};
  if (calls::fstat(file, found) != 0) refused(name, "look at");
  if (found.st_uid != current_user()) {
    failure(errc::unauthorized, name + " belongs to another user").raise();
  }
  if (!S_ISREG(found.st_mode) || (found.st_mode & 0077) != 0) {
    failure(errc::unauthorized, name + " is open to others").raise();
  }
}

bool is_linked(int file) noexcept {
  struct stat found {};
  return calls::fstat(file, found) == 0 && found.st_nlink != 0;
}

// False: it is not complete. Throws if it is another's.
bool read_note(const std::string& name, int file, note& into) {
  const auto bytes = calls::read_note(file, &into, sizeof into);
  if (bytes < 0) refused(name, "read");
  if (bytes == 0) return false;
  if (bytes != sizeof into || into.magic != note().magic) {
    failure(errc::unsupported, name + " is no note of hawser").raise();
  }
  return true;
}

bool is_alive(const std::string& name, const process_mark& which) {
  std::error_code error;
  const owned watched(descriptor(watch_process(which, error)));
  if (error) throw std::system_error(error, "cannot watch the maker of " + name);
  return watched.get() != no_handle && !has_exited(watched.get());
}

// Takes away the note of a process that has died, with or without having completed it.
void require_replaceable(const std::string& name) {
  const owned file(calls::shm_open(name.c_str(), O_RDWR));
  if (file.get() < 0) {
    if (errno == ENOENT) return;
    if (errno == EACCES) failure(errc::unauthorized, name + " belongs to another user").raise();
    refused(name, "open");
  }
  require_ours(name, file.get());
  note found;
  const bool stale = read_note(name, file.get(), found)
                         ? !is_alive(name, found.owner())
                         : calls::lock_byte(file.get(), makers_byte) == 0;
  if (!stale || calls::lock_byte(file.get(), removers_byte) != 0) {
    failure(errc::address_in_use, name).raise();
  }
  if (is_linked(file.get())) calls::shm_unlink(name.c_str());
}

}  // namespace

// ---- processes --------------------------------------------------------------------------------

process_mark current_process() {
  const process_mark self{calls::own_process(), start_of(calls::own_process())};
  if (self.started == 0) failure(errc::unsupported, "/proc does not show this process").raise();
  return self;
}

// The number may be another's by now: then its process began later, and the handle is of that one.
native_handle watch_process(const process_mark& which, std::error_code& error) noexcept {
  error.clear();
  const int watched = calls::watch_process(which.number);
  if (watched < 0) {
    if (errno != ESRCH && errno != EINVAL) error = last_error();
    return no_handle;
  }
  try {
    if (start_of(which.number) == which.started) return watched;
  } catch (const std::system_error& lacking) {
    error = lacking.code();
  } catch (const std::exception&) {
    error = make_error_code(errc::resource_exhausted);
  }
  calls::close(watched);
  return no_handle;
}

bool has_exited(native_handle watched) noexcept {
  return calls::is_readable(descriptor(watched));
}

// ---- names ------------------------------------------------------------------------------------

std::string memory_name(std::string_view name) {
  if (!is_name(name)) {
    failure(errc::bad_uri, "not a name of memory: " + std::string(name.substr(0, 80))).raise();
  }
  const std::string boot = first_line("/proc/sys/kernel/random/boot_id");
  if (boot.size() < 36) failure(errc::unsupported, "the system does not say when it began").raise();
  return "/hawser." + std::to_string(current_user()) + '.' + boot.substr(0, 8) + boot.substr(9, 4) +
         '.' + std::string(name);
}

native_handle announce_memory(const std::string& name, native_handle memory) {
  const process_mark self = current_process();
  note ours;
  ours.process = self.number;
  ours.started = self.started;
  ours.memory = memory;
  for (unsigned i = 0; i < attempts; ++i) {
    owned file(calls::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL));
    if (file.get() < 0) {
      if (errno != EEXIST) refused(name, "create");
      require_replaceable(name);
      continue;
    }
    // Before it is locked it looks like that of a dead process, and may be gone.
    if (calls::lock_byte(file.get(), makers_byte) != 0) {
      if (errno == EAGAIN || errno == EACCES) continue;
    } else if (calls::write_note(file.get(), &ours, sizeof ours) == sizeof ours &&
               calls::fchmod(file.get(), 0600) == 0) {
      if (is_linked(file.get())) return file.give();
      continue;
    }
    const int number = errno;
    withdraw_name(name, file.get());
    errno = number;
    refused(name, "write to");
  }
  failure(errc::address_in_use, name).raise();
}

found_memory find_memory(const std::string& name) {
  owned file(calls::shm_open(name.c_str(), O_RDWR));
  if (file.get() < 0) {
    if (errno == ENOENT) failure(errc::unreachable, name + " does not exist").raise();
    if (errno == EACCES) failure(errc::unauthorized, name + " belongs to another user").raise();
    refused(name, "open");
  }
  require_ours(name, file.get());
  note found;
  if (!read_note(name, file.get(), found)) {
    failure(errc::unreachable, name + " is not complete").raise();
  }
  std::error_code error;
  const owned watched(descriptor(watch_process(found.owner(), error)));
  if (error) throw std::system_error(error, "cannot watch the maker of " + name);
  if (watched.get() < 0) failure(errc::unreachable, name + ": its maker has gone").raise();
  if (calls::lock_byte(file.get(), removers_byte) != 0) {
    failure(errc::refused, name + " has a peer already").raise();
  }
  if (!is_linked(file.get())) failure(errc::unreachable, name + " was taken away").raise();
  const std::string path =
      "/proc/" + std::to_string(found.process) + "/fd/" + std::to_string(found.memory);
  owned memory(calls::borrow(path.c_str()));
  const int number = memory.get() < 0 ? errno : 0;
  // Only if it has lived all the time, the path was its own.
  if (has_exited(watched.get()) || number == ENOENT) {
    failure(errc::unreachable, name + ": its maker has gone").raise();
  }
  if (number == EACCES || number == EPERM) {
    failure(errc::unauthorized, name + ": its maker does not let us").raise();
  }
  errno = number;
  if (number != 0) refused(name, "open the memory of");
  return {file.give(), memory.give(), found.owner()};
}

void withdraw_name(const std::string& name, native_handle note) noexcept {
  const int file = descriptor(note);
  if (calls::lock_byte(file, removers_byte) == 0 && is_linked(file)) {
    calls::shm_unlink(name.c_str());
  }
}

}  // namespace hawser::platform
