// SPDX-License-Identifier: Apache-2.0
// The file that a unix socket is found by.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "calls.hpp"
#include "hawser/errc.hpp"
#include "native.hpp"
#include "os/platform.hpp"

namespace hawser::platform {
namespace {

// A socket file without a process behind it refuses; any other answer, also "queue full", is life.
bool is_stale(const socket_address& address) noexcept {
  bool pending = false;
  std::error_code error;
  const auto probe = start_connect(address, pending, error);
  platform::close(probe);
  return error == std::errc::connection_refused;
}

void require_replaceable(const std::string& path, const socket_address& address) {
  switch (inspect_socket_file(path, current_user())) {
    case socket_file::none:
      return;
    case socket_file::foreign_owner:
      failure(errc::unauthorized, path + " belongs to another user").raise();
    case socket_file::not_a_socket:
      failure(errc::unauthorized, path + " exists and is not a socket").raise();
    case socket_file::socket:
      break;
  }
  if (!is_stale(address)) failure(errc::address_in_use, path + " has a listener").raise();
  remove_file(path);
}

}  // namespace

std::uint32_t current_user() noexcept {
  return ::geteuid();
}

socket_file inspect_socket_file(const std::string& path, std::uint32_t user) noexcept {
  struct stat found {};
  if (calls::lstat(path.c_str(), found) != 0) {
    return errno == ENOENT ? socket_file::none : socket_file::not_a_socket;
  }
  if (!S_ISSOCK(found.st_mode)) return socket_file::not_a_socket;
  if (found.st_uid != user && found.st_uid != 0) return socket_file::foreign_owner;
  return socket_file::socket;
}

namespace {

// bind() gives the file the mode of the descriptor less the umask, so that it never exists with a
// wider mode than it shall have. Not by umask(), which belongs to the whole process.
native_handle bind_unix(const std::string& path, int backlog, bool any_user) {
  const auto address = unix_address(path);
  require_replaceable(path, address);
  const auto socket = calls::socket(AF_UNIX);
  if (socket < 0) throw std::system_error(last_error(), "cannot open a socket for " + path);
  const auto* const raw = reinterpret_cast<const sockaddr*>(address.storage.data());
  bool bound = false;
  const auto fail = [&](const char* action) {
    const auto error = errno == EADDRINUSE ? make_error_code(errc::address_in_use) : last_error();
    if (bound) remove_file(path);
    platform::close(socket);
    throw std::system_error(error, std::string("cannot ") + action + " " + path);
  };
  if (calls::fchmod(socket, 0600) != 0) fail("set the mode of");
  if (calls::bind(socket, raw, address.size) != 0) fail("bind");
  bound = true;
  if (any_user && calls::chmod(path.c_str(), 0666) != 0) fail("open to all users");
  if (calls::listen(socket, backlog) != 0) fail("listen at");
  return socket;
}

}  // namespace

native_handle open_unix_listener(const std::string& path, int backlog, bool any_user) {
  return outlast_the_dead([&] { return bind_unix(path, backlog, any_user); });
}

void remove_file(const std::string& path) noexcept {
  calls::unlink(path.c_str());
}

}  // namespace hawser::platform
