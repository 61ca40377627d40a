// SPDX-License-Identifier: Apache-2.0
// Many connections with one message in flight each, on io_uring without any library between: one
// receive that stays armed a socket, buffers that the system picks, sends that are only heard of
// when they fail, and one system call a turn for all of it.
#include <liburing.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "bench.hpp"
#include "sockets.hpp"

namespace {

using bench::client_seat;
using bench::server_seat;
using bench::stream_socket;

using small_message = std::array<std::byte, bench::small_bytes>;

void require(int result, const char* call) {
  if (result < 0) throw std::system_error(-result, std::generic_category(), call);
}

/// Memory from which the system takes a piece for whatever arrives.
class buffer_ring {
 public:
  buffer_ring(io_uring& ring, unsigned count)
      : count_(count),
        bytes_(count * bench::small_bytes),
        descriptors_(::mmap(nullptr, count * sizeof(io_uring_buf), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (descriptors_ == MAP_FAILED) require(-errno, "mmap");
    io_uring_buf_reg asked{};
    asked.ring_addr = reinterpret_cast<std::uint64_t>(descriptors_);
    asked.ring_entries = count;
    asked.bgid = group;
    require(::io_uring_register_buf_ring(&ring, &asked, 0), "register_buf_ring");
    ::io_uring_buf_ring_init(buffers());
    for (unsigned id = 0; id < count; ++id) add(id, static_cast<int>(id));
    publish(static_cast<int>(count));
  }
  ~buffer_ring() { ::munmap(descriptors_, count_ * sizeof(io_uring_buf)); }
  buffer_ring(const buffer_ring&) = delete;
  buffer_ring& operator=(const buffer_ring&) = delete;

  static constexpr unsigned short group = 1;

  [[nodiscard]] std::span<const std::byte> at(unsigned id, std::size_t bytes) const noexcept {
    return std::span(bytes_).subspan(id * bench::small_bytes, bytes);
  }
  /// Gives back; publish() shows `offset` + 1 of them to the system.
  void add(unsigned id, int offset) noexcept {
    ::io_uring_buf_ring_add(buffers(), bytes_.data() + id * bench::small_bytes, bench::small_bytes,
                            static_cast<unsigned short>(id),
                            ::io_uring_buf_ring_mask(count_), offset);
  }
  void publish(int count) noexcept { ::io_uring_buf_ring_advance(buffers(), count); }

 private:
  [[nodiscard]] io_uring_buf_ring* buffers() const noexcept {
    return static_cast<io_uring_buf_ring*>(descriptors_);
  }

  unsigned count_;
  std::vector<std::byte> bytes_;
  void* descriptors_;
};

/// Connections, numbered, of which each has one message under way at a time.
class connections {
 public:
  explicit connections(std::vector<stream_socket> sockets)
      : sockets_(std::move(sockets)), ring_(ready_ring(sockets_)), buffers_(ring_.ring, 1024) {
    outgoing_.resize(sockets_.size());
    for (unsigned index = 0; index < sockets_.size(); ++index) arm(index);
  }

  /// Where the next message of a connection is put before send(). Its last one has been answered or
  /// is what has just come, so the system has no use for these bytes any more.
  [[nodiscard]] small_message& outgoing(unsigned index) noexcept { return outgoing_[index]; }
  void send(unsigned index, std::size_t bytes) {
    auto& entry = next_entry();
    ::io_uring_prep_send(&entry, static_cast<int>(index), outgoing_[index].data(), bytes,
                         MSG_WAITALL | MSG_NOSIGNAL);
    entry.flags |= IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
    entry.user_data = sends;
  }

  /// Submits, waits, and calls `on_bytes(index, bytes)` for each that came. False: a peer has left.
  template <class OnBytes>
  [[nodiscard]] bool turn(OnBytes on_bytes) {
    require(::io_uring_submit_and_wait(&ring_.ring, 1), "io_uring_submit_and_wait");
    unsigned head = 0;
    unsigned seen = 0;
    int returned = 0;
    bool open = true;
    io_uring_cqe* done = nullptr;
    io_uring_for_each_cqe(&ring_.ring, head, done) {
      ++seen;
      if (done->user_data == sends) {
        require(done->res, "send");
        continue;
      }
      const auto index = static_cast<unsigned>(done->user_data);
      open = open && done->res != 0 && done->res != -ECONNRESET;
      if (done->res > 0) {
        const unsigned id = done->flags >> IORING_CQE_BUFFER_SHIFT;
        on_bytes(index, buffers_.at(id, static_cast<std::size_t>(done->res)));
        buffers_.add(id, returned++);
      } else if (open && done->res != -ENOBUFS) {
        require(done->res, "recv");
      }
      if (open && (done->flags & IORING_CQE_F_MORE) == 0) arm(index);
    }
    buffers_.publish(returned);
    ::io_uring_cq_advance(&ring_.ring, seen);
    return open;
  }

