// SPDX-License-Identifier: Apache-2.0
#include "tidy/source.hpp"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>

namespace tidy {
namespace {

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// Where the prose ends that starts at some place, and how many characters at each end are quotes.
struct prose {
  std::size_t end;
  std::size_t quotes;
};

prose find_literal(std::string_view text, std::size_t begin) {
  const char quote = text[begin];
  auto at = begin + 1;
  while (at < text.size() && text[at] != quote && text[at] != '\n') at += text[at] == '\\' ? 2 : 1;
  return {std::min(at + 1, text.size()), 1};
}

prose find_raw_string(std::string_view text, std::size_t begin) {
  const auto open = std::min(text.find('(', begin), text.size());
  const auto delimiter = text.substr(begin + 1, open - begin - 1);
  const auto close = text.find(")" + std::string(delimiter) + "\"", open);
  if (close == std::string_view::npos) return {text.size(), 1};
  return {close + delimiter.size() + 2, 1};
}

prose find_prose(std::string_view text, std::size_t at) {
  const char before = at == 0 ? ' ' : text[at - 1];
  if (text.substr(at, 2) == "//") return {std::min(text.find('\n', at), text.size()), 0};
  if (text.substr(at, 2) == "/*")
    return {std::min(text.find("*/", at + 2), text.size() - 2) + 2, 0};
  if (text[at] == '"' && before == 'R') return find_raw_string(text, at);
  if (text[at] == '"') return find_literal(text, at);
  if (text[at] == '\'' && !is_word(before)) return find_literal(text, at);
  return {at, 0};
}

}  // namespace

source::source(std::string path_, std::string_view text_)
    : path(std::move(path_)), text(split_lines(text_)), code(split_lines(blank_prose(text_))) {}

std::string_view source::top() const {
  return std::string_view(path).substr(0, path.find('/'));
}

std::string_view source::layer() const {
  if (is_platform()) return "os";
  if (top() != "src") return {};
  const auto rest = std::string_view(path).substr(4);
  const auto slash = rest.find('/');
  return slash == std::string_view::npos ? std::string_view() : rest.substr(0, slash);
}

bool source::is_header() const {
  return path.ends_with(".hpp");
}

bool source::is_platform() const {
  return top() == "io_uring" || top() == "win" || top() == "mac";
}

bool source::is_library() const {
  return top() == "include" || top() == "src" || is_platform();
}

std::string blank_prose(std::string_view text) {
  std::string code(text);
  for (std::size_t at = 0; at < text.size();) {
    const auto found = find_prose(text, at);
    if (found.end == at) {
      ++at;
      continue;
    }
    for (auto i = at + found.quotes; i + found.quotes < found.end; ++i) {
      if (code[i] != '\n') code[i] = ' ';
    }
    at = found.end;
  }
  return code;
}

std::vector<source> load_tree(const std::filesystem::path& root) {
  namespace fs = std::filesystem;
  std::vector<source> found;
  for (const char* folder :
       {"include", "src", "io_uring", "win", "mac", "tests", "bench", "samples"}) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const auto extension = entry.path().extension();
      if (extension != ".hpp" && extension != ".cpp") continue;
      found.emplace_back(fs::relative(entry.path(), root).generic_string(),
                         read_file(entry.path()));
    }
  }
  std::sort(found.begin(), found.end(),
            [](const source& a, const source& b) { return a.path < b.path; });
  return found;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

}  // namespace tidy
