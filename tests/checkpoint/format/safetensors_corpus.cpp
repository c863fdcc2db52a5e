#include "tests/checkpoint/format/safetensors_corpus.h"

#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

// Where the two readers may differ.
constexpr const char* kStrictKeys =
    "the crate takes the last of two equal keys, where the format allows none";
constexpr const char* kStrictFields = "the crate passes over fields that the format does not have";
constexpr const char* kTuple = "the crate also takes a tensor's three fields as a list";
constexpr const char* kEnum = "the crate also takes a dtype as an object whose one key it is";
constexpr const char* kNull = "the crate takes null for no metadata";
constexpr const char* kFirstByte =
    "the crate lets white space come before the '{' that the format wants at byte 8";
constexpr const char* kWideZero =
    "our shapes keep to 63 bits beside a 0 too, because strides are products of the other "
    "dimensions";
constexpr const char* kEightDims = "our tensors have at most 8 dimensions";

std::string file(const std::string& header, int64_t data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + std::string(static_cast<size_t>(data), '\0');
}
// Claims a length of its own.
std::string claiming(uint64_t length, const std::string& rest) {
  std::string bytes = file(rest, 0);
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes;
}

std::string fields(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}
std::string member(const std::string& name, const std::string& value) {
  return str('"', name, "\":", value);
}
std::string one(const std::string& value) { return str('{', member("w", value), '}'); }
std::string object(const std::vector<std::string>& members) {
  std::string text = "{";
  for (const std::string& next : members) {
    if (text.size() > 1) text += ',';
    text += next;
  }
  return text + "}";
}
std::string offsets(int64_t begin, int64_t end) { return str('[', begin, ',', end, ']'); }

const std::string kGood = fields("U8", "[2]", "[0,2]");

class Corpus {
 public:
  std::vector<CorpusFile> take() { return std::move(files_); }

  void good(const std::string& name, const std::string& header, int64_t data = 0,
            const char* differs = "") {
    add(name, file(header, data), "", differs);
  }
  void bad(const std::string& name, const std::string& header, int64_t data,
           const std::string& said, const char* differs = "") {
    add(name, file(header, data), said, differs);
  }
  void add(const std::string& name, const std::string& bytes, const std::string& said,
           const char* differs = "") {
    files_.push_back({str(files_.size() < 9    ? "00"
                          : files_.size() < 99 ? "0"
                                               : "",
                          files_.size() + 1, '-', name),
                      bytes, said, differs});
  }

 private:
  std::vector<CorpusFile> files_;
};

void add_lengths(Corpus& corpus) {
  corpus.add("no-bytes", "", "0 bytes are too few");
  corpus.add("seven-bytes", "1234567", "7 bytes are too few");
  corpus.add("length-0", file("", 0), "must start with '{'");
  corpus.add("length-0-and-data", file("", 8), "must start with '{'");
  const std::string good = object({member("w", kGood)}) + "xx";
  for (const uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{7},
                                uint64_t{100'000'001}, uint64_t{100'000'000}, uint64_t{1} << 32})
    corpus.add(str("length-", length), claiming(length, good),
               str("claims a header of ", length, " bytes"));
  corpus.add("length-one-more-than-the-file", claiming(good.size() + 1, good),
             "claims a header of");
  corpus.add("length-all-of-the-file", claiming(good.size(), good),
             "tensor 'w': data_offsets must be two ascending numbers up to 0");
  corpus.add("length-one-less", claiming(good.size() - 3, good), "not valid JSON");
  corpus.add("length-one-more", claiming(good.size() - 1, good),
             "tensor 'w': data_offsets must be two ascending numbers up to 1");
}

