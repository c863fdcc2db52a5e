// Fuzz targets keep libFuzzer's entry, so that clang's fuzzer can drive them; where that is not there, standalone_main.cpp does, with
// a corpus, fixed seeds and a fixed number of rounds. What a target finds it reports by aborting.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lockstep::fuzz {

// The most bytes that operator new has had out at once since the call of reset_peak(); 0 where nobody counts (under a sanitizer).
void reset_peak();
size_t peak_bytes();

}  // namespace lockstep::fuzz
