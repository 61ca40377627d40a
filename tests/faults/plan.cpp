// SPDX-License-Identifier: Apache-2.0
#include "faults/plan.hpp"

#include <array>
#include <atomic>
#include <list>
#include <map>
#include <mutex>

namespace test {
namespace {

using hawser::calls::site;
using hawser::calls::site_count;
using hawser::calls::verdict;

std::array<std::atomic<std::uint64_t>, site_count> calls{};
std::array<std::atomic<std::uint64_t>, site_count> faults{};

std::mutex mutex;  // what follows
fault next_fault;
unsigned left = 0;  // calls until it happens; 0: none
std::map<std::uint64_t, int> outcomes;  // of what was submitted to fail, by its user data

// Of a message that shall move one byte. They stay, because a ring looks at them later.
struct short_message {
  msghdr message{};
  iovec piece{};
};
std::list<short_message> short_messages;

std::size_t index_of(site where) noexcept {
  return static_cast<std::size_t>(where);
}

msghdr* shortened(const msghdr& whole) {
  auto& made = short_messages.emplace_back();
  made.piece = {whole.msg_iov->iov_base, 1};
  made.message = whole;
  made.message.msg_iov = &made.piece;
  made.message.msg_iovlen = 1;
  return &made.message;
}

void cut(io_uring_sqe& entry) {
  entry.flags &= static_cast<std::uint8_t>(~IOSQE_CQE_SKIP_SUCCESS);
  switch (entry.opcode) {
    case IORING_OP_ACCEPT:
      entry.ioprio &= static_cast<std::uint16_t>(~IORING_ACCEPT_MULTISHOT);
      break;
    case IORING_OP_POLL_ADD:
      entry.len &= ~IORING_POLL_ADD_MULTI;
      break;
    case IORING_OP_SENDMSG:
    case IORING_OP_RECVMSG:
      entry.addr =
          reinterpret_cast<std::uintptr_t>(shortened(*reinterpret_cast<msghdr*>(entry.addr)));
      break;
    default:
      if ((entry.ioprio & IORING_RECV_MULTISHOT) == 0) entry.len = 1;
      entry.ioprio &= static_cast<std::uint16_t>(~IORING_RECV_MULTISHOT);
  }
}

}  // namespace

void arm(const fault& next) noexcept {
  const std::lock_guard guard(mutex);
  next_fault = next;
  left = next.nth;
}

void disarm() noexcept {
  const std::lock_guard guard(mutex);
  left = 0;
}

std::uint64_t calls_at(site where) noexcept {
  return calls[index_of(where)].load(std::memory_order_relaxed);
}

std::uint64_t faults_at(site where) noexcept {
  return faults[index_of(where)].load(std::memory_order_relaxed);
}

}  // namespace test

namespace hawser::calls {

verdict decide(site where) noexcept {
  test::calls[test::index_of(where)].fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard guard(test::mutex);
  if (test::left == 0 || test::next_fault.where != where || --test::left != 0) return {};
  test::faults[test::index_of(where)].fetch_add(1, std::memory_order_relaxed);
  return {test::next_fault.error, test::next_fault.error == 0};
}

// What shall fail becomes an operation that does nothing, so that the socket is as it would be.
void meddle(site where, io_uring_sqe& entry) noexcept {
  const verdict now = decide(where);
  const std::lock_guard guard(test::mutex);
  if (now.error != 0) {
    test::outcomes[entry.user_data] = -now.error;
    io_uring_prep_nop(&entry);
  } else if (now.cut) {
    test::cut(entry);
  }
}

int outcome_of(const io_uring_cqe& arrived) noexcept {
  const std::lock_guard guard(test::mutex);
  const auto found = test::outcomes.find(arrived.user_data);
  if (found == test::outcomes.end()) return arrived.res;
  const int result = found->second;
  test::outcomes.erase(found);
  return result;
}

}  // namespace hawser::calls
