// SPDX-License-Identifier: Apache-2.0
// gRPC. `grpc` is the fastest way found for each question: echoes on one long stream, of which
// the waiting thread polls the completion queue; one way a client stream whose writes may be
// buffered; 1 MiB as a ByteBuffer that refers to its bytes, read in large chunks. `grpc_unary` is
// what its tutorials lead to: a call a message. It sets TCP_NODELAY itself and has no public option
// for the sockets' buffers: those are imposed.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>

#include <array>
#include <future>
#include <memory>
#include <mutex>
#include <queue>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench.hpp"
#include "echo.grpc.pb.h"
#include "offered_load.hpp"
#include "sockets.hpp"

namespace {

using bench::client_seat;
using bench::note;
using bench::server_seat;
using bench::schema::Count;
using bench::schema::Echo;
using bench::schema::Message;

note note_in(const Message& message) {
  return bench::note_in(std::as_bytes(std::span(message.content())));
}

void fill(Message& message, note written) {
  auto& content = *message.mutable_content();
  content.resize(bench::small_bytes);
  bench::write_note(std::as_writable_bytes(std::span(content)), written);
}

void require(const grpc::Status& status) {
  if (!status.ok()) throw std::runtime_error("gRPC: " + status.error_message());
}

void require(bool success, const char* what) {
  if (!success) throw std::runtime_error(std::string("gRPC: ") + what);
}

// ---- servers ----------------------------------------------------------------------------------

/// Where a server listens, and what it announces once it does.
class place {
 public:
  explicit place(const server_seat& seat)
      : seat_(&seat),
        address_(seat.via() == bench::road::tcp ? "127.0.0.1:0" : "unix:" + seat.unix_path()) {}

  void add_to(grpc::ServerBuilder& builder) {
    builder.AddListeningPort(address_, grpc::InsecureServerCredentials(), &port_);
  }
  void announce() const {
    require(port_ > 0, "cannot listen");
    const bool tcp = seat_->via() == bench::road::tcp;
    seat_->announce(tcp ? "127.0.0.1:" + std::to_string(port_) : address_);
  }

 private:
  const server_seat* seat_;
  std::string address_;
  int port_ = 0;
};

/// Answers one stream of echoes. It belongs to the queue that holds its one operation.
class answered_stream {
 public:
  answered_stream(Echo::AsyncService& service, grpc::ServerCompletionQueue& queue)
      : service_(&service), queue_(&queue) {
    service.RequestExchange(&context_, &stream_, &queue, &queue, this);
  }

  /// What follows the operation that has ended. False: the stream has ended.
  [[nodiscard]] bool go_on(bool success) {
    switch (ended_) {
      case operation::accept:
        if (!success) return false;
        static_cast<void>(std::make_unique<answered_stream>(*service_, *queue_).release());
        read();
        break;
      case operation::read:
        if (success) {
          ended_ = operation::write;
          stream_.Write(message_, this);
        } else {
          ended_ = operation::finish;
          stream_.Finish(grpc::Status::OK, this);
        }
        break;
      case operation::write:
        read();
        break;
      case operation::finish:
        return false;
    }
    return true;
  }

 private:
  enum class operation : std::uint8_t { accept, read, write, finish };

  void read() {
    ended_ = operation::read;
    stream_.Read(&message_, this);
  }

  Echo::AsyncService* service_;
  grpc::ServerCompletionQueue* queue_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<Message, Message> stream_{&context_};
  Message message_;
  operation ended_ = operation::accept;
};

void serve_streams(server_seat& seat) {
  Echo::AsyncService service;
  place where(seat);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  where.add_to(builder);
  const auto queue = builder.AddCompletionQueue();
  const auto server = builder.BuildAndStart();
  where.announce();
  static_cast<void>(std::make_unique<answered_stream>(service, *queue).release());
  void* tag = nullptr;
  bool success = false;
  while (queue->Next(&tag, &success)) {
    std::unique_ptr<answered_stream> stream(static_cast<answered_stream*>(tag));
    if (stream->go_on(success)) static_cast<void>(stream.release());
  }
}

/// Counts the messages of a stream until the client ends it.
class counted_stream final : public grpc::ServerReadReactor<Message> {
 public:
  explicit counted_stream(Count& answer) : answer_(&answer) { StartRead(&message_); }

  void OnReadDone(bool success) override {
    if (success) {
      ++count_;
      StartRead(&message_);
    } else {
      answer_->set_messages(count_);
      Finish(grpc::Status::OK);
    }
  }
  void OnDone() override { delete this; }

