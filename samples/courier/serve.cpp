// SPDX-License-Identifier: Apache-2.0
#include "courier/serve.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "courier/display.hpp"
#include "courier/paths.hpp"
#include "courier/protocol.hpp"

namespace courier {
namespace {

using namespace std::chrono_literals;

constexpr auto report_pace = 100ms;
constexpr auto same_tree_patience = 10s;  // for a dead link to let go of its tree
constexpr auto farewell_patience = 5s;
constexpr unsigned questions_max = 8;  // being answered at the same time
constexpr std::size_t batch_max = 8;   // bulk messages that go to the disk together
constexpr std::size_t lanes_max = 8;

class cancelled_by_sender : public std::runtime_error {
 public:
  explicit cancelled_by_sender(bool keep)
      : runtime_error("cancelled by the sender"), keep_partial(keep) {}
  bool keep_partial;
};

// One transfer, from the first question to the last report.
struct receiving {
  receiving(server& owner, hawser::link over) : shared(owner), link(std::move(over)) {}
  receiving(const receiving&) = delete;
  receiving& operator=(const receiving&) = delete;
  ~receiving() {
    if (tree) shared.trees.erase(*tree);
  }

  server& shared;
  hawser::link link;
  std::optional<std::uint64_t> tree;  // registered in the server
  std::unique_ptr<target_tree> target;
  bool greeted = false;
  unsigned questions = 0;  // being answered
  bool finished = false;   // contents have ended: the tree is left alone
  bool told = false;       // the sender knows
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
};

hawser::task<void> say(std::string line) {
  co_await hawser::offload([&line] {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  });
}

// ---- questions ------------------------------------------------------------------------------

target_tree& target_of(receiving& transfer) {
  if (!transfer.target) throw bad_message("a transfer that does not begin with hello");
  return *transfer.target;
}

// A killed sender that comes back may be faster than the end of its old link.
hawser::task<void> take_tree(receiving& transfer, const hello& opening) {
  auto& trees = transfer.shared.trees;
  const auto deadline = std::chrono::steady_clock::now() + same_tree_patience;
  while (trees.count(opening.tree) != 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("this tree is being received on another link");
    }
    co_await hawser::this_task::sleep_for(20ms);
  }
  trees.insert(opening.tree);
  transfer.tree = opening.tree;
}

hawser::task<bytes> answer_hello(receiving& transfer, const hello& opening) {
  if (std::exchange(transfer.greeted, true)) throw bad_message("a second hello");
  if (opening.version != protocol_version) {
    throw std::runtime_error("the sender speaks version " + std::to_string(opening.version) +
                             " of the protocol, this server " + std::to_string(protocol_version));
  }
  co_await take_tree(transfer, opening);
  const auto& options = transfer.shared.options;
  transfer.target = co_await hawser::offload(
      [&] { return std::make_unique<target_tree>(options.folder, opening, options.target); });
  co_return encode(tag::answer);
}

hawser::task<bytes> answer_to(receiving& transfer, std::span<const std::byte> question) {
  switch (tag_of(question)) {
    case tag::hello: {
      const auto opening = decode_hello(question);
      co_return co_await answer_hello(transfer, opening);
    }
    case tag::offer: {
      auto& target = target_of(transfer);
      const auto answers =
          co_await hawser::offload([&] { return target.take_offer(decode_offer(question)); });
      co_return encode(std::span(answers));
    }
    case tag::listed:
      target_of(transfer).close_listing(decode_listed(question));
      co_return encode(tag::answer);
    case tag::prefix: {
      auto& target = target_of(transfer);
      const auto number = decode_prefix(question);
      const auto prefix = co_await hawser::offload([&] { return target.take_prefix(number); });
      co_return encode(prefix);
    }
    default:
      throw bad_message("not a question");
  }
}

hawser::task<void> answer(receiving& transfer, hawser::message question) {
  const auto words = question.to_owned();
  const auto reply = co_await answer_to(transfer, words.bytes());
  co_await transfer.link.rpc().send(reply, {.id = question.id()});
  --transfer.questions;
}

// A ping is answered at once, whatever the disk does for other questions.
hawser::task<void> read_questions(hawser::scope& scope, receiving& transfer) {
  const auto pong = encode(tag::answer);
  while (auto question = co_await transfer.link.rpc().recv()) {
    if (tag_of(question->bytes()) == tag::ping) {
      co_await transfer.link.rpc().send(pong, {.id = question->id()});
      continue;
    }
    if (transfer.finished) throw bad_message("a question after the end");
    if (++transfer.questions > questions_max) throw bad_message("too many questions at once");
    scope.spawn(answer(transfer, std::move(*question)));
  }
}

// ---- contents -------------------------------------------------------------------------------

using lane_messages = std::vector<hawser::message>;

hawser::task<void> write_lane(target_tree& target, lane_messages messages) {
  co_await hawser::offload([&] {
    for (auto& message : messages) {
      target.take_records(message.to_owned().bytes());
      message = {};  // its credit returns: the next may come while this one is on the disk
    }
  });
}

// Records of one file are in one lane, in order; lanes may go to the disk beside each other.
hawser::task<void> write_batch(target_tree& target, lane_messages batch) {
  std::array<lane_messages, lanes_max> sorted;
  for (auto& message : batch) {
    auto& lane = sorted[static_cast<std::size_t>(message.id() % lanes_max)];
    lane.push_back(std::move(message));
  }
  std::vector<hawser::task<void>> writes;
  for (auto& lane : sorted) {
    if (!lane.empty()) writes.push_back(write_lane(target, std::move(lane)));
  }
  co_await hawser::when_all(std::move(writes));
}

hawser::task<void> write_contents(receiving& transfer) {
  for (;;) {
    auto batch = co_await transfer.link.bulk().recv_batch(batch_max);
    if (batch.empty()) break;
    co_await write_batch(target_of(transfer), std::move(batch));
  }
}

// ---- reports --------------------------------------------------------------------------------

hawser::task<void> send_troubles(receiving& transfer) {
  for (;;) {
    const auto troubles = transfer.target->take_troubles();
    if (troubles.empty()) co_return;
    for (const auto& one : troubles) {
      const auto message = encode(one);
      co_await transfer.link.stream().send(message);
    }
  }
}

hawser::task<void> report_steadily(receiving& transfer) {
  progress last;
  while (!transfer.finished) {
    co_await hawser::this_task::sleep_for(report_pace);
    if (!transfer.target || transfer.finished) continue;
    co_await send_troubles(transfer);
    const auto reached = transfer.target->reached();
    if (reached.bytes == last.bytes && reached.files == last.files) continue;
    last = reached;
    const auto message = encode(reached);
    co_await transfer.link.stream().send(message);
  }
}

hawser::task<void> send_end(receiving& transfer, ending how, std::string what) {
  end last;
  last.how = how;
  last.what = std::move(what);
  if (transfer.target) {
    last.reached = transfer.target->reached();
    last.resent = transfer.target->resent();
  }
  const auto message = encode(last);
  co_await transfer.link.stream().send(message);
}

hawser::task<void> read_control(receiving& transfer) {
  while (auto message = co_await transfer.link.control().recv()) {
    const bool keep = decode_cancel(message->to_owned().bytes());
    if (transfer.finished) continue;  // too late
    if (transfer.target) transfer.target->hurry();
    throw cancelled_by_sender(keep);
  }
}

// ---- one transfer ---------------------------------------------------------------------------

// The sender half-closes bulk when everything is sent.
hawser::task<void> write_tree(receiving& transfer) {
  co_await write_contents(transfer);
  auto& target = target_of(transfer);
  if (!target.listed() || transfer.questions > 0) throw bad_message("an end before its time");
  transfer.finished = true;
  const auto missing = co_await hawser::offload([&target] { return target.finish(); });
  co_await send_troubles(transfer);
  if (missing == 0) {
    co_await send_end(transfer, ending::complete, {});
  } else {
    co_await send_end(transfer, ending::incomplete, std::to_string(missing) + " files never came");
  }
  transfer.told = true;
}

// Ends when the sender has closed the link, or with the first failure.
hawser::task<void> run_transfer(hawser::scope& scope, receiving& transfer) {
  scope.spawn(read_questions(scope, transfer));
  scope.spawn(read_control(transfer));
  scope.spawn(report_steadily(transfer));
  scope.spawn(write_tree(transfer));
  co_return;
}

struct verdict {
  ending how = ending::failed;
  bool tell = true;      // the sender may still be there
  bool keep = false;     // what is not whole stays for the next transfer
  bool stopped = false;  // by the end of this server
  std::string what;
};

bool is_link_trouble(const std::error_code& code) {
  return code == hawser::errc::link_lost || code == hawser::errc::closed ||
         code == hawser::errc::cancelled || code == hawser::errc::timed_out;
}

verdict judge(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const cancelled_by_sender& why) {
    const char* kept = "what is not whole stays with the receiver";
    const char* gone = "what was not whole is removed from the receiver";
    return {.how = ending::cancelled,
            .tell = true,
            .keep = why.keep_partial,
            .stopped = false,
            .what = why.keep_partial ? kept : gone};
  } catch (const std::system_error& why) {
    const bool lost = is_link_trouble(why.code());
    return {.how = ending::failed,
            .tell = !lost,
            .keep = lost,
            .stopped = why.code() == hawser::errc::cancelled,
            .what = why.what()};
  } catch (const std::exception& why) {
    return {
        .how = ending::failed, .tell = true, .keep = false, .stopped = false, .what = why.what()};
  }
}