void add_json(Corpus& corpus) {
  corpus.good("nothing-in-it", "{}");
  corpus.good("padded", "{}      ");
  corpus.good("padded-otherwise", "{}\n\t\r ");
  corpus.good("white-space",
              "{ \"a\" :\n{\"dtype\":\"U8\",\t\"shape\":[ 1 ],\r\"data_offsets\":[0 , 1 ] } }", 1);
  corpus.bad("space-first", " {}", 0, "must start with '{'", kFirstByte);
  corpus.bad("byte-order-mark", "\xef\xbb\xbf{}", 0, "must start with '{'");
  for (const std::string text : {"[]", "null", "\"\"", "0", "x", "}"})
    corpus.bad("no-object", text, 0, "must start with '{'");
  for (const std::string text : {"{", "{}{}", "{} x", "{},", "{,}", "{\"w\"", "{\"w\":", "{\"w\"}",
                                 "{w:1}", "{'w':1}", "{\"w", "{}}", "{]", "{:}"})
    corpus.bad("no-json", text, 0, "not valid JSON");
  corpus.bad("trailing-comma", str('{', member("w", kGood), ",}"), 2, "not valid JSON");
  corpus.bad("two-commas", str('{', member("v", kGood), ",,", member("w", kGood), '}'), 2,
             "not valid JSON");
  corpus.bad("no-comma", str('{', member("v", kGood), member("w", kGood), '}'), 2,
             "not valid JSON");
  corpus.bad("no-colon", "{\"w\" " + kGood + "}", 2, "not valid JSON");
  corpus.bad("comment", "{/**/}", 0, "not valid JSON");
  corpus.bad("zero-byte-behind", std::string("{}\0", 3), 0, "a zero byte");
  corpus.bad("zero-byte-and-more", std::string("{}\0{}", 5), 0, "a zero byte");
  corpus.bad("zero-byte-in-a-name", std::string("{\"\0\":", 5) + kGood + "}", 2, "a zero byte");
  corpus.bad("other-white-space", "{\f}", 0, "not valid JSON");
  corpus.bad("cut-off-in-a-tensor", R"({"w":{"dtype":"U8","shape":[2],"data_)", 2,
             "tensor 'w': not valid JSON");
  corpus.bad("list-of-commas", one(R"({"dtype":"U8","shape":[,],"data_offsets":[0,0]})"), 0,
             "tensor 'w'");
  corpus.bad("list-without-comma", one(R"({"dtype":"U8","shape":[1 1],"data_offsets":[0,1]})"), 1,
             "tensor 'w': not valid JSON");
  corpus.bad("list-open", one(R"({"dtype":"U8","shape":[1,"data_offsets":[0,1]})"), 1,
             "tensor 'w'");
  corpus.bad("deep-lists", "{\"w\":" + std::string(200, '['), 0,
             "tensor 'w': expected an object, got a list");
  std::string deep = "{";
  for (int i = 0; i < 200; ++i) deep += "\"w\":{";
  corpus.bad("deep-objects", deep, 0, "tensor 'w': unknown key 'w'");
  corpus.bad("key-of-another-kind", "{1:" + kGood + "}", 2, "not valid JSON");
}

void add_strings(Corpus& corpus) {
  const auto named = [&](const std::string& kind, const std::string& name) {
    corpus.good("name-" + kind, object({member(name, kGood)}), 2);
  };
  named("empty", "");
  named("umlaut", "\xc3\xa4");
  named("chinese", "\xe5\xad\x97");
  named("emoji", "\xf0\x9f\x98\x80");
  named("lowest-and-highest",
        "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f"
        "\xbf\xbf");
  named("escapes", R"(\"\\\/\b\f\n\r\t)");
  named("escaped-umlaut", R"(\u00e4\u00E4)");
  named("escaped-zero", R"(\u0000)");
  named("escaped-pair", R"(\ud83d\ude00\uD83D\uDE00)");
  named("escaped-edges", R"(\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff\ud800\udc00\udbff\udfff)");
  named("delete", "\x7f");
  named("dots-and-slashes", "../../etc/passwd");
  named("long", std::string(3000, 'n'));
  named("of-metadata-alike", "__metadata_");
  const auto broken = [&](const std::string& kind, const std::string& name, const char* said) {
    corpus.bad("name-" + kind, object({member(name, kGood)}), 2,
               str("not valid JSON: byte ", said));
    corpus.bad("metadata-" + kind, R"({"__metadata__":{"k":")" + name + "\"}}", 0,
               "'__metadata__': not valid JSON");
  };
  const std::vector<std::pair<const char*, std::string>> bytes = {
      {"lone-tail", "\x80"},
      {"overlong-2", "\xc0\xaf"},
      {"overlong-2-high", "\xc1\xbf"},
      {"cut-2", "\xc3"},
      {"wrong-tail-2", "\xc3\x28"},
      {"overlong-3", "\xe0\x9f\xbf"},
      {"surrogate", "\xed\xa0\x80"},
      {"surrogate-high", "\xed\xbf\xbf"},
      {"cut-3", "\xe5\xad"},
      {"overlong-4", "\xf0\x8f\xbf\xbf"},
      {"above", "\xf4\x90\x80\x80"},
      {"lead-f5", "\xf5\x80\x80\x80"},
      {"five-bytes", "\xf8\x88\x80\x80\x80"},
      {"ff", "\xff"},
      {"fe", "\xfe"},
      {"cut-4", "\xf0\x9f\x98"}};
  for (const auto& [kind, name] : bytes) broken(str("utf8-", kind), name, "");
  for (const std::string name : {"\\", "\\x", "\\a", "\\'", "\\0", "\\U0041", "\\u", "\\u1",
                                 "\\u12", "\\u123", "\\u123g", "\\u-123", "\\u 123", "\\\n"})
    broken("no-escape", name, "");
  for (const std::string name : {R"(\ud800)", R"(\udbff)", R"(\udc00)", R"(\udfff)",
                                 R"(\ud800\u0041)", R"(\ud800\ud800)", R"(\ud800x)", R"(\ud800\n)"})
    broken("lone-surrogate", name, "");
  for (const std::string name : {"\n", "\t", "\x01", "\x1f"}) broken("control-character", name, "");
}