 private:
  Count* answer_;
  std::uint64_t count_ = 0;
  Message message_;
};

class echo_service final : public Echo::CallbackService {
 public:
  grpc::ServerUnaryReactor* Call(grpc::CallbackServerContext* context, const Message* request,
                                 Message* reply) override {
    *reply = *request;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerReadReactor<Message>* Push(grpc::CallbackServerContext*, Count* answer) override {
    return new counted_stream(*answer);
  }
};

void serve_calls(server_seat& seat) {
  echo_service service;
  place where(seat);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  where.add_to(builder);
  const auto server = builder.BuildAndStart();
  where.announce();
  server->Wait();
}

/// Counts 1 MiB messages without taking them out of the buffers they came in.
class counted_bulk final : public grpc::ServerGenericBidiReactor {
 public:
  counted_bulk() { StartRead(&message_); }

  void OnReadDone(bool success) override {
    if (success) {
      if (message_.Length() == bench::bulk_bytes) ++count_;
      StartRead(&message_);
    } else {
      const grpc::Slice answer(&count_, sizeof count_);
      message_ = grpc::ByteBuffer(&answer, 1);
      StartWriteAndFinish(&message_, {}, grpc::Status::OK);
    }
  }
  void OnDone() override { delete this; }

 private:
  std::uint64_t count_ = 0;
  grpc::ByteBuffer message_;
};

class bulk_service final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new counted_bulk;
  }
};

void serve_bulk(server_seat& seat) {
  bulk_service service;
  place where(seat);
  grpc::ServerBuilder builder;
  builder.RegisterCallbackGenericService(&service);
  for (const auto* chunk : {GRPC_ARG_TCP_READ_CHUNK_SIZE, GRPC_ARG_TCP_MIN_READ_CHUNK_SIZE,
                            GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE}) {
    builder.AddChannelArgument(chunk, 4 << 20);
  }
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  where.add_to(builder);
  const auto server = builder.BuildAndStart();
  where.announce();
  server->Wait();
}

// ---- clients, a call a message ----------------------------------------------------------------

// Each channel has a connection of its own.
std::shared_ptr<grpc::Channel> dial(const client_seat& seat) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(seat.address(), grpc::InsecureChannelCredentials(), arguments);
}

void call_once(Echo::Stub& stub, std::uint64_t number) {
  grpc::ClientContext context;
  Message request;
  Message reply;
  fill(request, {number, 0});
  require(stub.Call(&context, request, &reply));
  bench::expect_number(number, note_in(reply).number);
}

void time_calls(client_seat& seat) {
  Echo::Stub stub(dial(seat));
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      call_once(stub, ++number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
}

void call_and_leave(client_seat& seat) {
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto before = bench::clock::now();
      Echo::Stub stub(dial(seat));
      call_once(stub, ++number);
      seat.record(bench::clock::now() - before);
    }
  }
}

/// A call in flight.
struct pending_call {
  std::uint64_t number = 0;
  Message request;
  Message reply;
  grpc::Status status;
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Message>> reader;

  void begin(Echo::Stub& stub, grpc::CompletionQueue& queue, std::uint64_t its_number) {
    number = its_number;
    fill(request, {number, 0});
    context = std::make_unique<grpc::ClientContext>();
    reader = stub.AsyncCall(context.get(), request, &queue);
    reader->Finish(&reply, &status, this);
  }
};

void call_window(client_seat& seat) {
  Echo::Stub stub(dial(seat));
  grpc::CompletionQueue queue;
  std::vector<pending_call> calls(bench::window);
  while (const auto count = seat.next_round()) {
    std::uint64_t sent = 0;
    while (sent < std::min(count, bench::window)) {
      calls[sent].begin(stub, queue, sent);
      ++sent;
    }
    for (std::uint64_t received = 0; received < count; ++received) {
      void* tag = nullptr;
      bool success = false;
      require(queue.Next(&tag, &success), "the queue has ended");
      auto& ended = *static_cast<pending_call*>(tag);
      require(ended.status);
      bench::expect_number(ended.number, note_in(ended.reply).number);
      if (sent < count) ended.begin(stub, queue, sent++);
    }
  }
}

// ---- clients, a stream of echoes --------------------------------------------------------------

void time_round_trips(client_seat& seat) {
  Echo::Stub stub(dial(seat));
  grpc::ClientContext context;
  const auto stream = stub.Exchange(&context);
  Message message;
  std::uint64_t number = 0;
  while (const auto count = seat.next_round()) {
    auto before = bench::clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      fill(message, {++number, 0});
      require(stream->Write(message) && stream->Read(&message), "the stream has ended");
      bench::expect_number(number, note_in(message).number);
      const auto now = bench::clock::now();
      seat.record(now - before);
      before = now;
    }
  }
  stream->WritesDone();
  require(stream->Finish());
}

