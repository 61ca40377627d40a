// SPDX-License-Identifier: Apache-2.0
#include "courier/send.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

#include "courier/calls.hpp"
#include "courier/display.hpp"
#include "courier/paths.hpp"
#include "courier/source.hpp"

namespace courier {
namespace {

using namespace std::chrono_literals;

constexpr auto ping_pace = 10ms;
constexpr auto cancel_patience = 5s;
constexpr std::size_t offer_bytes = 256 << 10;

// One transfer. Everything but the disk runs on the home worker of its link; what the disk shares
// with it (complaints, work_list) locks.
struct sending {
  sending(const send_options& how, const cancel_flag& stop_wish, hawser::link over,
          descriptor opened)
      : options(how),
        cancelled(stop_wish),
        link(std::move(over)),
        root(std::move(opened)),
        questions(link) {}

  const send_options& options;
  const cancel_flag& cancelled;
  hawser::link link;
  descriptor root;
  calls questions;
  complaints failed;
  complaints skipped;
  work_list work;
  std::deque<std::string> paths;  // by number, to name what the receiver complains about

  position now;
  std::array<std::uint64_t, 3> kinds{};  // files, folders, symbolic links
  std::uint64_t complete_files = 0;      // that the receiver had already
  std::uint64_t complete_bytes = 0;
  std::uint64_t partial_bytes = 0;
  std::optional<end> outcome;
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point ended;
};

hawser::task<void> wait_for(const cancel_flag& cancelled) {
  while (!cancelled.load()) co_await hawser::this_task::sleep_for(ping_pace);
}

hawser::task<hawser::link> connect_unless(const cancel_flag& cancelled, const std::string& uri) {
  auto race = co_await hawser::when_any(hawser::connect(uri), wait_for(cancelled));
  auto& connected = std::get<0>(race.values);
  if (!connected) throw std::runtime_error("cancelled before " + uri + " was reached");
  co_return std::move(*connected);
}

// ---- before contents ------------------------------------------------------------------------

std::uint64_t name_of_tree(const std::string& folder) {
  std::array<char, 256> host{};
  static_cast<void>(::gethostname(host.data(), host.size() - 1));
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(folder.c_str(), nullptr),
                                                    &std::free);
  return hash_of(std::string(host.data()) + ':' + (real ? real.get() : folder.c_str())).low;
}

hello make_hello(const sending& transfer) {
  struct ::stat found {};
  if (::fstat(transfer.root.get(), &found) != 0) throw_errno(transfer.options.folder);
  hello opening;
  opening.tree = name_of_tree(transfer.options.folder);
  opening.mode = found.st_mode & 07777U;
  opening.modified = {found.st_mtim.tv_sec, static_cast<std::uint32_t>(found.st_mtim.tv_nsec)};
  return opening;
}

void note_answer(sending& transfer, std::uint64_t number, const entry& one,
                 const offer_answer& answer) {
  ++transfer.kinds[static_cast<std::size_t>(one.type)];
  if (answer.state == standing::refused) {
    transfer.failed.add("refused by the receiver: " + printable(answer.why));
    return;
  }
  if (one.type != kind::file) return;
  ++transfer.now.files_total;
  transfer.now.bytes_total += one.size;
  if (answer.state == standing::complete) {
    // An empty file is created while it is listed; whether it was there before is not told.
    ++transfer.complete_files;
    transfer.complete_bytes += one.size;
    return;
  }
  const auto arrived = answer.state == standing::partial ? std::min(answer.bytes, one.size) : 0;
  transfer.partial_bytes += arrived;
  transfer.work.add({number, one.path, one.size, one.modified, arrived});
}

hawser::task<void> list_tree(sending& transfer) {
  tree_walk walk(transfer.root.get(), transfer.failed, transfer.skipped);
  std::uint64_t count = 0;
  transfer.now.listing = true;
  for (;;) {
    offer part;
    part.first = count;
    part.entries = co_await hawser::offload([&walk] { return walk.next(offer_bytes); });
    if (part.entries.empty()) break;
    const auto message = co_await transfer.questions.ask(encode(part));
    const auto answers = decode_offer_answer(message.bytes());
    if (answers.size() != part.entries.size()) throw bad_message("an answer of another length");
    for (std::size_t i = 0; i < answers.size(); ++i) {
      note_answer(transfer, count + i, part.entries[i], answers[i]);
      transfer.paths.push_back(std::move(part.entries[i].path));
    }
    count += answers.size();
  }
  const auto agreed = co_await transfer.questions.ask(encode_listed(count));
  static_cast<void>(agreed);
  transfer.now.listing = false;
}

// ---- contents -------------------------------------------------------------------------------

// Both sides hash what the receiver has of a file, at the same time.
hawser::task<void> compare_prefix(sending& transfer, contents_reader& reader) {
  auto theirs = transfer.questions.ask(encode_prefix(reader.current().number));
  auto ours = hawser::offload([&reader] { return reader.hash_prefix(); });
  auto both = co_await hawser::when_all(std::move(theirs), std::move(ours));
  const auto answer = decode_prefix_answer(std::get<0>(both).bytes());
  if (answer.bytes == reader.current().arrived && answer.hash == std::get<1>(both)) {
    reader.resume();
  } else {
    reader.restart();
  }
}

// Reads files into messages and sends them. While the link carries one message, the disk fills the
// next: send() completes as soon as the channel has room for it.
hawser::task<void> run_lane(sending& transfer, unsigned number) {
  using outcome = contents_reader::outcome;
  contents_reader reader(transfer.root.get(), transfer.work, transfer.failed);
  for (auto how = outcome::filled; how != outcome::finished;) {
    hawser::buffer room = co_await transfer.link.bulk().loan(bulk_message_bytes);
    std::size_t used = 0;
    how = co_await hawser::offload([&] { return reader.fill(room.bytes(), used); });
    room.truncate(used);
    if (used > 0) {
      hawser::message message(std::move(room), {.id = number});
      co_await transfer.link.bulk().send(std::move(message));
    }
    if (how == outcome::prefix_due) co_await compare_prefix(transfer, reader);
  }
}

hawser::task<void> deliver(sending& transfer) {
  const auto opening = make_hello(transfer);
  const auto agreed = co_await transfer.questions.ask(encode(opening));
  static_cast<void>(agreed);
  co_await list_tree(transfer);
  std::vector<hawser::task<void>> lanes;
  for (unsigned i = 0; i < transfer.options.lanes; ++i) lanes.push_back(run_lane(transfer, i));
  co_await hawser::when_all(std::move(lanes));
  co_await transfer.link.bulk().finish();
}

// ---- beside contents ------------------------------------------------------------------------

hawser::task<void> ping_steadily(sending& transfer) {
  for (;;) {
    co_await transfer.questions.ping();
    co_await hawser::this_task::sleep_for(ping_pace);
  }
}

hawser::task<void> watch_for_cancel(sending& transfer) {
  co_await wait_for(transfer.cancelled);
  co_await transfer.link.control().send(encode_cancel(transfer.options.keep_partial));
  // The receiver's last report ends the transfer, and with it this task.
  co_await hawser::this_task::sleep_for(cancel_patience);
  hawser::failure(hawser::errc::timed_out, "the receiver does not answer the cancellation").raise();
}

hawser::task<void> show_progress(sending& transfer, display& screen) {
  for (;;) {
    const auto now = transfer.now;
    co_await hawser::offload([&] { screen.update(now); });
    co_await hawser::this_task::sleep_for(screen.pace());
  }
}

void take_report(sending& transfer, std::span<const std::byte> report) {
  const auto advance = [&](const progress& reached) {
    transfer.now.files = transfer.complete_files + reached.files;
    transfer.now.bytes = transfer.complete_bytes + transfer.partial_bytes + reached.bytes;
  };
  switch (tag_of(report)) {
    case tag::progress:
      advance(decode_progress(report));
      break;
    case tag::trouble: {
      const auto one = decode_trouble(report);
      transfer.failed.add("not written by the receiver: " + printable(one.what));
      transfer.work.drop(one.number);
      break;
    }
    case tag::end:
      transfer.outcome = decode_end(report);
      advance(transfer.outcome->reached);
      break;
    default:
      throw bad_message("not a report");
  }
}

hawser::task<void> read_reports(sending& transfer) {
  while (!transfer.outcome) {
    const auto report = co_await transfer.link.stream().recv();
    if (!report) hawser::failure(hawser::errc::closed, "the receiver left").raise();
    take_report(transfer, report->to_owned().bytes());
  }
}

// The receiver has the last word; what still runs then only accompanied the transfer, or is in
// vain.
hawser::task<void> await_outcome(hawser::scope& scope, sending& transfer) {
  co_await read_reports(transfer);
  transfer.ended = std::chrono::steady_clock::now();
  const auto how = transfer.outcome->how;
  if (how == ending::complete || how == ending::incomplete) co_await transfer.link.close();
  scope.request_stop();
}

hawser::task<void> run_transfer(hawser::scope& scope, sending& transfer, display& screen) {
  scope.spawn(transfer.questions.read());
  scope.spawn(ping_steadily(transfer));
  scope.spawn(watch_for_cancel(transfer));
  if (!transfer.options.quiet) scope.spawn(show_progress(transfer, screen));
  scope.spawn(deliver(transfer));
  scope.spawn(await_outcome(scope, transfer));
  co_return;
}

// When the receiver gives up, its last report and the end of the link may be noticed in any order.
hawser::task<void> look_for_last_report(sending& transfer) {
  while (!transfer.outcome) {
    auto report = co_await hawser::as_result(hawser::timeout(1s, transfer.link.stream().recv()));
    if (!report || !*report) co_return;
    take_report(transfer, (*report)->to_owned().bytes());
  }
  transfer.ended = std::chrono::steady_clock::now();
}

// ---- the end --------------------------------------------------------------------------------

void print_figures(const sending& transfer, double seconds) {
  const auto& pings = transfer.questions.pings();
  const auto arrived = transfer.complete_bytes + transfer.partial_bytes;
  const auto u = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  const auto sent = transfer.outcome ? transfer.outcome->reached.arrived : 0;
  const auto resent = transfer.outcome ? transfer.outcome->resent : 0;
  if (arrived > 0) {
    std::printf("resent %llu bytes of %llu that had arrived before\n", u(resent), u(arrived));
  }
  std::printf("pings during the transfer: %llu, p50 %.2f ms, p99 %.2f ms\n", u(pings.count()),
              pings.percentile(0.50), pings.percentile(0.99));
  if (!transfer.options.json) return;
  std::printf(
      "{\"files\":%llu,\"folders\":%llu,\"symlinks\":%llu,\"bytes\":%llu,\"bytes_sent\":%llu,"
      "\"bytes_arrived_before\":%llu,\"bytes_resent\":%llu,\"failed\":%llu,\"skipped\":%llu,"
      "\"seconds\":%.3f,\"pings\":%llu,\"ping_p50_ms\":%.3f,\"ping_p99_ms\":%.3f}\n",
      u(transfer.kinds[0]), u(transfer.kinds[1]), u(transfer.kinds[2]), u(transfer.now.bytes_total),
      u(sent), u(arrived), u(resent), u(transfer.failed.count()), u(transfer.skipped.count()),
      seconds, u(pings.count()), pings.percentile(0.50), pings.percentile(0.99));
}

void print_lines(std::FILE* to, const complaints& all) {
  const auto lines = all.lines();
  for (const auto& line : lines) std::fprintf(to, "courier: %s\n", line.c_str());
  if (all.count() > lines.size()) {
    std::fprintf(to, "courier: and %zu more\n", all.count() - lines.size());
  }
}

int report_outcome(const sending& transfer) {
  const std::chrono::duration<double> took = transfer.ended - transfer.began;
  const auto& outcome = *transfer.outcome;
  print_lines(stderr, transfer.skipped);
  print_lines(stderr, transfer.failed);
  if (outcome.how == ending::failed) {
    std::fprintf(stderr, "courier: the receiver gave up: %s\n", printable(outcome.what).c_str());
    return 1;
  }
  if (outcome.how == ending::cancelled) {
    std::fprintf(stderr, "courier: cancelled; %s\n", printable(outcome.what).c_str());
    return 1;
  }
  if (outcome.how == ending::incomplete) {
    std::fprintf(stderr, "courier: incomplete: %s\n", printable(outcome.what).c_str());
  }
  const auto failures = transfer.failed.count();
  std::printf("%s %llu files, %llu folders, %llu symbolic links: %s in %.2f s, %s/s, %s\n",
              failures == 0 ? "sent" : "sent, but for failures,",
              static_cast<unsigned long long>(transfer.kinds[0]),
              static_cast<unsigned long long>(transfer.kinds[1]),
              static_cast<unsigned long long>(transfer.kinds[2]),
              human_bytes(static_cast<double>(transfer.now.bytes_total)).c_str(), took.count(),
              human_bytes(static_cast<double>(outcome.reached.arrived) / took.count()).c_str(),
              failures == 0 ? "all verified" : "the rest verified");
  print_figures(transfer, took.count());
  if (failures > 0) std::fprintf(stderr, "courier: %zu entries were not copied\n", failures);
  return failures == 0 && outcome.how == ending::complete ? 0 : 1;
}

[[noreturn]] void rethrow_with_hint(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& why) {
    if (why.code() != hawser::errc::link_lost && why.code() != hawser::errc::closed) throw;
    throw std::runtime_error(std::string(why.what()) + "; the same command goes on from here");
  }
}

}  // namespace

hawser::task<int> send_tree(send_options options, const cancel_flag& cancelled) {
  auto root = co_await hawser::offload([&options] { return open_folder(options.folder); });
  auto link = co_await connect_unless(cancelled, options.uri);
  sending transfer(options, cancelled, std::move(link), std::move(root));

  display screen;
  std::exception_ptr error;
  try {
    co_await hawser::with_scope(run_transfer, std::ref(transfer), std::ref(screen));
  } catch (...) {
    error = std::current_exception();
  }
  // Once the outcome is known, whatever else went wrong followed from it.
  if (!transfer.outcome) co_await look_for_last_report(transfer);
  const int code = co_await hawser::offload([&] {
    if (!options.quiet) screen.end(transfer.now);
    return transfer.outcome ? report_outcome(transfer) : 0;
  });
  if (!transfer.outcome) rethrow_with_hint(error);
  co_return code;
}

}  // namespace courier
