// SPDX-License-Identifier: Apache-2.0
#include "hawser/shm_bridge.hpp"

#include <chrono>
#include <utility>

#include "hawser/offload.hpp"

namespace hawser {
namespace {

using namespace std::chrono_literals;

constexpr auto slice = 20ms;  // after which who waits asks whether it is still wanted

}  // namespace

task<std::optional<std::vector<std::byte>>> shm_recv(shm_stream& from) {
  std::vector<std::byte> record;
  auto got = from.read(record, 0ns);
  while (!got.has_value() && got.error().code() == errc::timed_out) {
    auto wait = [&from, &record] { return from.read(record, slice); };
    got = co_await offload(std::move(wait));
  }
  if (!got.value().has_value()) co_return std::nullopt;
  co_return std::move(record);
}

task<void> shm_send(shm_stream& to, std::span<const std::byte> record) {
  auto done = to.write(record, 0ns);
  while (!done.has_value() && done.error().code() == errc::timed_out) {
    auto wait = [&to, record] { return to.write(record, slice); };
    done = co_await offload(std::move(wait));
  }
  done.value();
}

}  // namespace hawser