/// A connection with one stream. There is always a read under way, and at most one write.
class echo_stream {
 public:
  struct completion {
    echo_stream* of;
    bool read;  ///< else written
  };

  echo_stream(const client_seat& seat, grpc::CompletionQueue& queue, std::size_t index)
      : index_(index),
        stub_(dial(seat)),
        stream_(stub_.AsyncExchange(&context_, &queue, &written_)) {}
  echo_stream(const echo_stream&) = delete;
  echo_stream& operator=(const echo_stream&) = delete;

  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  void cancel() { context_.TryCancel(); }
  void read() { stream_->Read(&in_, &read_); }
  [[nodiscard]] note received() const { return note_in(in_); }
  [[nodiscard]] bool writing() const noexcept { return writing_; }
  /// Not while writing().
  void write(note content) {
    writing_ = true;
    fill(out_, content);
    stream_->Write(out_, &written_);
  }
  void end_write() noexcept { writing_ = false; }

 private:
  std::size_t index_;
  bool writing_ = false;
  completion read_{this, true};
  completion written_{this, false};
  Message in_;
  Message out_;
  Echo::Stub stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<Message, Message>> stream_;
};

/// All connections of a client, begun.
class echo_streams {
 public:
  explicit echo_streams(const client_seat& seat) {
    while (streams_.size() < seat.asked().connections) {
      streams_.push_back(std::make_unique<echo_stream>(seat, queue_, streams_.size()));
      next().of->read();
    }
  }
  ~echo_streams() {
    for (const auto& stream : streams_) stream->cancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool success = false;
    while (queue_.Next(&tag, &success)) {
    }
  }
  echo_streams(const echo_streams&) = delete;
  echo_streams& operator=(const echo_streams&) = delete;

  [[nodiscard]] echo_stream& operator[](std::size_t index) { return *streams_[index]; }
  /// Blocks until something has been read or written.
  [[nodiscard]] echo_stream::completion next() {
    void* tag = nullptr;
    bool success = false;
    require(queue_.Next(&tag, &success) && success, "a stream has ended");
    return *static_cast<echo_stream::completion*>(tag);
  }

 private:
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<echo_stream>> streams_;
};

/// How far a connection is in a round.
struct progress {
  std::uint64_t share;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

void send_more(echo_stream& stream, progress& at, std::uint64_t in_flight) {
  if (stream.writing() || at.sent == at.share || at.sent - at.received == in_flight) return;
  stream.write({at.sent++, 0});
}

void echo_window(client_seat& seat) {
  const auto connections = seat.asked().connections;
  echo_streams streams(seat);
  while (const auto count = seat.next_round()) {
    std::vector<progress> all;
    for (std::size_t i = 0; i < connections; ++i) {
      all.push_back({bench::share_of(count, connections, i)});
      send_more(streams[i], all[i], seat.asked().in_flight);
    }
    for (std::uint64_t received = 0; received < count;) {
      const auto ended = streams.next();
      auto& stream = *ended.of;
      auto& at = all[stream.index()];
      if (ended.read) {
        bench::expect_number(at.received++, stream.received().number);
        ++received;
        stream.read();
      } else {
        stream.end_write();
      }
      send_more(stream, at, seat.asked().in_flight);
    }
  }
}

// ---- a load by the clock ----------------------------------------------------------------------

/// A round of offered load; the queue's own deadlines are whole milliseconds. What is due waits for
/// the stream, which takes one write at a time.
class streamed_load {
 public:
  streamed_load(client_seat& seat, echo_streams& streams, std::uint64_t count)
      : streams_(&streams), load_(seat, count) {}

  void run() {
    bench::offer_on_two_threads(
        load_, [this] { send_due(); }, [this] { take_next(); });
  }

 private:
  void send_due() {
    const std::lock_guard hold(mutex_);
    const auto now = bench::clock::now();
    while (load_.is_due(now)) due_.push(load_.next());
    send_next();
  }
  // Begins a write if it can.
  void send_next() {
    auto& stream = (*streams_)[0];
    if (stream.writing() || due_.empty()) return;
    stream.write(due_.front());
    due_.pop();
  }
  void take_next() {
    const auto ended = streams_->next();
    if (ended.read) {
      load_.answered(ended.of->received());
      ended.of->read();
    } else {
      const std::lock_guard hold(mutex_);
      ended.of->end_write();
      send_next();
    }
  }

