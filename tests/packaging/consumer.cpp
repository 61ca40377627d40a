// SPDX-License-Identifier: Apache-2.0
#include <hawser/hawser.hpp>

hawser::task<int> answer() { co_return 42; }

int main() {
  hawser::runtime runtime({.threads = 1});
  return hawser::run(runtime, answer) == 42 ? 0 : 1;
}
