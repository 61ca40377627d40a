// SPDX-License-Identifier: Apache-2.0
// Two programs whose threads block share memory, without coroutines and without a runtime:
//
//   shm_threads serve NAME     sums up what it is sent, and answers each batch
//   shm_threads ask NAME       sends a million numbers, says how fast, and checks the sum
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <hawser/shm_stream.hpp>

namespace {

constexpr std::uint64_t count = 1'000'000;

std::uint64_t number_in(std::span<const std::byte> record) {
  std::uint64_t number = 0;
  std::memcpy(&number, record.data(), std::min(record.size(), sizeof number));
  return number;
}

void serve(const std::string& name) {
  auto client = hawser::shm_stream::create(name);
  std::cout << "serving " << name << std::endl;
  hawser::shm_batch batch;
  std::uint64_t sum = 0;
  // The end of what the client writes is no error: the batch is empty then.
  while (client.read_batch(batch).value().has_value()) {
    for (std::size_t i = 0; i < batch.size(); ++i) sum += number_in(batch[i]);
    client.write(std::as_bytes(std::span(&sum, 1))).value();
  }
  const auto stats = client.stats();
  std::cout << stats.reads << " records read, " << stats.sleeps << " sleeps, " << stats.wakeups_sent
            << " wake-ups sent" << std::endl;
}

void send_numbers(hawser::shm_stream& server) {
  std::array<std::uint64_t, 32> numbers{};
  std::vector<std::span<const std::byte>> records;
  for (const auto& each : numbers) records.push_back(std::as_bytes(std::span(&each, 1)));
  for (std::uint64_t i = 0; i < count; i += numbers.size()) {
    for (std::size_t at = 0; at < numbers.size(); ++at) numbers[at] = i + at;
    static_cast<void>(server.write_batch(records).value());  // without a timeout it writes all
  }
  server.close_writing();
}

bool ask(const std::string& name) {
  auto server = hawser::shm_stream::open(name);
  const auto begin = std::chrono::steady_clock::now();
  std::thread writer([&] { send_numbers(server); });
  std::uint64_t sum = 0;
  while (server.read(std::as_writable_bytes(std::span(&sum, 1))).value().has_value()) continue;
  writer.join();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::cout << static_cast<std::uint64_t>(count / taken.count()) << " records a second\n";
  return sum == count * (count - 1) / 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv, argv + argc);
  if (words.size() != 3 || (words[1] != "serve" && words[1] != "ask")) {
    std::cerr << "usage: shm_threads serve|ask NAME\n";
    return 2;
  }
  try {
    if (words[1] == "ask") return ask(words[2]) ? 0 : 1;
    serve(words[2]);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "shm_threads: " << error.what() << '\n';
    return 1;
  }
}