  echo_streams* streams_;
  bench::offered_load load_;
  std::mutex mutex_;  // of what follows, and of the writing side of the stream
  std::queue<note> due_;
};

void call_by_the_clock(client_seat& seat) {
  echo_streams streams(seat);
  while (const auto count = seat.next_round()) streamed_load(seat, streams, count).run();
}

// ---- clients, one way -------------------------------------------------------------------------

/// A stream of equal messages, all but the last of which may wait in buffers.
template <class Reactor, class Content>
class sent_stream : public Reactor {
 public:
  void wait() { require(ended_.get_future().get()); }

  void OnWriteDone(bool success) override {
    if (success) send_next();
  }
  void OnDone(const grpc::Status& status) override { ended_.set_value(status); }

 protected:
  explicit sent_stream(std::uint64_t count) noexcept : left_(count) {}

  void send_next() {
    if (left_ == 0) return this->StartWritesDone();
    grpc::WriteOptions options;
    if (--left_ != 0) options.set_buffer_hint();
    this->StartWrite(&message_, options);
  }

  Content message_;

 private:
  std::uint64_t left_;
  std::promise<grpc::Status> ended_;
};

class pushed_stream final : public sent_stream<grpc::ClientWriteReactor<Message>, Message> {
 public:
  pushed_stream(Echo::Stub& stub, std::uint64_t count) : sent_stream(count) {
    fill(message_, {});
    stub.async()->Push(&context_, &answer_, this);
    send_next();
    StartCall();
  }

  [[nodiscard]] std::uint64_t answer() const noexcept { return answer_.messages(); }

 private:
  grpc::ClientContext context_;
  Count answer_;
};

void push_small(client_seat& seat) {
  Echo::Stub stub(dial(seat));
  while (const auto count = seat.next_round()) {
    pushed_stream stream(stub, count);
    stream.wait();
    bench::expect_number(count, stream.answer());
  }
}

using buffer_reactor = grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

class bulk_stream final : public sent_stream<buffer_reactor, grpc::ByteBuffer> {
 public:
  bulk_stream(grpc::GenericStub& stub, std::span<const std::byte> content, std::uint64_t count)
      : sent_stream(count) {
    const grpc::Slice in_place(content.data(), content.size(), grpc::Slice::STATIC_SLICE);
    message_ = grpc::ByteBuffer(&in_place, 1);
    stub.PrepareBidiStreamingCall(&context_, "/bench.schema.Echo/Bulk", {}, this);
    StartRead(&answer_);
    send_next();
    StartCall();
  }

  [[nodiscard]] std::uint64_t answer() const {
    grpc::Slice content;
    std::uint64_t count = 0;
    require(answer_.DumpToSingleSlice(&content));
    require(content.size() == sizeof count, "no answer came");
    std::memcpy(&count, content.begin(), sizeof count);
    return count;
  }

 private:
  grpc::ClientContext context_;
  grpc::ByteBuffer answer_;
};

void push_bulk(client_seat& seat) {
  const std::vector<std::byte> message(bench::bulk_bytes);
  grpc::GenericStub stub(dial(seat));
  while (const auto count = seat.next_round()) {
    bulk_stream stream(stub, message, count);
    stream.wait();
    bench::expect_number(count, stream.answer());
  }
}

constexpr std::array entries{
    bench::imposed_entry<serve_streams, time_round_trips>(bench::echo_rtt, "grpc"),
    bench::imposed_entry<serve_calls, time_calls>(bench::echo_rtt, "grpc_unary"),
    bench::imposed_entry<serve_streams, echo_window>(bench::echo_throughput, "grpc"),
    bench::imposed_entry<serve_calls, call_window>(bench::echo_throughput, "grpc_unary"),
    bench::imposed_entry<serve_streams, echo_window>(bench::echo_32, "grpc"),
    bench::imposed_entry<serve_streams, echo_window>(bench::echo_256, "grpc"),
    bench::imposed_entry<serve_calls, push_small>(bench::oneway_throughput, "grpc"),
    bench::imposed_entry<serve_bulk, push_bulk>(bench::bulk_1mib, "grpc"),
    bench::imposed_entry<serve_calls, call_and_leave>(bench::connect_reply, "grpc"),
    bench::imposed_entry<serve_streams, call_by_the_clock>(bench::load, "grpc"),
};

}  // namespace

int main(int argc, char** argv) {
  // Held to the end of the process: now and then the library's own end waits ten seconds for a
  // thread of its own that still polls.
  grpc_init();
  return bench::main_of(argc, argv, entries);
}