void add_objects(Corpus& corpus) {
  const std::string said = "tensor 'w': expected an object, got ";
  for (const auto& [value, what] :
       std::vector<std::pair<const char*, const char*>>{{"1", "1"},
                                                        {"-1.5e3", "-1.5e3"},
                                                        {"null", "null"},
                                                        {"true", "true"},
                                                        {"false", "false"},
                                                        {"\"x\"", "a string"},
                                                        {"[]", "a list"}})
    corpus.bad("tensor-no-object", one(value), 0, said + what);
  for (const std::string value :
       {"nul", "True", "NaN", "+1", ".5", "01", "1.", "1e", "-", "0x10", "Infinity"})
    corpus.bad("tensor-no-value", one(value), 0, "tensor 'w': ");
  corpus.bad("tensor-as-a-list", one(R"(["U8",[2],[0,2]])"), 2, said + "a list", kTuple);
  corpus.bad("no-fields", one("{}"), 0, "tensor 'w': 'dtype' is missing");
  corpus.bad("no-dtype", one(R"({"shape":[2],"data_offsets":[0,2]})"), 2,
             "tensor 'w': 'dtype' is missing");
  corpus.bad("no-shape", one(R"({"dtype":"U8","data_offsets":[0,2]})"), 2,
             "tensor 'w': 'shape' is missing");
  corpus.bad("no-offsets", one(R"({"dtype":"U8","shape":[2]})"), 2,
             "tensor 'w': 'data_offsets' is missing");
  corpus.bad("a-field-more", one(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1})"), 2,
             "tensor 'w': unknown key 'x'", kStrictFields);
  corpus.bad("field-in-capitals", one(R"({"DTYPE":"U8","shape":[2],"data_offsets":[0,2]})"), 2,
             "tensor 'w': unknown key 'DTYPE'");
  corpus.good("fields-in-another-order", one(R"({"data_offsets":[0,2],"shape":[2],"dtype":"U8"})"),
              2);
  corpus.good("fields-escaped", one(R"({"\u0064type":"U\u0038","shape":[2],"data_offsets":[0,2]})"),
              2);
  for (const char* twice : {R"("dtype":"U8")", R"("shape":[2])", R"("data_offsets":[0,2])"})
    corpus.bad("field-twice",
               one(str(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2],)", twice, "}")), 2,
               "tensor 'w': the key '");
  corpus.bad("name-twice", object({member("w", kGood), member("w", kGood)}), 2,
             "the key 'w' is there twice", kStrictKeys);
  corpus.bad("name-twice-once-escaped", object({member("w", kGood), member("\\u0077", kGood)}), 2,
             "the key 'w' is there twice", kStrictKeys);
  corpus.bad("name-twice-with-more",
             object({member("w", kGood), member("v", fields("U8", "[0]", "[2,2]")),
                     member("w", fields("U8", "[1]", "[2,3]"))}),
             3, "the key 'w' is there twice");
}

