#include "cli/option_checks.h"

#include <cmath>
#include <limits>
#include <set>

#include "core/base/error.h"
#include "core/base/number_text.h"

namespace lockstep::cli {
namespace {

// Options that may be empty. The prompt and the words of `run`'s program are taken literally. For
// the others, empty is torchrun's own default.
const std::set<std::string> kMayBeEmpty = {"--prompt", "PROGRAM", "--rdzv-conf", "--rdzv-endpoint",
                                           "--local-ranks-filter"};

bool may_be_empty(const CLI::Option& option) {
  if (option.get_positional()) return kMayBeEmpty.contains(option.get_name());
  for (const std::string& name : option.get_lnames())
    if (kMayBeEmpty.contains("--" + name)) return true;
  return false;
}

std::string refuse_empty(const std::string& value) {
  return value.empty() ? "expected a value, got nothing" : "";
}

}  // namespace

CLI::Validator whole_number(int64_t min, int64_t max) {
  const bool open = max == std::numeric_limits<int64_t>::max();
  const std::string range = open ? str("of at least ", min) : str("from ", min, " to ", max);
  const auto check = [=](const std::string& text) {
    const auto value = parse_number<int64_t>(text);
    const bool fits = value && *value >= min && *value <= max;
    return fits ? std::string() : str("expected a whole number ", range, ", got '", text, "'");
  };
  return {check, open ? str("at least ", min) : str(min, " to ", max)};
}

CLI::Validator number_from_zero() {
  const auto check = [](const std::string& text) {
    const auto value = parse_number<double>(text);
    const bool fits = value && std::isfinite(*value) && *value >= 0;
    return fits ? std::string() : str("expected a number of at least 0, got '", text, "'");
  };
  return {check, "at least 0"};
}

void refuse_empty_values(CLI::App& app) {
  for (CLI::Option* option : app.get_options())
    if (option->get_items_expected_max() > 0 && !may_be_empty(*option)) option->check(refuse_empty);
  for (CLI::App* command : app.get_subcommands({})) refuse_empty_values(*command);
}

}  // namespace lockstep::cli
