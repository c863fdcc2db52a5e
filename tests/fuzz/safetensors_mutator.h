// Changes to a safetensors file that know its structure: most of them leave a file that keeps all
// rules but perhaps the one that was touched, so that a fuzzer looks behind the first check. What
// is no such file comes back as it was.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace lockstep::fuzz {

class SafetensorsMutator {
 public:
  explicit SafetensorsMutator(uint64_t seed) : random_(seed) {}

  std::string operator()(std::string_view file) {
    uint64_t length = 0;
    if (file.size() < 8) return std::string(file);
    std::memcpy(&length, file.data(), 8);
    if (length > file.size() - 8) length = file.size() - 8;
    // Keys keep their order and may be there twice in what is written, so an object is a list here.
    const auto json = nlohmann::ordered_json::parse(file.substr(8, length), nullptr, false);
    if (!json.is_object()) return std::string(file);
    members_.clear();
    for (const auto& [name, value] : json.items())
      members_.emplace_back(nlohmann::json(name).dump(-1, ' ', one_in(4)), value);
    for (size_t changes = 1 + below(3); changes > 0; --changes) change();
    const bool lay_out = !one_in(4);
    int64_t bytes = lay_out ? lay_out_tensors() : static_cast<int64_t>(file.size() - 8 - length);
    if (one_in(8)) bytes += static_cast<int64_t>(below(3)) - 1;
    return written(static_cast<size_t>(std::clamp<int64_t>(bytes, 0, 4096)));
  }

 private:
  using Json = nlohmann::ordered_json;

  size_t below(size_t count) { return count == 0 ? 0 : random_() % count; }
  bool one_in(size_t n) { return below(n) == 0; }
  template <typename T>
  const T& any(const std::vector<T>& list) {
    return list[below(list.size())];
  }

  std::string any_word() {
    static const std::vector<std::string> words = {
        "BOOL",    "F4",          "F6_E2M3",     "F6_E3M2", "U8",  "I8",  "F8_E5M2", "F8_E4M3",
        "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",     "U16", "F16", "BF16",    "I32",
        "U32",     "F32",         "C64",         "F64",     "I64", "U64", "F128",    ""};
    return any(words);
  }
  Json any_number() {
    static const std::vector<Json> numbers = {
        0,       0,         1,          1,          2,
        3,       4,         7,          8,          16,
        -1,      1.5,       1e300,      4294967296, 211106198978564,
        4194305, INT64_MAX, UINT64_MAX, INT64_MIN};
    return one_in(3) ? any(numbers) : Json(below(9));
  }
  Json any_shape() {
    Json shape = Json::array();
    for (size_t dims = below(one_in(8) ? 12 : 4); dims > 0; --dims) shape.push_back(any_number());
    return shape;
  }
  Json any_tensor() {
    return {{"dtype", any_word()},
            {"shape", any_shape()},
            {"data_offsets", {any_number(), any_number()}}};
  }
  std::string any_name() {
    static const std::vector<std::string> names = {R"("a")",
                                                   R"("w")",
                                                   R"("")",
                                                   R"("\u0077")",
                                                   R"("\u00e4")",
                                                   "\"\xc3\xa4\"",
                                                   R"("\ud83d\ude00")",
                                                   R"("\ud83d")",
                                                   "\"\xed\xa0\x80\"",
                                                   "\"\xf0\x9f\x98\x80\"",
                                                   R"("\u0000")",
                                                   R"("__metadata__")",
                                                   R"("dtype")"};
    return any(names);
  }

  void change() {
    const size_t at = below(members_.size());
    if (members_.empty() || one_in(6)) {
      members_.insert(members_.begin() + static_cast<std::ptrdiff_t>(at),
                      {any_name(), any_tensor()});
      return;
    }
    auto& [name, value] = members_[at];
    switch (below(9)) {
      case 0: name = any_name(); break;
      case 1: members_.push_back(Member(members_[at])); break;
      case 2: members_.erase(members_.begin() + static_cast<std::ptrdiff_t>(at)); break;
      case 3: std::swap(members_[at], members_[below(members_.size())]); break;
      case 4: value = one_in(2) ? Json{{"k", "v"}, {"format", "pt"}} : any_number(); break;
      default:
        if (!value.is_object() || name == R"("__metadata__")") break;
        change_field(value);
    }
  }
  void change_field(Json& tensor) {
    switch (below(7)) {
      case 0: tensor["dtype"] = any_word(); break;
      case 1: tensor["shape"] = any_shape(); break;
      case 2: tensor["data_offsets"] = {any_number(), any_number()}; break;
      case 3: tensor.erase(any(std::vector<std::string>{"dtype", "shape", "data_offsets"})); break;
      case 4: tensor["more"] = any_number(); break;
      case 5:
        if (tensor["shape"].is_array() && !tensor["shape"].empty())
          tensor["shape"][below(tensor["shape"].size())] = any_number();
        break;
      default:
        tensor[any(std::vector<std::string>{"dtype", "shape", "data_offsets"})] = any_number();
    }
  }

  // Offsets that fit the shapes, where these make sense. Returns the bytes of all.
  int64_t lay_out_tensors() {
    static const std::vector<std::pair<std::string, int>> bits = {
        {"8", 8}, {"16", 16}, {"32", 32}, {"64", 64}, {"F4", 4}, {"F6", 6}, {"BOOL", 8}};
    int64_t at = 0;
    for (auto& [name, value] : members_) {
      if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() ||
          !value.contains("shape") || !value["shape"].is_array())
        continue;
      const auto word = value["dtype"].get<std::string>();
      int64_t size = word.starts_with("F8") ? 8 : 0;
      for (const auto& [part, width] : bits)
        if (size == 0 && word.find(part) != std::string::npos) size = width;
      for (const auto& dim : value["shape"])
        size = dim.is_number_unsigned() && dim.get<uint64_t>() < 64 && size < 4096
                   ? size * dim.get<int64_t>()
                   : 0;
      value["data_offsets"] = {at, at + size / 8};
      at += size / 8;
    }
    return at;
  }

  std::string written(size_t data_bytes) {
    const auto space = [&] {
      return one_in(16) ? std::string(1 + below(3), " \n\t\r"[below(4)]) : std::string();
    };
    std::string text = "{";
    for (const auto& [name, value] : members_) {
      if (text.size() > 1) text += ',';
      text.append(space()).append(name).append(space()).append(":").append(space());
      text.append(value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace))
          .append(space());
    }
    text += '}';
    if (one_in(2)) text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t length = text.size();
    std::string file(8, '\0');
    std::memcpy(file.data(), &length, 8);
    return file.append(text).append(data_bytes, '\0');
  }

  using Member = std::pair<std::string, Json>;  // the name as it is written
  std::mt19937_64 random_;
  std::vector<Member> members_;
};

}  // namespace lockstep::fuzz