void add_types(Corpus& corpus) {
  const std::vector<std::pair<const char*, int>> words = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  for (const auto& [word, bits] : words) {
    corpus.good(str("dtype-", word), one(fields(word, "[4]", offsets(0, bits / 2))), bits / 2);
    corpus.bad(str("dtype-", word, "-a-byte-less"),
               one(fields(word, "[4]", offsets(0, bits / 2 - 1))), bits / 2 - 1,
               str("tensor 'w': ", word, "[4] needs ", bits / 2, " bytes"));
  }
  for (const char* word :
       {"", "f32", "F128", "F99", "float32", "U8 ", "C128", "F8", "I4", "BF16\\u0000"})
    corpus.bad("dtype-unknown", one(fields(word, "[0]", "[0,0]")), 0,
               "tensor 'w': unknown dtype '");
  for (const char* value : {"1", "null", "[\"U8\"]", "{}", "true"})
    corpus.bad("dtype-no-string",
               one(str(R"({"dtype":)", value, R"(,"shape":[0],"data_offsets":[0,0]})")), 0,
               "tensor 'w': 'dtype': expected a string");
  corpus.bad("dtype-as-an-object", one(R"({"dtype":{"U8":null},"shape":[0],"data_offsets":[0,0]})"),
             0, "tensor 'w': 'dtype': expected a string, got an object", kEnum);
  for (const auto& [word, shape, bytes] :
       std::vector<std::tuple<const char*, const char*, int>>{{"F4", "[3]", 1},
                                                              {"F4", "[3]", 2},
                                                              {"F4", "[1]", 1},
                                                              {"F4", "[3,3]", 4},
                                                              {"F6_E2M3", "[2]", 2},
                                                              {"F6_E3M2", "[1]", 1},
                                                              {"F4", "[]", 0}})
    corpus.bad("no-whole-bytes", one(fields(word, shape, offsets(0, bytes))), bytes,
               "tensor 'w': its shape is not a whole number of bytes");
  corpus.good("whole-bytes-over-two-dimensions", one(fields("F4", "[3,2]", "[0,3]")), 3);
}

void add_shapes(Corpus& corpus) {
  corpus.good("scalar", one(fields("F32", "[]", "[0,4]")), 4);
  corpus.good("one-dimension-0", one(fields("F32", "[0]", "[0,0]")));
  corpus.good("a-0-among-others", one(fields("F32", "[3,0,5]", "[0,0]")));
  corpus.good("eight-dimensions", one(fields("U8", "[1,1,1,1,1,1,1,2]", "[0,2]")), 2);
  corpus.bad("nine-dimensions", one(fields("U8", "[1,1,1,1,1,1,1,1,2]", "[0,2]")), 2,
             "tensor 'w': 'shape' has more than 8 numbers", kEightDims);
  for (const char* dim : {"-2", "-0", "-9223372036854775808", "2.0", "0.0", "2e0", "1e3", "1E3",
                          "1e-3", "2.5", "1e400"})
    corpus.bad("dimension-no-count", one(fields("U8", str('[', dim, ']'), "[0,2]")), 2,
               str("tensor 'w': 'shape': expected integers of 0 or more, got ", dim));
  for (const char* dim : {"true", "null", "\"2\"", "[2]", "{}"})
    corpus.bad("dimension-no-number", one(fields("U8", str('[', dim, ']'), "[0,2]")), 2,
               "tensor 'w': 'shape': expected integers of 0 or more");
  for (const char* dim :
       {"02", "00", "+2", "2.", ".5", "0x2", "2_0", "1e", "1e+", "NaN", "--2", "- 2"})
    corpus.bad("dimension-no-json", one(fields("U8", str('[', dim, ']'), "[0,2]")), 2,
               "tensor 'w': ");
  for (const char* shape : {"2", "\"2\"", "{\"0\":2}", "null"})
    corpus.bad("shape-no-list", one(fields("U8", shape, "[0,2]")), 2,
               "tensor 'w': 'shape': expected a list, got ");
  for (const char* dim : {"9223372036854775808", "18446744073709551615", "18446744073709551616",
                          "100000000000000000000000000000000000000000000000"})
    corpus.bad("dimension-too-large", one(fields("U8", str('[', dim, ']'), "[0,0]")), 0,
               "tensor 'w': 'shape': expected integers of 0 or more, got ");
  const std::string large = "tensor 'w': its shape is not a whole number of bytes, or too large";
  corpus.bad("2^32-squared", one(fields("F32", "[4294967296,4294967296]", "[0,0]")), 0, large);
  // 0 if it wrapped.
  corpus.bad("2^64-bytes", one(fields("F32", "[4611686018427387904]", "[0,0]")), 0, large);
  corpus.bad("wraps-to-16-bytes", one(fields("F32", "[4194305,4194305,211106198978564]", "[0,16]")),
             16, large);
  corpus.bad("2^63-bits", one(fields("U8", "[1152921504606846976]", "[0,0]")), 0, "tensor 'w': ");
  corpus.bad("2^60-bytes-less-one", one(fields("U8", "[1152921504606846975]", "[0,0]")), 0,
             "tensor 'w': ");
  corpus.bad("2^32-twice-and-0", one(fields("F32", "[4294967296,0,4294967296]", "[0,0]")), 0, large,
             kWideZero);
  corpus.bad("0-and-2^32-twice", one(fields("F32", "[0,4294967296,4294967296]", "[0,0]")), 0, large,
             kWideZero);
  corpus.bad("2^62-and-0", one(fields("F32", "[4611686018427387904,0]", "[0,0]")), 0, large,
             kWideZero);
  corpus.good("2^58-and-0", one(fields("U8", "[288230376151711744,0]", "[0,0]")));
}

