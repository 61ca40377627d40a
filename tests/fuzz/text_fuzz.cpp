// SPDX-License-Identifier: Apache-2.0
// Configurations and addresses as people write them: a value or an error of ours that says why;
// what was read can be written, and read again.
#include <cstdint>
#include <string>
#include <system_error>

#include "fuzz/input.hpp"
#include "hawser/errc.hpp"
#include "hawser/executor_config.hpp"
#include "hawser/link.hpp"
#include "link/uri.hpp"

namespace {

void read_config(std::string_view text) {
  hawser::executor_config config;
  try {
    config = hawser::executor_config::parse(text);
  } catch (const std::system_error& error) {
    fuzz::require(error.code() == hawser::errc::bad_config, "a bad configuration is called that");
    fuzz::require(std::string_view(error.what()).size() > 10, "and the error says why");
    return;
  }
  const std::string written = hawser::to_string(config);
  fuzz::require(hawser::to_string(hawser::executor_config::parse(written)) == written,
                "what was written reads the same");
}

void read_uri(std::string_view text) {
  hawser::link_options options;
  hawser::detail::endpoint endpoint;
  try {
    endpoint = hawser::detail::parse_uri(text, options);
  } catch (const std::system_error& error) {
    fuzz::require(error.code() == hawser::errc::bad_uri || error.code() == hawser::errc::bad_config,
                  "a bad address is called that");
    return;
  }
  hawser::detail::check(options);
  hawser::link_options again;
  const std::string written = hawser::detail::to_uri(endpoint);
  fuzz::require(hawser::detail::to_uri(hawser::detail::parse_uri(written, again)) == written,
                "an address that was written reads the same");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::input from(data, size);
  const bool is_uri = from.byte() % 2 == 0;
  const auto rest = from.rest();
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
  is_uri ? read_uri(text) : read_config(text);
  return 0;
}
