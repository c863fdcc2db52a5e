#include "launcher/base/host_list.h"

#include <set>

#include "core/base/error.h"
#include "core/base/number_text.h"

namespace lockstep::launcher {
namespace {

constexpr size_t kMostHosts = 100'000;
constexpr size_t kMostDigits = 9;

// One list, from its first character to its last.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  std::vector<std::string> read() {
    std::vector<std::string> hosts;
    do {
      std::vector<std::string> names = {""};
      while (at_ < text_.size() && text_[at_] != ',') {
        if (text_[at_] == '[')
          names = combined(names, numbers());
        else
          append(names);
      }
      expect(!names.front().empty(), "a host has no name");
      hosts.insert(hosts.end(), names.begin(), names.end());
      expect(hosts.size() <= kMostHosts, "more than 100000 hosts");
    } while (at_ < text_.size() && text_[at_++] == ',');
    return hosts;
  }

 private:
  template <typename Text>
  void expect(bool holds, const Text& fault) const {
    check(holds, "[hosts] '", text_, "', character ", at_ + 1, ": ", fault,
          "; expected a list like node[01-04,7],login");
  }

  void append(std::vector<std::string>& names) {
    const auto byte = static_cast<unsigned char>(text_[at_]);
    expect(byte > ' ' && byte != 0x7f && byte != ']', "this cannot be part of a name");
    ++at_;
    for (std::string& name : names) name += static_cast<char>(byte);
  }

  std::vector<std::string> combined(const std::vector<std::string>& names,
                                    const std::vector<std::string>& ends) const {
    expect(names.size() * ends.size() <= kMostHosts, "more than 100000 hosts");
    std::vector<std::string> all;
    for (const std::string& name : names)
      for (const std::string& end : ends) all.push_back(name + end);
    return all;
  }

  std::string digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    expect(at_ > begin && at_ - begin <= kMostDigits, "expected a number of 1 to 9 digits");
    return std::string(text_.substr(begin, at_ - begin));
  }

  // "[01-04,7]" → 01, 02, 03, 04, 7
  std::vector<std::string> numbers() {
    std::vector<std::string> all;
    do {
      ++at_;  // the bracket or the comma
      const std::string first = digits();
      std::string last = first;
      if (at_ < text_.size() && text_[at_] == '-') {
        ++at_;
        last = digits();
      }
      const int from = *parse_number<int>(first), to = *parse_number<int>(last);
      expect(from <= to, "the range runs backwards");
      expect(all.size() + static_cast<size_t>(to - from) < kMostHosts, "more than 100000 hosts");
      for (int number = from; number <= to; ++number) {
        const std::string plain = std::to_string(number);
        const size_t zeros = first.size() > plain.size() ? first.size() - plain.size() : 0;
        all.push_back(std::string(zeros, '0') + plain);
      }
    } while (at_ < text_.size() && text_[at_] == ',');
    expect(at_ < text_.size() && text_[at_] == ']', "expected ']'");
    ++at_;
    return all;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::vector<std::string> expand_hosts(std::string_view text) {
  const std::vector<std::string> hosts = Reader(text).read();
  std::set<std::string> seen;
  for (const std::string& host : hosts)
    check(seen.insert(host).second, "[hosts] '", text, "': host '", host, "' comes twice");
  return hosts;
}

}  // namespace lockstep::launcher
