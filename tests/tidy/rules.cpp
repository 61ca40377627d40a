// SPDX-License-Identifier: Apache-2.0
#include "tidy/rules.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <regex>
#include <string_view>

namespace tidy {
namespace {

using lines = std::vector<int>;
using scope = bool (*)(const source&);

bool everywhere(const source& /*file*/) {
  return true;
}
bool in_library(const source& file) {
  return file.is_library();
}
bool in_public_headers(const source& file) {
  return file.top() == "include";
}
bool in_tests(const source& file) {
  return file.top() == "tests";
}
bool outside_platforms(const source& file) {
  return !file.is_platform();
}

// Lines of `view` that match. The hint, a piece of every match, spares most lines the regex.
std::function<lines(const source&)> matching(scope where, std::vector<std::string> source::*view,
                                             std::string hint, const std::string& pattern) {
  return [where, view, hint = std::move(hint), regex = std::regex(pattern)](const source& file) {
    lines found;
    if (!where(file)) return found;
    int number = 0;
    for (const auto& line : file.*view) {
      ++number;
      if (line.find(hint) != std::string::npos && std::regex_search(line, regex)) {
        found.push_back(number);
      }
    }
    return found;
  };
}

// The whole code as one text, and the line of a place in it.
std::string joined(const source& file) {
  std::string all;
  for (const auto& line : file.code) all += line + '\n';
  return all;
}

int line_of(const std::string& text, std::size_t at) {
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<long>(at), '\n'));
}

// The place of the parenthesis that closes the one at `open`.
std::size_t closing(const std::string& text, std::size_t open) {
  int depth = 0;
  for (auto at = open; at < text.size(); ++at) {
    if (text[at] == '(') ++depth;
    if (text[at] == ')' && --depth == 0) return at;
  }
  return text.size();
}

// g++ 12 passes a wrong handle, or destroys members twice, when co_await is an operand inside a
// larger expression. So it may only begin a statement, follow `=` or follow co_return; inside the
// parentheses of if, while and switch this leaves `type name = co_await ...`.
lines co_await_in_expression(const source& file) {
  static const std::regex await(R"(\bco_await\b)");
  static const std::regex named(R"(\boperator\s*$)");
  static const std::regex begins(
      R"((^|[;}:)]|(^|\s)\{|[^-=!<>+*/%&|^]=|\b(co_return|else|do)|static_cast<void>\()\s*$)");
  static const std::regex conditional(R"(\?[^;{}]*:\s*$)");
  lines found;
  const auto text = joined(file);
  for (std::sregex_iterator it(text.begin(), text.end(), await), end; it != end; ++it) {
    const auto at = static_cast<std::size_t>(it->position());
    const auto from = at < 200 ? 0 : at - 200;
    const auto before = text.substr(from, at - from);
    if (std::regex_search(before, named)) continue;
    if (!std::regex_search(before, begins) || std::regex_search(before, conditional)) {
      found.push_back(line_of(text, at));
    }
  }
  return found;
}

lines atomics_without_order(const source& file) {
  lines found;
  if (!file.is_library()) return found;
  static const std::regex access(
      R"((\.|->)(load|store|exchange|fetch_\w+|compare_exchange_\w+)\()");
  const auto text = joined(file);
  for (std::sregex_iterator it(text.begin(), text.end(), access), end; it != end; ++it) {
    const auto open = static_cast<std::size_t>(it->position() + it->length()) - 1;
    const auto arguments = text.substr(open, closing(text, open) - open);
    if (arguments.find("order") == std::string::npos) found.push_back(line_of(text, open));
  }
  return found;
}

constexpr std::array<std::string_view, 12> layers = {
    "core", "task", "os", "exec", "shm", "codec", "wire", "link", "rpc", "feed", "bulk", "gateway"};

std::size_t rank(std::string_view layer) {
  return static_cast<std::size_t>(std::find(layers.begin(), layers.end(), layer) - layers.begin());
}

