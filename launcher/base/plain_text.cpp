#include "launcher/base/plain_text.h"

namespace lockstep::launcher {

std::string plain_text(std::string_view text) {
  std::string out(text);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto byte = static_cast<unsigned char>(out[i]);
    const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f;
    // U+0080 to U+009F in UTF-8: terminals obey some of these, too.
    const bool second = i > 0 && static_cast<unsigned char>(text[i - 1]) == 0xc2;
    const bool high_control = byte >= 0x80 && byte <= 0x9f && second;
    if (control || high_control) out[i] = '?';
    if (high_control) out[i - 1] = '?';
  }
  return out;
}

}  // namespace lockstep::launcher