void add_offsets(Corpus& corpus) {
  corpus.bad("offsets-reversed", one(fields("U8", "[2]", "[2,0]")), 2,
             "tensor 'w': data_offsets must be two ascending numbers up to 2, got [2, 0]");
  for (const char* list : {"[]", "[2]", "[0,1,2]", "[0,2,2]"})
    corpus.bad("offsets-not-two", one(fields("U8", "[2]", list)), 2, "tensor 'w': ");
  for (const char* list : {"[-1,1]", "[0,-2]", "[0.0,2]", "[0,2e0]", "[0,18446744073709551616]",
                           "[null,2]", "[\"0\",2]", "[[0],2]"})
    corpus.bad("offsets-no-counts", one(fields("U8", "[2]", list)), 2,
               "tensor 'w': 'data_offsets': expected integers of 0 or more");
  for (const char* value : {"2", "null", "{\"a\":0,\"b\":2}", "\"02\""})
    corpus.bad("offsets-no-list", one(fields("U8", "[2]", value)), 2,
               "tensor 'w': 'data_offsets': expected a list");
  for (const char* list : {"[0,3]", "[9223372036854775806,9223372036854775807]", "[1,3]", "[3,3]",
                           "[0,9223372036854775807]"})
    corpus.bad("offsets-past-the-end", one(fields("U8", "[2]", list)), 2,
               "tensor 'w': data_offsets must be two ascending numbers up to 2");
  for (const char* list : {"[0,1]", "[0,0]", "[1,2]", "[2,2]"})
    corpus.bad("offsets-of-fewer-bytes", one(fields("U8", "[2]", list)), 2,
               "tensor 'w': U8[2] needs 2 bytes, data_offsets span ");
  corpus.bad("offsets-of-more-bytes", one(fields("U8", "[1]", "[0,2]")), 2,
             "tensor 'w': U8[1] needs 1 bytes, data_offsets span 2");

  const auto pair = [](const std::string& v, const std::string& w) {
    return object({member("v", v), member("w", w)});
  };
  const std::string four = fields("F32", "[1]", "[0,4]");
  corpus.good("two", pair(four, fields("F32", "[1]", "[4,8]")), 8);
  corpus.good("two-in-another-order", pair(fields("F32", "[1]", "[4,8]"), four), 8);
  corpus.good("two-and-nothing-aligned",
              pair(fields("U8", "[1]", "[0,1]"), fields("F64", "[1]", "[1,9]")), 9);
  corpus.bad("hole-first", one(fields("U8", "[1]", "[1,2]")), 2,
             "tensor 'w' starts at offset 1, expected 0 (a hole before it)");
  corpus.bad("hole-between", pair(four, fields("F32", "[1]", "[5,9]")), 9,
             "tensor 'w' starts at offset 5, expected 4 (a hole before it)");
  corpus.bad("overlap-by-one", pair(four, fields("F32", "[1]", "[3,7]")), 7,
             "tensor 'w' starts at offset 3, expected 4 (it overlaps the one before)");
  corpus.bad("overlap-all", pair(four, four), 4,
             "starts at offset 0, expected 4 (it overlaps the one before)");
  corpus.bad("overlap-inside", pair(fields("U8", "[8]", "[0,8]"), fields("U8", "[2]", "[2,4]")), 8,
             "tensor 'w' starts at offset 2, expected 8");
  corpus.bad("overlap-same-begin", pair(fields("U8", "[8]", "[0,8]"), fields("U8", "[4]", "[0,4]")),
             8, "it overlaps the one before");
  corpus.bad("data-behind", one(kGood), 3, "the tensors end at offset 2, the file's data at 3");
  corpus.bad("data-behind-nothing", "{}", 1, "the tensors end at offset 0, the file's data at 1");
  corpus.bad("data-missing", one(kGood), 1,
             "tensor 'w': data_offsets must be two ascending numbers up to 1");
  // Tensors without bytes: several of them end where the next one begins, which is how every writer
  // lays them out.
  const auto empty = [](int64_t at) { return fields("F32", "[0]", offsets(at, at)); };
  corpus.good("empty-ones-share-an-offset",
              object({member("a", empty(0)), member("b", empty(0)), member("c", four),
                      member("d", empty(4)), member("e", empty(4))}),
              4);
  corpus.good("empty-one-named-first", object({member("a", empty(4)), member("b", four)}), 4);
  corpus.bad("empty-one-inside", object({member("b", four), member("w", empty(2))}), 4,
             "tensor 'w' starts at offset 2, expected 4");
  corpus.bad("empty-one-past-the-end", object({member("b", four), member("w", empty(5))}), 4,
             "tensor 'w': data_offsets must be two");
  corpus.bad(
      "empty-one-in-a-hole",
      object({member("b", four), member("w", empty(5)), member("x", fields("U8", "[1]", "[5,6]"))}),
      6, "starts at offset 5, expected 4");
  corpus.bad("empty-one-alone-in-data", one(empty(4)), 4,
             "tensor 'w' starts at offset 4, expected 0");
}

