// The file of a job's token: who may have it, and what it must hold.
#include "launcher/trust/job_token.h"

#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/trust/job_identity.h"
#include "launcher/trust/trust.h"
#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using test::error_of;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class JobTokenFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = testing::TempDir() + "lockstep-token-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    path_ = folder_ + "/token";
  }
  void TearDown() override {
    for (const char* name : {"LOCKSTEP_JOB_TOKEN_FILE", "LOCKSTEP_JOB_TOKEN", "LOCKSTEP_PLAINTEXT"})
      ::unsetenv(name);
    std::filesystem::remove_all(folder_);
  }
  std::string folder_, path_;
};

TEST_F(JobTokenFile, is_private_and_holds_what_was_written) {
  ::umask(0);
  const JobToken token = JobToken::random();
  token.write_new(path_);
  ::umask(022);
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  EXPECT_EQ(JobToken::read(path_).text(), token.text());
  EXPECT_NE(JobToken::random().text(), token.text());
}

TEST_F(JobTokenFile, an_existing_file_or_link_is_not_written) {
  std::ofstream(path_) << "mine";
  EXPECT_THAT(error_of([&] { JobToken::random().write_new(path_); }), HasSubstr("exists already"));
  const std::string link = folder_ + "/link";
  std::filesystem::create_symlink(folder_ + "/elsewhere", link);
  EXPECT_NE(error_of([&] { JobToken::random().write_new(link); }), "");
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/elsewhere"));
}

TEST_F(JobTokenFile, that_others_may_open_is_refused) {
  JobToken::random().write_new(path_);
  for (const mode_t mode : {0640, 0604, 0660, 0644}) {
    ::chmod(path_.c_str(), mode);
    EXPECT_THAT(error_of([&] { JobToken::read(path_); }),
                AllOf(HasSubstr("other users may open"), HasSubstr("chmod 600")));
  }
}

TEST_F(JobTokenFile, of_another_user_is_refused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a file to another user";
  JobToken::random().write_new(path_);
  ASSERT_EQ(::chown(path_.c_str(), 1234, 1234), 0);
  EXPECT_THAT(error_of([&] { JobToken::read(path_); }), HasSubstr("belongs to user 1234"));
}

TEST_F(JobTokenFile, without_a_token_is_named_and_never_shown) {
  for (const std::string& text :
       {std::string(), std::string("secret123"), JobToken::random().text().substr(1),
        JobToken::random().text() + "0"}) {
    std::ofstream(path_) << text;
    ::chmod(path_.c_str(), 0600);
    const std::string error = error_of([&] { JobToken::read(path_); });
    EXPECT_THAT(error, AllOf(HasSubstr(path_), HasSubstr("64 hexadecimal digits")));
    if (!text.empty()) {
      EXPECT_THAT(error, Not(HasSubstr(text)));
    }
  }
}

TEST_F(JobTokenFile, is_found_by_the_environment) {
  const JobToken token = JobToken::random();
  token.write_new(path_);
  EXPECT_FALSE(trust_from_environment().token.has_value());
  ::setenv("LOCKSTEP_JOB_TOKEN_FILE", path_.c_str(), 1);
  EXPECT_EQ(trust_from_environment().token->text(), token.text());
  ::setenv("LOCKSTEP_JOB_TOKEN", token.text().c_str(), 1);
  EXPECT_THAT(error_of([] { trust_from_environment(); }), HasSubstr("both set"));
  ::unsetenv("LOCKSTEP_JOB_TOKEN_FILE");
  EXPECT_EQ(trust_from_environment().token->text(), token.text());
  ::setenv("LOCKSTEP_PLAINTEXT", "yes", 1);
  EXPECT_THAT(error_of([] { trust_from_environment(); }), HasSubstr("must be 0 or 1"));
}

TEST(JobToken, gives_a_key_for_each_purpose_and_hides_itself) {
  const JobToken token = JobToken::random();
  EXPECT_EQ(token.derive("a"), token.derive("a"));
  EXPECT_NE(token.derive("a"), token.derive("b"));
  EXPECT_NE(token.derive("a"), JobToken::random().derive("a"));
}

// RFC 5869 has no example for an empty salt and this input; Python's hmac gave the answer.
TEST(JobToken, derives_by_hkdf_with_sha256) {
  const JobToken token = JobToken::parse(std::string(62, '0') + "01", "here");
  const std::string key = token.derive("purpose");
  std::string hex;
  for (const char c : key) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    hex += two;
  }
  EXPECT_EQ(hex, "da8c3bd15e162a5e7ac20cab4a14219ebb6b6f41edc479d43175b8e708e0af20");
}

TEST(JobIdentity, has_the_same_bytes_in_every_process) {
  const JobToken token = JobToken::random();
  EXPECT_EQ(identity_of(token).certificate, identity_of(token).certificate);
  EXPECT_EQ(identity_of(token).key, identity_of(token).key);
  EXPECT_NE(identity_of(token).certificate, identity_of(JobToken::random()).certificate);
}

}  // namespace
}  // namespace lockstep::launcher
