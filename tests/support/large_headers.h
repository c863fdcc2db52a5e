// Safetensors headers of nearly 100 MB, the most that the format allows: those that take a reader
// the most memory and time, good ones and ones that turn bad at their end. For tests of the
// reader's memory, and for bench/safetensors_header.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::test {

constexpr size_t kLargeHeaderBytes = 100'000'000;

struct LargeHeader {
  std::string text;
  int64_t data_bytes = 0;
  std::string error = {};  // a part of what is said of it; empty: it is good
};

// Different ones, as short as can be: digits to the base 93, of what stands for itself in a string
// of JSON.
inline std::string short_name(size_t number) {
  std::string name;
  do {
    const char c = static_cast<char>(' ' + number % 93);
    name += c == '"' ? '\x7d' : c == '\\' ? '\x7e' : c;
    number /= 93;
  } while (number > 0);
  return name;
}

// Members, as many as fit.
inline LargeHeader filled(const std::function<std::string(size_t)>& member,
                          std::string_view before = "", std::string_view after = "") {
  std::string text = "{";
  text.reserve(kLargeHeaderBytes);
  text += before;
  for (size_t i = 0;; ++i) {
    const std::string next = member(i);
    if (text.size() + next.size() + after.size() + 1000 > kLargeHeaderBytes) break;
    if (i > 0) text += ',';
    text += next;
  }
  text += after;
  return {.text = text + "}"};
}

inline std::string minimal_tensor(size_t i, const std::string& shape = "[0]") {
  return std::string("\"") + short_name(i) + R"(":{"dtype":"U8","shape":)" + shape +
         R"(,"data_offsets":[0,0]})";
}

// One byte each, in random order.
inline LargeHeader scattered_tensors() {
  std::vector<size_t> places(1'300'000);
  std::iota(places.begin(), places.end(), size_t{0});
  std::mt19937_64 random(1);
  std::shuffle(places.begin(), places.end(), random);
  LargeHeader header{.text = "{", .data_bytes = static_cast<int64_t>(places.size())};
  for (size_t i = 0; i < places.size(); ++i) {
    if (i > 0) header.text += ',';
    header.text += std::string("\"") + short_name(i) +
                   R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" + std::to_string(places[i]) +
                   ',' + std::to_string(places[i] + 1) + "]}";
  }
  header.text += '}';
  return header;
}

inline LargeHeader with_error(LargeHeader header, const std::string& error) {
  header.error = error;
  return header;
}

struct NamedHeader {
  const char* name;
  std::function<LargeHeader()> make;
};

inline std::vector<NamedHeader> large_headers() {
  const auto tensor = [](size_t i) { return minimal_tensor(i); };
  const auto entry = [](size_t i) { return std::string("\"") + short_name(i) + "\":\"\""; };
  const auto around = [](const std::string& before, std::string_view middle,
                         const std::string& after) {
    std::string text = before;
    text.reserve(kLargeHeaderBytes);
    while (text.size() + middle.size() + after.size() <= kLargeHeaderBytes) text += middle;
    return LargeHeader{.text = text + after};
  };
  const std::string object = R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
  return {
      {"1.8 million tensors", [=] { return filled(tensor); }},
      {"1.3 million tensors, shuffled", scattered_tensors},
      {"1.4 million tensors of 8 dimensions",
       [] { return filled([](size_t i) { return minimal_tensor(i, "[0,0,0,0,0,0,0,0]"); }); }},
      {"11 million keys of metadata", [=] { return filled(entry, R"("__metadata__":{)", "}"); }},
      {"one text of metadata", [=] { return around(R"({"__metadata__":{"a":")", "b", "\"}}"); }},
      {"one text of escapes",
       [=] { return around(R"({"__metadata__":{"a":")", R"(\u00e4\ud83d\ude00\n)", "\"}}"); }},
      {"one text of Chinese",
       [=] { return around(R"({"__metadata__":{"a":")", "\xe5\xad\x97", "\"}}"); }},
      {"one name", [=] { return around("{\"", "n", object); }},
      {"white space", [=] { return around("{", " \n", "}"); }},
      {"bad: the last name was there",
       [=] {
         return with_error(filled(tensor, "", std::string(",") + minimal_tensor(0)),
                           "is there twice");
       }},
      {"bad: one name for all",
       [=] {
         return with_error(filled([](size_t) { return minimal_tensor(7); }), "is there twice");
       }},
      {"bad: the last one has a hole before it",
       [=] {
         LargeHeader header =
             filled(tensor, "", R"(,"last":{"dtype":"U8","shape":[1],"data_offsets":[1,2]})");
         header.data_bytes = 2;
         return with_error(std::move(header), "tensor 'last' starts at offset 1, expected 0");
       }},
      {"bad: cut off", [=] { return with_error(filled(tensor, "", ",\"last"), "not valid JSON"); }},
      {"bad: the last key was there",
       [=] {
         return with_error(filled(entry, R"("__metadata__":{)", R"(,"#":""})"),
                           "'__metadata__': the key '#' is there twice");
       }},
      {"bad: deep",
       [=] {
         return with_error(around("{\"a\":", "[", ""),
                           "tensor 'a': expected an object, got a list");
       }},
      {"bad: one number",
       [=] {
         return with_error(around(R"({"a":{"dtype":"U8","shape":[)", "1", "]}}"),
                           "tensor 'a': 'shape': expected integers of 0 or more");
       }},
      {"bad: one dtype",
       [=] {
         return with_error(
             around(R"({"a":{"dtype":")", "U", R"(","shape":[0],"data_offsets":[0,0]}})"),
             "tensor 'a': unknown dtype 'UUU");
       }},
      {"bad: zero bytes",
       [=] { return with_error(around("{", std::string_view("\0", 1), "}"), "a zero byte"); }},
  };
}

}  // namespace lockstep::test
