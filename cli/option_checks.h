// Checks of the values of command line options. Messages say what was expected and what came.
#pragma once

#include <cstdint>

#include <CLI/App.hpp>

namespace lockstep::cli {

CLI::Validator whole_number(int64_t min, int64_t max);
CLI::Validator number_from_zero();  // finite

// Adds to every option of the program that takes a value that it is not empty: an unset variable of
// a script must not mean a default. Options for which an empty value means something keep it.
void refuse_empty_values(CLI::App& app);

}  // namespace lockstep::cli
