// Checks of the values of command line options. Messages tell what was expected and what came.
#pragma once

#include <cstdint>

#include <CLI/App.hpp>

namespace lockstep::cli {

CLI::Validator whole_number(int64_t min, int64_t max);
CLI::Validator number_from_zero();  // finite

// Makes every option that takes a value refuse an empty one: an unset variable of a script must not
// select a default. Options for which an empty value has a meaning keep it.
void refuse_empty_values(CLI::App& app);

}  // namespace lockstep::cli
