#include "train/trace/part_file.h"

#include <cerrno>
#include <charconv>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/base/number_text.h"

namespace lockstep::train {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

void append_number(std::string& out, int64_t value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  out.append(digits, end);
}

// Microseconds with three decimals.
void append_us(std::string& out, int64_t ns) {
  if (ns < 0) {
    out += '-';
    ns = -ns;
  }
  append_number(out, ns / 1000);
  const auto rest = static_cast<int>(ns % 1000);
  const char decimals[] = {'.', static_cast<char>('0' + rest / 100),
                           static_cast<char>('0' + rest / 10 % 10),
                           static_cast<char>('0' + rest % 10)};
  out.append(decimals, sizeof(decimals));
}

std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string part_path(const std::string& file, int rank) { return str(file, ".rank-", rank); }

PartFile::PartFile(const PartOptions& options) : options_(options) {
  fd_ = ::open(options_.path.c_str(),
               O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND | (options_.append ? 0 : O_TRUNC), 0666);
  if (fd_ < 0) throw EnvironmentError(str("open '", options_.path, "': ", errno_text(errno)));
  struct stat found {};
  if (::fstat(fd_, &found) == 0) bytes_ = found.st_size;
  // After a killed process a line may be incomplete.
  buffer_ = bytes_ == 0 ? "[\n" : "\n";
  buffer_ +=
      str(R"({"ph":"M","name":"process_name","pid":)", options_.rank, R"(,"args":{"name":)",
          json_text(options_.process), "}},\n", R"({"ph":"M","name":"process_sort_index","pid":)",
          options_.rank, R"(,"args":{"sort_index":)", options_.rank, "}},\n");
  flush();
  if (over_) {
    ::close(fd_);
    throw EnvironmentError(ended_);
  }
}

PartFile::~PartFile() { ::close(fd_); }

const std::string& PartFile::quoted(const char* text) {
  auto [known, is_new] = quoted_.try_emplace(text);
  if (is_new) known->second = json_text(text);
  return known->second;
}

void PartFile::name_thread(const trace::ThreadInfo& thread) {
  std::string& named = threads_[thread.number];
  if (named == thread.name) return;
  named = thread.name;
  buffer_ +=
      str(R"({"ph":"M","name":"thread_name","pid":)", options_.rank, ",\"tid\":", thread.number,
          R"(,"args":{"name":)", json_text(thread.name), "}},\n");
}

void PartFile::take(const trace::ThreadInfo& thread, std::span<const trace::Event> events) {
  if (over_) return;
  name_thread(thread);
  for (const trace::Event& event : events) {
    add(event, thread.number);
    if (buffer_.size() >= kBufferBytes) flush();
    if (over_) return;
  }
  flush();
}

void PartFile::add(const trace::Event& event, int thread) {
  using trace::EventType;
  const trace::Kind& kind = *event.kind;
  std::string& out = buffer_;
  out += kind.type == EventType::span      ? R"({"ph":"X","cat":)"
         : kind.type == EventType::instant ? R"({"ph":"i","s":"t","cat":)"
                                           : R"({"ph":"C","cat":)";
  out += event.queued ? quoted("queued") : quoted(kind.category);
  out += ",\"name\":";
  out += quoted(event.name ? event.name : kind.name);
  out += ",\"pid\":";
  append_number(out, options_.rank);
  out += ",\"tid\":";
  append_number(out, thread);
  out += ",\"ts\":";
  append_us(out, event.begin_ns + options_.shift_ns);
  if (kind.type == EventType::span) {
    out += ",\"dur\":";
    append_us(out, event.end_ns - event.begin_ns);
  }
  out += ",\"args\":{";
  bool first = true;
  const auto key = [&](const char* name) {
    if (!first) out += ',';
    first = false;
    out += quoted(name);
    out += ':';
  };
  for (size_t i = 0; i < kind.fields.size() && kind.fields[i].key; ++i) {
    const int64_t value = event.values[i];
    key(kind.fields[i].key);
    switch (kind.fields[i].form) {
      case trace::Form::number: append_number(out, value); break;
      case trace::Form::dtype:
        out += '"';
        out += name_of(static_cast<DType>(value));
        out += '"';
        break;
      case trace::Form::flag: out += value ? "true" : "false"; break;
      case trace::Form::text: out += quoted(reinterpret_cast<const char*>(value)); break;
    }
  }
  if (event.flops > 0) key("flops"), append_number(out, event.flops);
  if (event.bytes > 0 && kind.fields[0].key != std::string_view("bytes"))
    key("bytes"), append_number(out, event.bytes);
  out += "}},\n";
}

void PartFile::note(std::string_view name, const std::string& args_json) {
  if (over_) return;
  buffer_ += str(R"({"ph":"M","name":)", json_text(name), ",\"pid\":", options_.rank,
                 ",\"args\":", args_json, "},\n");
  flush();
}

void PartFile::end(std::string why) {
  buffer_.clear();
  ended_ = str("the timeline of rank ", options_.rank, " ends here: ", why);
  over_.store(true, std::memory_order_release);
}

// Writes whole lines, unless the disk is full.
void PartFile::flush() {
  if (options_.limit_bytes > 0 &&
      bytes_ + static_cast<int64_t>(buffer_.size()) > options_.limit_bytes) {
    return end(str("'", options_.path, "' has reached its part of the limit, ",
                   size_text(static_cast<double>(options_.limit_bytes)),
                   "; --trace-mb sets the limit of all ranks together"));
  }
  for (size_t written = 0; written < buffer_.size();) {
    const ssize_t n = ::write(fd_, buffer_.data() + written, buffer_.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      return end(str("write '", options_.path, "': ", errno_text(n < 0 ? errno : ENOSPC)));
    written += static_cast<size_t>(n);
    bytes_ += n;
  }
  buffer_.clear();
}

}  // namespace lockstep::train