hawser::task<void> wait_for_farewell(receiving& transfer) {
  for (;;) {
    const auto message = co_await transfer.link.rpc().recv();
    if (!message) co_return;
  }
}

hawser::task<void> settle(receiving& transfer, verdict after) {
  if (transfer.target && !after.keep) {
    co_await hawser::offload([&transfer] { transfer.target->discard(); });
  }
  if (!after.tell) co_return;
  // The sender may have gone: then there is nobody to tell.
  const auto told = co_await hawser::as_result(
      hawser::timeout(farewell_patience, send_end(transfer, after.how, after.what)));
  if (!told) co_return;
  const auto left =
      co_await hawser::as_result(hawser::timeout(farewell_patience, wait_for_farewell(transfer)));
  static_cast<void>(left);
}

std::string summary(const receiving& transfer) {
  const auto reached = transfer.target->reached();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - transfer.began;
  return std::to_string(reached.files) + " files, " +
         human_bytes(static_cast<double>(reached.arrived)) + " in " + human_time(took.count());
}

hawser::task<void> receive_tree(server& shared, hawser::link link) {
  const auto peer = printable(link.peer());
  receiving transfer(shared, std::move(link));
  co_await say("transfer from " + peer + " begins");

  std::exception_ptr error;
  try {
    co_await hawser::with_scope(run_transfer, std::ref(transfer));
  } catch (...) {
    error = std::current_exception();
  }
  if (!error || transfer.told) {
    ++shared.completed;
    co_await say("transfer from " + peer + " is complete: " + summary(transfer));
    const auto closed = co_await hawser::as_result(transfer.link.close());
    static_cast<void>(closed);
    if (shared.options.once) shared.request_stop();
    co_return;
  }
  const auto after = judge(error);
  if (after.stopped) {
    if (transfer.target && !transfer.finished) ++shared.interrupted;
    co_return;
  }
  co_await settle(transfer, after);
  co_await say("transfer from " + peer + " ended: " + after.what);
}

}  // namespace

hawser::task<void> serve_trees(hawser::scope& transfers, hawser::listener listener,
                               server& shared) {
  for (;;) {
    auto link = co_await listener.accept();
    transfers.serve(receive_tree(shared, std::move(link)));
  }
}

}  // namespace courier
