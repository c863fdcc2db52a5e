#include "launcher/trust/job_token.h"

#include <cerrno>
#include <memory>

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

struct File {
  int fd;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

// Other users could know or change the token.
void check_private(const struct stat& status, const std::string& path) {
  check(S_ISREG(status.st_mode), "[token] '", path, "' is not a regular file");
  check(status.st_uid == ::geteuid() || status.st_uid == 0, "[token] the file '", path,
        "' belongs to user ", status.st_uid, ", not to user ", ::geteuid(),
        ", who runs this process");
  char mode[8];
  std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(status.st_mode & 07777));
  check((status.st_mode & 077) == 0, "[token] other users may open the file '", path,
        "' (its mode is ", mode, "): run chmod 600, or make a new token if somebody has read it");
}

}  // namespace

JobToken JobToken::random() {
  JobToken token;
  if (::getrandom(token.bytes_.data(), kBytes, 0) != static_cast<ssize_t>(kBytes))
    throw EnvironmentError("[token] getrandom: " + errno_text(errno));
  return token;
}

JobToken JobToken::parse(std::string_view text, const std::string& where) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' '))
    text.remove_suffix(1);
  JobToken token;
  bool good = text.size() == 2 * kBytes;
  for (size_t i = 0; good && i < text.size(); ++i) {
    const size_t digit = kDigits.find(text[i]);
    good = digit != std::string_view::npos;
    if (good) token.bytes_[i / 2] = static_cast<unsigned char>(token.bytes_[i / 2] << 4 | digit);
  }
  check(good, "[token] ", where, " holds no token: expected ", 2 * kBytes,
        " hexadecimal digits, as `lockstep token FILE` writes them");
  return token;
}

JobToken JobToken::read(const std::string& path) {
  const File file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0)
    throw EnvironmentError(str("[token] cannot open the file '", path, "': ", errno_text(errno),
                               "; it is named by LOCKSTEP_JOB_TOKEN_FILE"));
  check_private(status, path);
  char text[2 * kBytes + 16];
  const ssize_t got = ::pread(file.fd, text, sizeof text, 0);
  if (got < 0) throw EnvironmentError(str("[token] cannot read '", path, "': ", errno_text(errno)));
  return parse({text, static_cast<size_t>(got)}, "the file '" + path + "'");
}

void JobToken::write_new(const std::string& path) const {
  const File file{::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)};
  check(file.fd >= 0 || errno != EEXIST, "[token] '", path,
        "' exists already: a token is for one job, so choose another name or remove the file");
  const std::string all = text() + "\n";
  if (file.fd < 0 || ::fchmod(file.fd, 0600) != 0 ||
      ::write(file.fd, all.data(), all.size()) != static_cast<ssize_t>(all.size()) ||
      ::fsync(file.fd) != 0)
    throw EnvironmentError(str("[token] cannot write '", path, "': ", errno_text(errno)));
}

std::string JobToken::text() const {
  std::string out;
  for (const unsigned char byte : bytes_) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

std::string JobToken::derive(std::string_view purpose) const {
  const std::unique_ptr<EVP_PKEY_CTX, decltype(&::EVP_PKEY_CTX_free)> context(
      ::EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr), &::EVP_PKEY_CTX_free);
  const auto* label = reinterpret_cast<const unsigned char*>(purpose.data());
  std::string out(kBytes, '\0');
  size_t size = out.size();
  if (!context || ::EVP_PKEY_derive_init(context.get()) <= 0 ||
      ::EVP_PKEY_CTX_set_hkdf_md(context.get(), ::EVP_sha256()) <= 0 ||
      ::EVP_PKEY_CTX_set1_hkdf_key(context.get(), bytes_.data(), static_cast<int>(kBytes)) <= 0 ||
      ::EVP_PKEY_CTX_add1_hkdf_info(context.get(), label, static_cast<int>(purpose.size())) <= 0 ||
      ::EVP_PKEY_derive(context.get(), reinterpret_cast<unsigned char*>(out.data()), &size) <= 0)
    throw EnvironmentError("[token] OpenSSL cannot derive a key (HKDF-SHA256)");
  return out;
}

}  // namespace lockstep::launcher
