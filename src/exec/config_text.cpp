// SPDX-License-Identifier: Apache-2.0
// The text form of a configuration: one table of fields, and what reads and writes by it.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>

#include "exec/config.hpp"
#include "hawser/errc.hpp"

namespace hawser {
namespace {

using detail::config_field;
using namespace std::chrono_literals;

std::optional<std::uint64_t> read_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// A number that is too large for the field stays too large for its range.
std::optional<unsigned> read_unsigned(std::string_view text) {
  const auto value = read_number(text);
  if (!value) return std::nullopt;
  return static_cast<unsigned>(
      std::min<std::uint64_t>(*value, std::numeric_limits<unsigned>::max()));
}

// What is before the first of `separators`, which goes too; the rest stays.
std::string_view take(std::string_view& text, std::string_view separators) {
  const auto part = text.substr(0, text.find_first_of(separators));
  text.remove_prefix(std::min(text.size(), part.size() + 1));
  return part;
}

std::optional<std::vector<unsigned>> read_list(std::string_view text, char separator) {
  std::vector<unsigned> values;
  for (;;) {
    const auto end = std::min(text.find(separator), text.size());
    const auto value = read_unsigned(text.substr(0, end));
    if (!value) return std::nullopt;
    values.push_back(*value);
    if (end == text.size()) return values;
    text.remove_prefix(end + 1);
  }
}

template <class Numbers>
std::string join(const Numbers& numbers, char separator) {
  std::string text;
  for (const unsigned each : numbers) {
    if (!text.empty()) text += separator;
    text += std::to_string(each);
  }
  return text;
}

struct unit {
  std::string_view name;
  std::int64_t nanoseconds;
};
constexpr std::array<unit, 4> units{
    {{"s", 1'000'000'000}, {"ms", 1'000'000}, {"us", 1000}, {"ns", 1}}};

// As a number of `step` nanoseconds. Only zero needs no unit.
std::optional<std::int64_t> read_duration(std::string_view text, std::int64_t step) {
  if (text == "0") return 0;
  const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto value = read_number(text.substr(0, digits));
  for (const unit& each : units) {
    if (!value || text.substr(digits) != each.name) continue;
    constexpr auto most = std::numeric_limits<std::int64_t>::max();
    if (*value > static_cast<std::uint64_t>(most / each.nanoseconds)) return std::nullopt;
    const std::int64_t nanoseconds = static_cast<std::int64_t>(*value) * each.nanoseconds;
    if (nanoseconds % step != 0) return std::nullopt;
    return nanoseconds / step;
  }
  return std::nullopt;
}

// In the largest unit of which it is a whole number.
std::string write_duration(std::int64_t count, std::int64_t step) {
  if (count == 0) return "0";
  for (const unit& each : units) {
    if (each.nanoseconds < step) break;
    const std::int64_t factor = each.nanoseconds / step;
    if (count % factor == 0) return std::to_string(count / factor) + std::string(each.name);
  }
  return {};
}

template <class Duration>
constexpr std::int64_t step_of =
    std::chrono::duration_cast<std::chrono::nanoseconds>(Duration(1)).count();

template <class Duration>
std::string text_of(Duration duration) {
  return write_duration(duration.count(), step_of<Duration>);
}

template <class Enum, std::size_t Count>
std::string name_of(Enum value, const std::array<std::string_view, Count>& names) {
  const auto index = static_cast<std::size_t>(value);
  return index < Count ? std::string(names[index]) : std::to_string(index);
}

// Kinds of fields: each has the functions of a config_field.

template <auto Member, unsigned Low, unsigned High>
struct number {
  static std::string accepted() { return std::to_string(Low) + ".." + std::to_string(High); }
  static bool read(std::string_view text, executor_config& to) {
    const auto value = read_unsigned(text);
    if (value) to.*Member = *value;
    return value.has_value();
  }
  static std::string write(const executor_config& from) { return std::to_string(from.*Member); }
  static bool valid(const executor_config& of) {
    return of.*Member == 0 || (of.*Member >= Low && of.*Member <= High);
  }
  static void put_default(executor_config& to) {
    if (to.*Member == 0) to.*Member = executor_config().*Member;
  }
};

struct thread_count : number<&executor_config::threads, 1, detail::most_threads> {
  static void put_default(executor_config& to) {
    if (to.threads == 0) to.threads = detail::default_threads();
  }
};

template <auto Member, unsigned Low, unsigned High>
struct number_per_priority {
  static std::string accepted() {
    return std::to_string(Low) + ".." + std::to_string(High) +
           ", one number or control:rpc:stream:bulk";
  }
  static bool read(std::string_view text, executor_config& to) {
    const auto values = read_list(text, ':');
    if (!values || (values->size() != 1 && values->size() != priority_count)) return false;
    for (std::size_t i = 0; i < priority_count; ++i) {
      (to.*Member)[i] = (*values)[values->size() == 1 ? 0 : i];
    }
    return true;
  }
  static std::string write(const executor_config& from) { return join(from.*Member, ':'); }
  static bool valid(const executor_config& of) {
    return std::all_of((of.*Member).begin(), (of.*Member).end(),
                       [](unsigned each) { return each == 0 || (each >= Low && each <= High); });
  }
  static void put_default(executor_config& to) {
    const executor_config defaults;
    for (std::size_t i = 0; i < priority_count; ++i) {
      if ((to.*Member)[i] == 0) (to.*Member)[i] = (defaults.*Member)[i];
    }
  }
};

// Low and High count units of the member's type.
template <auto Member, std::int64_t Low, std::int64_t High>
struct duration {
  using type = std::remove_cvref_t<decltype(std::declval<executor_config&>().*Member)>;

  static std::string accepted() {
    return text_of(type(Low)) + ".." + text_of(type(High)) + " in whole " +
           text_of(type(1)).substr(1);
  }
  static bool read(std::string_view text, executor_config& to) {
    const auto count = read_duration(text, step_of<type>);
    if (count) to.*Member = type(*count);
    return count.has_value();
  }
  static std::string write(const executor_config& from) { return text_of(from.*Member); }
  static bool valid(const executor_config& of) {
    const auto count = (of.*Member).count();
    return count == 0 || (count >= Low && count <= High);
  }
  static void put_default(executor_config& to) {
    if ((to.*Member).count() == 0) to.*Member = executor_config().*Member;
  }
};

template <auto Member, const auto& Names>
struct choice {
  using type = std::remove_cvref_t<decltype(std::declval<executor_config&>().*Member)>;

  static std::string accepted() {
    std::string text;
    for (const auto name : Names) text += (text.empty() ? "" : "|") + std::string(name);
    return text;
  }
  static bool read(std::string_view text, executor_config& to) {
    const auto found = std::find(Names.begin(), Names.end(), text);
    if (found == Names.end()) return false;
    to.*Member = static_cast<type>(found - Names.begin());
    return true;
  }
  static std::string write(const executor_config& from) { return name_of(from.*Member, Names); }
  static bool valid(const executor_config& of) {
    return static_cast<std::size_t>(of.*Member) < Names.size();
  }
  static void put_default(executor_config& /*to*/) {}
};

// "off", "20us" (fixed), "adaptive" or "adaptive:20us". Without a limit: the default one, which
// is also what `off` has, because it needs none.
struct spin {
  using mode = spin_policy::mode;
  static constexpr std::array<std::string_view, 3> names{"adaptive", "fixed", "off"};
  static constexpr std::chrono::nanoseconds low = 100ns, high = 10ms;

  static std::string accepted() {
    const auto range = text_of(low) + ".." + text_of(high);
    return "off|" + range + "|adaptive|adaptive:" + range;
  }
  static bool read(std::string_view text, executor_config& to) {
    spin_policy found;
    if (text == "off") {
      found.how = mode::off;
    } else if (text != names[0]) {
      constexpr std::string_view prefix = "adaptive:";
      const bool adaptive = text.starts_with(prefix);
      if (adaptive) text.remove_prefix(prefix.size());
      const auto limit = read_duration(text, 1);
      if (!limit || *limit == 0) return false;
      found = {adaptive ? mode::adaptive : mode::fixed, std::chrono::nanoseconds(*limit)};
    }
    to.spin = found;
    return true;
  }
  static std::string write(const executor_config& from) {
    const auto limit = from.spin.limit == 0ns ? spin_policy().limit : from.spin.limit;
    if (from.spin.how == mode::fixed) return text_of(limit);
    const bool needless =
        from.spin.how == mode::off ? in_range(limit) : limit == spin_policy().limit;
    return name_of(from.spin.how, names) + (needless ? "" : ":" + text_of(limit));
  }
  static bool valid(const executor_config& of) {
    return static_cast<std::size_t>(of.spin.how) < names.size() && in_range(of.spin.limit);
  }
  static void put_default(executor_config& to) {
    if (to.spin.limit == 0ns) to.spin.limit = spin_policy().limit;
  }

 private:
  static bool in_range(std::chrono::nanoseconds limit) {
    return limit == 0ns || (limit >= low && limit <= high);
  }
};

// "none", "cores", or the list itself.
struct pin {
  static constexpr std::array<std::string_view, 3> names{"none", "cores", "list"};

  static std::string accepted() { return "none|cores|cores by number as in 0,2,4"; }
  static bool read(std::string_view text, executor_config& to) {
    std::vector<unsigned> cpus;
    auto how = pinning::list;
    if (text == "none" || text == "cores") {
      how = text == "none" ? pinning::none : pinning::cores;
    } else {
      auto listed = read_list(text, ',');
      if (!listed) return false;
      cpus = std::move(*listed);
    }
    to.pin = how;
    to.cpus = std::move(cpus);
    return true;
  }
  static std::string write(const executor_config& from) {
    const bool listed = from.pin == pinning::list && !from.cpus.empty();
    return listed ? join(from.cpus, ',') : name_of(from.pin, names);
  }
  static bool valid(const executor_config& of) {
    return static_cast<std::size_t>(of.pin) < names.size();
  }
  static void put_default(executor_config& /*to*/) {}
};

// In the order of the enumerations. on|off is the order of a bool.
constexpr std::array<std::string_view, 3> backends{"automatic", "io_uring", "asio"};
constexpr std::array<std::string_view, 3> policies{"fair_time", "weighted", "strict"};
constexpr std::array<std::string_view, 2> overflows{"wait", "reject"};
constexpr std::array<std::string_view, 2> switches{"off", "on"};

template <class Kind>
constexpr config_field field(std::string_view name) {
  return {name, Kind::accepted, Kind::read, Kind::write, Kind::valid, Kind::put_default};
}

using config = executor_config;

constexpr std::array fields{
    field<thread_count>("threads"),
    field<choice<&config::backend, backends>>("backend"),
    field<pin>("pin"),
    field<spin>("spin"),
    field<choice<&config::policy, policies>>("policy"),
    field<number_per_priority<&config::weights, 1, 1000>>("weights"),
    field<number_per_priority<&config::max_workers, 0, detail::most_threads>>("max_workers"),
    field<choice<&config::steal, switches>>("steal"),
    field<number_per_priority<&config::queue_limit, 1, 1U << 24>>("queue_limit"),
    field<choice<&config::on_full, overflows>>("on_full"),
    field<duration<&config::poll_interval, 10, 100'000>>("poll_interval"),
    field<number<&config::blocking_threads, 1, 1024>>("blocking_threads"),
    field<number<&config::blocking_queue, 1, 1U << 20>>("blocking_queue"),
    field<duration<&config::stall_threshold, 1, 3'600'000>>("stall_threshold"),
    field<number<&config::stats_sample, 1, 65'536>>("stats_sample"),
    field<duration<&config::shutdown_deadline, 1, 86'400'000>>("shutdown_deadline"),
};

struct preset {
  std::string_view name;
  executor_config (*make)();
};
constexpr std::array<preset, 3> presets{{{"low_latency", executor_config::low_latency},
                                         {"throughput", executor_config::throughput},
                                         {"shared_host", executor_config::shared_host}}};

template <class Named>
std::string names_of(const Named& all) {
  std::string text;
  for (const auto& each : all) text += (text.empty() ? "" : ", ") + std::string(each.name);
  return text;
}

[[noreturn]] void bad_text(const std::string& text) {
  failure(errc::bad_config, text).raise();
}

void set(const config_field& which, std::string_view text, executor_config& to) {
  if (which.read(text, to) && which.valid(to)) return;
  detail::bad_value(which.name, text, which.accepted());
}

const config_field& field_named(std::string_view name) {
  for (const config_field& each : fields) {
    if (each.name == name) return each;
  }
  bad_text("executor_config has no field '" + std::string(name) + "', it has " + names_of(fields));
}

// Replaces all that has a text form.
void apply_preset(std::string_view name, executor_config& to) {
  for (const preset& each : presets) {
    if (each.name != name) continue;
    executor_config made = each.make();
    made.hooks = std::move(to.hooks);
    made.log = std::move(to.log);
    made.random = to.random;
    to = std::move(made);
    return;
  }
  bad_text("executor_config has no preset '" + std::string(name) + "', it has " +
           names_of(presets) + "; fields are written name=value");
}

std::string variable_of(std::string_view field_name) {
  std::string name = "HAWSER_";
  for (const char each : field_name) {
    name += each >= 'a' && each <= 'z' ? static_cast<char>(each - 'a' + 'A') : each;
  }
  return name;
}

// One that is empty counts as not set, as a shell leaves it behind.
template <class Action>
void with_variable(const std::string& name, Action action) {
  const char* const value = std::getenv(name.c_str());
  if (value == nullptr || *value == '\0') return;
  try {
    action(std::string_view(value));
  } catch (const std::system_error& error) {
    bad_text(name + ": " + failure(error).detail());
  }
}

}  // namespace

std::span<const config_field> detail::config_fields() noexcept {
  return fields;
}

executor_config executor_config::parse(std::string_view text) {
  return parse(text, {});
}

executor_config executor_config::parse(std::string_view text, executor_config base) {
  std::array<bool, fields.size()> given{};
  bool first = true;
  while (!text.empty()) {
    const auto word = take(text, " \t\r\n");
    if (word.empty()) continue;
    const auto equals = word.find('=');
    if (equals == std::string_view::npos) {
      if (!first) bad_text("'" + std::string(word) + "': a preset can only come first");
      apply_preset(word, base);
    } else {
      const config_field& which = field_named(word.substr(0, equals));
      bool& before = given[static_cast<std::size_t>(&which - fields.data())];
      if (before) bad_text("executor_config::" + std::string(which.name) + " is given twice");
      before = true;
      set(which, word.substr(equals + 1), base);
    }
    first = false;
  }
  return base;
}

executor_config executor_config::from_environment() {
  return from_environment({});
}

executor_config executor_config::from_environment(executor_config base) {
  with_variable("HAWSER_EXECUTOR", [&](std::string_view text) { base = parse(text, base); });
  for (const config_field& each : fields) {
    with_variable(variable_of(each.name), [&](std::string_view text) { set(each, text, base); });
  }
  return base;
}

std::string to_string(const executor_config& config) {
  const executor_config defaults;
  std::string text;
  for (const config_field& each : fields) {
    const auto value = each.write(config);
    if (value == each.write(defaults)) continue;
    if (!text.empty()) text += ' ';
    text += std::string(each.name) + "=" + value;
  }
  return text;
}

}  // namespace hawser