 private:
  static constexpr std::uint64_t sends = ~std::uint64_t{0};

  struct ready_ring {
    explicit ready_ring(const std::vector<stream_socket>& sockets) {
      io_uring_params wanted{};
      wanted.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                     IORING_SETUP_CQSIZE;
      wanted.cq_entries = 4096;
      require(::io_uring_queue_init_params(1024, &ring, &wanted), "io_uring_queue_init");
      std::vector<int> descriptors;
      for (const auto& each : sockets) descriptors.push_back(each.descriptor());
      require(::io_uring_register_files(&ring, descriptors.data(),
                                        static_cast<unsigned>(descriptors.size())),
              "io_uring_register_files");
      require(::io_uring_register_ring_fd(&ring), "io_uring_register_ring_fd");
    }
    ~ready_ring() { ::io_uring_queue_exit(&ring); }
    ready_ring(const ready_ring&) = delete;
    ready_ring& operator=(const ready_ring&) = delete;

    io_uring ring{};
  };

  io_uring_sqe& next_entry() {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_.ring);
    if (entry == nullptr) {
      require(::io_uring_submit(&ring_.ring), "io_uring_submit");
      entry = ::io_uring_get_sqe(&ring_.ring);
    }
    return *entry;
  }

  void arm(unsigned index) {
    auto& entry = next_entry();
    ::io_uring_prep_recv_multishot(&entry, static_cast<int>(index), nullptr, 0, 0);
    entry.flags |= IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    entry.buf_group = buffer_ring::group;
    entry.user_data = index;
  }

  std::vector<stream_socket> sockets_;
  ready_ring ring_;
  buffer_ring buffers_;
  std::vector<small_message> outgoing_;
};

void serve_echo(server_seat& seat) {
  connections clients(accept_clients(seat));
  const auto echo = [&](unsigned index, std::span<const std::byte> bytes) {
    std::memcpy(clients.outgoing(index).data(), bytes.data(), bytes.size());
    clients.send(index, bytes.size());
  };
  while (clients.turn(echo)) {
  }
}

/// One connection's part of a round.
struct conversation {
  std::uint64_t count = 0;
  std::uint64_t sent = 0;
  small_message answer{};
  std::size_t arrived = 0;  // bytes of the answer
};

void send_next(connections& servers, unsigned index, conversation& with) {
  if (with.sent == with.count) return;
  bench::write_note(servers.outgoing(index), {with.sent++, 0});
  servers.send(index, bench::small_bytes);
}

void echo_round(connections& servers, std::uint64_t count, std::uint64_t width) {
  std::vector<conversation> conversations(width);
  for (unsigned index = 0; index < width; ++index) {
    conversations[index].count = bench::share_of(count, width, index);
    send_next(servers, index, conversations[index]);
  }
  std::uint64_t received = 0;
  const auto take = [&](unsigned index, std::span<const std::byte> bytes) {
    auto& with = conversations[index];
    std::memcpy(with.answer.data() + with.arrived, bytes.data(), bytes.size());
    with.arrived += bytes.size();
    if (with.arrived < bench::small_bytes) return;
    with.arrived = 0;
    bench::expect_number(with.sent - 1, bench::note_in(with.answer).number);
    ++received;
    send_next(servers, index, with);
  };
  while (received < count) {
    if (!servers.turn(take)) throw std::runtime_error("the server left");
  }
}

void call_echo(client_seat& seat) {
  connections servers(connect_all_to_server(seat));
  while (const auto count = seat.next_round()) {
    echo_round(servers, count, seat.asked().connections);
  }
}

constexpr std::array entries{
    bench::entry{&bench::echo_256, "floor_uring", serve_echo, call_echo},
};

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of(argc, argv, entries);
}