void add_metadata(Corpus& corpus) {
  const std::string w = member("w", kGood);
  const auto with = [&](const std::string& metadata) {
    return "{\"__metadata__\":" + metadata + "," + w + "}";
  };
  corpus.good("metadata", with(R"({"format":"pt"})"), 2);
  corpus.good("metadata-behind", "{" + w + R"(,"__metadata__":{"format":"pt"}})", 2);
  corpus.good("metadata-empty", with("{}"), 2);
  corpus.good("metadata-alone", R"({"__metadata__":{"a":"1","b":"2"}})");
  corpus.good("metadata-of-all-kinds",
              with(R"({"":"","__metadata__":"x","dtype":"U8","\u0000":"\n","ä":"字"})"), 2);
  corpus.good("metadata-long", with(R"({"a":")" + std::string(70000, 'a') + "\"}"), 2);
  for (const char* value : {"1", "1.5", "null", "true", "[]", "{}", "{\"b\":\"c\"}", "[\"c\"]"})
    corpus.bad("metadata-no-string", with(str(R"({"a":)", value, "}")), 2,
               "'__metadata__': 'a': expected strings only, got ");
  for (const char* value : {"[]", "\"\"", "1", "true"})
    corpus.bad("metadata-no-object", with(value), 2, "'__metadata__': expected an object, got ");
  corpus.bad("metadata-null", with("null"), 2, "'__metadata__': expected an object, got null",
             kNull);
  corpus.bad("metadata-key-twice", with(R"({"a":"1","a":"1"})"), 2,
             "'__metadata__': the key 'a' is there twice", kStrictKeys);
  corpus.bad("metadata-twice", "{\"__metadata__\":{},\"__metadata__\":{}," + w + "}", 2,
             "the key '__metadata__' is there twice");
  corpus.bad("metadata-that-is-a-tensor", object({member("__metadata__", kGood)}), 2,
             "'__metadata__': 'shape': expected strings only");
}

void add_many(Corpus& corpus) {
  std::vector<std::string> members;
  for (int64_t i = 0; i < 100'000; ++i)
    members.push_back(member(str("layer.", i), fields("U8", "[1]", offsets(i, i + 1))));
  corpus.good("100000-tensors", object(members), 100'000);
  members.push_back(member("layer.77", fields("U8", "[0]", "[0,0]")));
  corpus.bad("100000-tensors-and-a-name-twice", object(members), 100'000,
             "the key 'layer.77' is there twice");
}

}  // namespace

std::vector<CorpusFile> safetensors_corpus() {
  Corpus corpus;
  add_lengths(corpus);
  add_json(corpus);
  add_strings(corpus);
  add_objects(corpus);
  add_types(corpus);
  add_shapes(corpus);
  add_offsets(corpus);
  add_metadata(corpus);
  add_many(corpus);
  return corpus.take();
}

}  // namespace lockstep::checkpoint
