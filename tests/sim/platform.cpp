// SPDX-License-Identifier: Apache-2.0
// The platform of the simulation. It is linked before the library, whose own platform is left out
// then: a function that is missing here would bring it in, and the linker would refuse it.
#include "os/platform.hpp"

#include <cstring>

#include "hawser/errc.hpp"
#include "os/asio/poll_handle.hpp"
#include "sim/reactor.hpp"
#include "sim/world.hpp"

namespace hawser {

std::unique_ptr<reactor> make_portable_reactor() {
  failure(errc::unsupported, "a simulated host has one kind of reactor").raise();
}

namespace platform {
namespace {

using sim::world;

socket_address address_of(const std::string& text) {
  socket_address made;
  if (text.size() >= made.storage.size()) failure(errc::bad_uri, "too long: " + text).raise();
  std::memcpy(made.storage.data(), text.data(), text.size());
  made.size = static_cast<std::uint32_t>(text.size());
  return made;
}

std::string text_of(const socket_address& address) {
  return {reinterpret_cast<const char*>(address.storage.data()), address.size};
}

}  // namespace

std::optional<socket_address> numeric_address(const std::string& host, const std::string& port) {
  return address_of("tcp://" + host + ":" + port);
}

std::vector<socket_address> resolve(const std::string& host, const std::string& port) {
  return {*numeric_address(host, port)};
}

socket_address unix_address(const std::string& path) {
  return address_of(path);
}

std::string to_string(const socket_address& address) {
  return text_of(address);
}

native_handle open_listener(const socket_address& address, int backlog) {
  return world::current().listen(text_of(address), static_cast<std::size_t>(backlog));
}

socket_address local_address(native_handle socket) {
  const auto* const listener = world::current().find_listener(socket);
  return address_of(listener == nullptr ? "?" : listener->address);
}

socket_address remote_address(native_handle socket) {
  const auto* const found = world::current().find(socket);
  return address_of(found == nullptr ? "?" : found->remote);
}

native_handle start_connect(const socket_address& address, bool& pending,
                            std::error_code& error) noexcept {
  error.clear();
  pending = true;
  return world::current().connect(text_of(address), error);
}

std::error_code finish_connect(native_handle socket) noexcept {
  auto* const found = world::current().find(socket);
  found->connects.reset();
  found->connected = !found->connect_error;
  return found->connect_error;
}

native_handle accept(native_handle listener, std::error_code& error) noexcept {
  error.clear();
  return world::current().accept(listener);
}

std::pair<native_handle, native_handle> socket_pair() {
  return world::current().pair();
}

void close(native_handle handle) noexcept {
  world::current().close(handle);
}

void shut_down(native_handle /*socket*/) noexcept {}

void shut_down_writing(native_handle socket) noexcept {
  world::current().finish_writing(socket);
}

std::size_t read_some(native_handle socket, std::span<std::byte> into,
                      std::error_code& error) noexcept {
  return world::current().read(socket, into, error);
}

std::size_t write_some(native_handle socket, std::span<const io_slice> from,
                       std::error_code& error) noexcept {
  return world::current().write(socket, from, error);
}

std::size_t write_with_handles(native_handle socket, const io_slice& from,
                               std::span<const native_handle> handles,
                               std::error_code& error) noexcept {
  return world::current().write_with_handles(socket, from, handles, error);
}

std::size_t read_with_handles(native_handle socket, std::span<std::byte> into, handle_list& came,
                              std::error_code& error) noexcept {
  return world::current().read_with_handles(socket, into, came, error);
}

// A simulated process does not die by itself. Who releases what this returns releases nothing: it
// is no descriptor.
native_handle watch_socket(native_handle socket) {
  return socket;
}

// Shared memory is the system's own: it does not depend on time. Who waits for something in it is
// told by a byte on a socket.
void wake_one(const std::atomic<std::uint32_t>& /*word*/) noexcept {}

bool join_barriers() noexcept {
  return false;
}

void pass_barrier() noexcept {}

bool would_block(const std::error_code& error) noexcept {
  return error == std::errc::operation_would_block ||
         error == std::errc::resource_unavailable_try_again;
}

bool is_exhaustion(const std::error_code& error) noexcept {
  return error == std::errc::too_many_files_open;
}

void apply(native_handle /*socket*/, const stream_options& /*options*/) noexcept {}

std::optional<peer_identity> peer_of(native_handle socket) noexcept {
  const auto* const found = world::current().find(socket);
  if (found == nullptr || !found->over_unix) return std::nullopt;
  return peer_identity{current_user(), 0, 1};
}

std::uint32_t current_user() noexcept {
  return 1000;
}

socket_file inspect_socket_file(const std::string& path, std::uint32_t /*user*/) noexcept {
  return world::current().is_listening(path) ? socket_file::socket : socket_file::none;
}

native_handle open_unix_listener(const std::string& path, int backlog, bool /*any_user*/) {
  return world::current().listen(path, static_cast<std::size_t>(backlog));
}

void remove_file(const std::string& /*path*/) noexcept {}

std::vector<unsigned> usable_core_list() {
  return {0};
}

unsigned usable_cores() {
  return 1;
}

std::optional<double> cpu_quota() {
  return std::nullopt;
}

bool pin_thread(unsigned /*core*/) {
  return true;
}

void fill_random(std::byte* bytes, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>(world::current().dice().below(256));
  }
}

std::string describe_code(const void* /*address*/) {
  return "unknown code";
}

unsigned generation() noexcept {
  return 0;
}

std::thread start_thread(std::string /*name*/, std::function<void()> body) {
  return std::thread(std::move(body));
}

native_reactor make_native_reactor() {
  native_reactor offer;
  offer.mechanism = "simulation";
  offer.reason = "a simulated host";
  offer.created = std::make_unique<sim::reactor>(world::current());
  return offer;
}

const char* portable_mechanism() noexcept {
  return "none";
}

native_handle poll_handle_of(asio::io_context& /*io*/) {
  return no_handle;
}

}  // namespace platform
}  // namespace hawser