// The public headers lie flat, so their layers are told here.
std::string_view layer_of_public(std::string_view header) {
  static const std::map<std::string_view, std::string_view> table = {
      {"as_result.hpp", "task"},  {"asio.hpp", "gateway"},   {"async_generator.hpp", "task"},
      {"awaitable.hpp", "task"},  {"buffer.hpp", "core"},    {"errc.hpp", "core"},
      {"driven_runtime.hpp", "exec"},
      {"executor.hpp", "core"},   {"executor_config.hpp", "exec"},
      {"group.hpp", "task"},      {"hawser.hpp", "gateway"}, {"parallel.hpp", "task"},
      {"posted.hpp", "exec"},
      {"stats.hpp", "exec"},
      {"hop.hpp", "task"},        {"link.hpp", "link"},      {"log.hpp", "core"},
      {"message.hpp", "core"},    {"offload.hpp", "task"},   {"operation.hpp", "core"},
      {"result.hpp", "core"},     {"run.hpp", "exec"},       {"runtime.hpp", "exec"},
      {"shm_bridge.hpp", "shm"},  {"shm_stream.hpp", "shm"}, {"shm_workers.hpp", "shm"},
      {"scope.hpp", "task"},      {"stop_token.hpp", "core"}, {"task.hpp", "task"},
      {"this_task.hpp", "task"},  {"timeout.hpp", "task"},   {"when.hpp", "task"},
  };
  const auto found = table.find(header);
  return found == table.end() ? std::string_view() : found->second;
}

std::string_view layer_of(const source& file) {
  constexpr std::string_view folder = "include/hawser/";
  if (!file.path.starts_with(folder)) return file.layer();
  return layer_of_public(std::string_view(file.path).substr(folder.size()));
}

std::string_view layer_of_include(std::string_view folder, std::string_view rest) {
  return folder == "hawser" ? layer_of_public(rest) : folder;
}

// The sans-I/O layers may use fewer than come before them.
bool may_include(std::string_view from, std::string_view to) {
  if (from == "codec") return to == "core" || to == "codec";
  if (from == "wire") return to == "core" || to == "codec" || to == "wire";
  return rank(to) <= rank(from);
}

lines includes_of_later_layers(const source& file) {
  static const std::regex include(R"re(^\s*#\s*include\s*["<](\w+)/([^">]+)[">])re");
  lines found;
  const auto from = layer_of(file);
  if (rank(from) == layers.size()) return found;
  for (std::size_t i = 0; i < file.text.size(); ++i) {
    std::smatch match;
    if (!std::regex_search(file.text[i], match, include)) continue;
    const auto folder = match[1].str();
    const auto rest = match[2].str();
    const auto to = layer_of_include(folder, rest);
    if (rank(to) < layers.size() && !may_include(from, to)) {
      found.push_back(static_cast<int>(i) + 1);
    }
  }
  return found;
}

lines unknown_layers(const source& file) {
  const bool layered = file.top() == "src" || file.top() == "include";
  const bool known = !layered || rank(layer_of(file)) < layers.size();
  return known ? lines{} : lines{1};
}

lines too_long(const source& file) {
  lines found;
  for (std::size_t i = 0; i < file.text.size(); ++i) {
    // Columns, not bytes: the second and later bytes of a UTF-8 character are 10xxxxxx.
    const auto columns = std::count_if(file.text[i].begin(), file.text[i].end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    });
    if (columns > 100) found.push_back(static_cast<int>(i) + 1);
  }
  return found;
}

lines missing_licence(const source& file) {
  const bool there =
      !file.text.empty() && file.text.front() == "// SPDX-License-Identifier: Apache-2.0";
  return there ? lines{} : lines{1};
}

lines missing_pragma_once(const source& file) {
  if (!file.is_header()) return {};
  const bool there =
      std::find(file.code.begin(), file.code.end(), "#pragma once") != file.code.end();
  return there ? lines{} : lines{1};
}

std::vector<rule> make_rules() {
  const auto text = &source::text;
  const auto code = &source::code;
  std::vector<rule> all;

  all.push_back(
      {"operating systems are named only in io_uring/, win/ and mac/",
       matching(outside_platforms, code, "#",
                R"(^\s*#.*\b(_WIN32|_WIN64|WIN32|__MINGW32__|_MSC_VER|__linux__|linux|__APPLE__|)"
                R"(__MACH__|__unix__|__FreeBSD__)\b)"),
       {{"src/core/a.cpp", "#if defined(_WIN32)"}, {"tests/a.cpp", "#ifdef __linux__"}},
       {{"io_uring/a.cpp", "#ifdef __linux__"}, {"src/core/a.cpp", "// not __linux__"}}});

  all.push_back(
      {"co_await stands alone or initialises a named variable (g++ 12 miscompiles others)",
       co_await_in_expression,
       {{"src/a.cpp", "if (co_await ready()) return;"},
        {"src/a.cpp", "while (more &&\n       co_await ready()) {}"},
        {"src/a.cpp", "switch (co_await next()) {}"},
        {"src/a.cpp", "if (co_await next() == 3) {}"},
        {"src/a.cpp", "bool b = a && co_await ready();"},
        {"src/a.cpp", "auto x = a ? 1 : co_await next();"},
        {"src/a.cpp", "if (a == co_await next()) {}"},
        {"src/a.cpp", "if ((x, co_await next())) {}"},
        {"src/a.cpp", "std::vector<int> v{co_await next()};"},
        {"tests/a.cpp", "CHECK(co_await next() == 3);"}},
       {{"src/a.cpp", "co_await done();"},
        {"src/a.cpp", "if (a) co_await done();"},
        {"src/a.cpp", "while (auto m = co_await c.recv()) {}"},
        {"src/a.cpp", "if (int v = co_await next(); v == 3) {}"},
        {"src/a.cpp", "case 3: co_await done();"},
        {"src/a.cpp", "try { co_await done(); } catch (...) {}"},
        {"src/a.cpp", "auto operator co_await() && noexcept;"},
        {"src/a.cpp", "// if (co_await ready())"},
        {"src/a.cpp", "co_return co_await next();"}}});

  all.push_back({"no structured binding directly from co_await",
                 matching(everywhere, code, "co_await", R"(\]\s*=\s*co_await\b)"),
                 {{"src/a.cpp", "const auto [a, b] = co_await both();"}},
                 {{"src/a.cpp", "const auto pair = co_await both();"}}});

  all.push_back({"lines are at most 100 columns",
                 too_long,
                 {{"src/a.cpp", std::string(101, 'x')}},
                 {{"src/a.cpp", std::string(100, 'x')}}});

  all.push_back({"no tabs, no spaces at the end of a line, no carriage returns",
                 matching(everywhere, text, "", R"(\t|\s$)"),
                 {{"src/a.cpp", "int x; "}, {"src/a.cpp", "\tint x;"}, {"src/a.cpp", "int x;\r"}},
                 {{"src/a.cpp", "  int x;"}}});

  all.push_back(
      {"tests do not sleep to create an order; where sleeping is the point, say "
       "'// sleeps: why' on the line",
       matching(in_tests, text, "sleep",
                R"(^(?!.*// sleeps: ).*(this_thread::sleep_|\bu?(nano)?sleep\(\d))"),
       {{"tests/a.cpp",
         "  std::this_thread::"
         "sleep_for(1ms);"},
        {"tests/a.cpp",
         "  us"
         "leep(10);"}},
       {{"tests/a.cpp", "  std::this_thread::sleep_for(1ms);  // sleeps: a slow callback"},
        {"bench/a.cpp",
         "  us"
         "leep(10);"}}});

  all.push_back({"the library never prints",
                 matching(
                     [](const source& file) {
                       return file.is_library() && file.path != "src/core/assert.cpp";
                     },
                     text, "",
                     R"(^\s*#\s*include <(iostream|print)>|^[^"/]*\b(std::c(out|err|log)\b|)"
                     R"((v?f?printf|f?puts|putchar|perror|fwrite)\s*\())"),
                 {{"src/core/a.cpp", "#include <iostream>"},
                  {"include/hawser/a.hpp", "  std::cerr << 1;"},
                  {"io_uring/a.cpp", "  printf(format);"}},
                 {{"src/core/a.cpp", "  std::snprintf(text, size, format);"},
                  {"tests/a.cpp", "#include <iostream>"}}});

  all.push_back({"time is steady_clock's, and comes through the runtime",
                 matching(in_library, code, "",
                          R"(\b(system_clock|high_resolution_clock|gettimeofday|CLOCK_REALTIME)\b|)"
                          R"(\btime\((nullptr|NULL|0)\))"),
                 {{"src/exec/a.cpp", "std::chrono::system_clock::now();"}},
                 {{"src/exec/a.cpp", "std::chrono::steady_clock::now();"}}});

  all.push_back({"a layer includes only itself and those before it; codec and wire are sans-I/O",
                 includes_of_later_layers,
                 {{"src/core/a.cpp", "#include \"wire/frame.hpp\""},
                  {"src/wire/a.cpp", "#include \"os/platform.hpp\""},
                  {"src/codec/a.cpp", "#include \"exec/worker.hpp\""},
                  {"src/wire/a.cpp", "#include \"hawser/task.hpp\""},
                  {"include/hawser/task.hpp", "#include \"hawser/link.hpp\""},
                  {"io_uring/a.cpp", "#include \"exec/worker.hpp\""}},
                 {{"src/link/a.cpp", "#include \"wire/frame.hpp\""},
                  {"src/wire/a.cpp", "#include \"codec/raw.hpp\""},
                  {"tests/a.cpp", "#include \"wire/frame.hpp\""}}});

  all.push_back(
      {"src/ has a folder for each layer and nothing else; a public header has a layer in "
       "layer_of_public()",
       unknown_layers,
       {{"src/misc/a.cpp", ""}, {"src/a.cpp", ""}, {"include/hawser/nowhere.hpp", ""}},
       {{"src/core/a.cpp", ""}, {"tests/a.cpp", ""}}});

  all.push_back({"of the library, only src/os/asio/, asio_poll.cpp and hawser/asio.hpp have Asio",
                 matching(
                     [](const source& file) {
                       return file.is_library() && !file.path.starts_with("src/os/asio/") &&
                              !file.path.ends_with("/asio_poll.cpp") &&
                              file.path != "include/hawser/asio.hpp";
                     },
                     text, "asio", R"(^\s*#\s*include\s*[<"](boost/)?asio(\.hpp|/))"),
                 {{"src/exec/a.cpp", "#include <asio.hpp>"},
                  {"src/link/a.cpp", "#include <asio/ip/tcp.hpp>"}},
                 {{"src/os/asio/a.cpp", "#include <asio.hpp>"},
                  {"io_uring/asio_poll.cpp", "#include <asio.hpp>"},
                  {"tests/asio_test.cpp", "#include <asio.hpp>"}}});

  all.push_back(
      {"of the library, only io_uring/ includes liburing and the kernel's own headers",
       matching(
           [](const source& file) { return file.top() != "io_uring" && file.top() != "bench"; },
           text, "#", R"(^\s*#\s*include\s*[<"](liburing|linux/))"),
       {{"src/os/a.cpp", "#include <liburing.h>"}, {"tests/a.cpp", "#include <linux/futex.h>"}},
       {{"io_uring/a.cpp", "#include <liburing.h>"}}});

  all.push_back(
      {"io_uring/ calls the system through calls.hpp, so that tests can let every call fail",
       matching(
           [](const source& file) {
             return file.top() == "io_uring" && file.path != "io_uring/calls.hpp";
           },
           code, "",
           R"((^|[^\w>:])::(?!(dladdr|gai_strerror|geteuid|getnameinfo|pthread_\w+|strnlen)\())"
           R"([a-z]\w*\(|\bio_uring_(prep|submit|register|queue_init|get_probe)\w*\()"),
       {{"io_uring/a.cpp", "const int got = ::recv(socket, into, bytes, 0);"},
        {"io_uring/a.cpp", "io_uring_prep_recv(&entry, socket, into, bytes, 0);"}},
       {{"io_uring/calls.hpp", "return ::recv(socket, into, bytes, 0);"},
        {"io_uring/a.cpp", "calls::recv(socket, into, bytes, 0);"},
        {"io_uring/a.cpp", "return ::geteuid();"},
        {"src/a.cpp", "::recv(socket, into, bytes, 0);"}}});

  all.push_back({"a public header includes only std and other public headers",
                 matching(
                     [](const source& file) {
                       return file.top() == "include" && file.path != "include/hawser/asio.hpp";
                     },
                     text, "#", R"re(^\s*#\s*include\s*("(?!hawser/)|<(?!hawser/)[^>]*[./]))re"),
                 {{"include/hawser/a.hpp", "#include \"core/x.hpp\""},
                  {"include/hawser/a.hpp", "#include <sys/socket.h>"}},
                 {{"include/hawser/a.hpp", "#include \"hawser/errc.hpp\""},
                  {"include/hawser/a.hpp", "#include <vector>"}}});

  all.push_back({"public headers use no part of std that a supported compiler lacks",
                 matching(in_public_headers, code, "",
                          R"(std::(stop_token|stop_source|stop_callback|jthread|expected|print)\b|)"
                          R"(<(stop_token|expected|print|generator)>|hardware_(des|cons)tructive)"),
                 {{"include/hawser/a.hpp", "void stop(std::stop_token token);"},
                  {"include/hawser/a.hpp", "#include <expected>"}},
                 {{"include/hawser/a.hpp", "void stop(hawser::stop_token token);"}}});

  all.push_back({"every access of an atomic names its memory order",
                 atomics_without_order,
                 {{"src/exec/a.cpp", "if (state.load() == 0) {}"},
                  {"src/exec/a.cpp", "state.store(\n  f(x));"}},
                 {{"src/exec/a.cpp", "state.store(f(x), std::memory_order_relaxed);"},
                  {"tests/a.cpp", "state.store(1);"}}});

  all.push_back({"FUTEX_*_PRIVATE cannot wake another process",
                 matching(everywhere, code, "FUTEX_", R"(FUTEX_(WAIT|WAKE)\w*_PRIVATE\b)"),
                 {{"io_uring/a.cpp", "futex(&word, FUTEX_WAIT_PRIVATE, 1);"}},
                 {{"io_uring/a.cpp", "futex(&word, FUTEX_WAIT, 1);"}}});

  all.push_back({"HAWSER_ASSERT is the only macro of the library",
                 matching(in_library, code, "#", R"(^\s*#\s*define\s+(?!HAWSER_ASSERT))"),
                 {{"include/hawser/a.hpp", "#define HAWSER_TRY(x) x"}},
                 {{"include/hawser/a.hpp", "#define HAWSER_ASSERT(x) x"}}});

  all.push_back({"no using-directive in a header",
                 matching([](const source& file) { return file.is_header(); }, code, "using",
                          R"(\busing\s+namespace\b)"),
                 {{"include/hawser/a.hpp", "using namespace std::chrono_literals;"}},
                 {{"src/core/a.cpp", "using namespace std::chrono_literals;"}}});

  all.push_back({"nobody writes 'using namespace hawser': link also belongs to POSIX",
                 matching(everywhere, code, "using", R"(\busing\s+namespace\s+hawser\s*;)"),
                 {{"samples/a.cpp", "using namespace hawser;"}},
                 {{"samples/a.cpp", "using hawser::task;"}}});

  all.push_back({"awaitables are the default: the blocking form says sync_, none says _async",
                 matching(in_public_headers, code, "_async", R"(\w_async\b)"),
                 {{"include/hawser/a.hpp", "task<void> send_async(message);"}},
                 {{"include/hawser/asio.hpp", "auto async_send(message);"}}});

  all.push_back(
      {"a to-do names its issue: TO"
       "DO(#12)",
       matching(everywhere, text,
                "TO"
                "DO",
                R"(\bTODO(?!\(#\d+\)))"),
       {{"src/core/a.cpp",
         "// TO"
         "DO: later"}},
       {{"src/core/a.cpp",
         "// TO"
         "DO(#12): later"}}});

  all.push_back({"the first line is the licence",
                 missing_licence,
                 {{"src/core/a.cpp", "int x;"}, {"src/core/a.cpp", ""}},
                 {{"src/core/a.cpp", "// SPDX-License-Identifier: Apache-2.0\nint x;"}}});

  all.push_back({"a header says #pragma once",
                 missing_pragma_once,
                 {{"src/core/a.hpp", "int x;"}},
                 {{"src/core/a.hpp", "// licence\n#pragma once\n"}, {"src/core/a.cpp", "int x;"}}});

  return all;
}

}  // namespace

const std::vector<rule>& rules() {
  static const auto all = make_rules();
  return all;
}

}  // namespace tidy
