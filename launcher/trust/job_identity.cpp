#include "launcher/trust/job_identity.h"

#include <memory>

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* it) const {
    Free(it);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Freer<&::EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<&::X509_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, Freer<&::X509_EXTENSION_free>>;
using Memory = std::unique_ptr<BIO, Freer<&::BIO_free>>;

void expect(bool done, const char* what) {
  if (!done) throw EnvironmentError(str("[token] OpenSSL cannot ", what));
}

void extend(X509* certificate, int kind, const char* value) {
  const Extension extension(::X509V3_EXT_conf_nid(nullptr, nullptr, kind, value));
  expect(extension && ::X509_add_ext(certificate, extension.get(), -1) == 1,
         "describe the job's certificate");
}

// No process's clock decides whether the job's certificate counts: the job's end makes it useless.
void make_timeless(X509* certificate) {
  expect(::ASN1_TIME_set_string(::X509_getm_notBefore(certificate), "19700101000000Z") == 1 &&
             ::ASN1_TIME_set_string(::X509_getm_notAfter(certificate), "99991231235959Z") == 1,
         "date the job's certificate");
}

// Ed25519 signatures have no random part, so the certificate's bytes are the same everywhere.
Certificate self_signed(EVP_PKEY* key) {
  Certificate certificate(::X509_new());
  expect(certificate != nullptr, "make a certificate");
  X509* const it = certificate.get();
  X509_NAME* const name = ::X509_get_subject_name(it);
  const auto* common_name = reinterpret_cast<const unsigned char*>(kJobName);
  expect(::X509_set_version(it, 2) == 1 &&
             ::ASN1_INTEGER_set(::X509_get_serialNumber(it), 1) == 1 &&
             ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, common_name, -1, -1, 0) == 1 &&
             ::X509_set_issuer_name(it, name) == 1 && ::X509_set_pubkey(it, key) == 1,
         "fill the job's certificate");
  make_timeless(it);
  extend(it, NID_basic_constraints, "critical,CA:TRUE");
  extend(it, NID_key_usage, "critical,digitalSignature,keyCertSign");
  extend(it, NID_ext_key_usage, "serverAuth,clientAuth");
  extend(it, NID_subject_alt_name, str("DNS:", kJobName).c_str());
  expect(::X509_sign(it, key, nullptr) > 0, "sign the job's certificate");
  return certificate;
}

std::string text_of(BIO* memory) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  return {data, static_cast<size_t>(size)};
}

}  // namespace

JobIdentity identity_of(const JobToken& token) {
  const std::string seed = token.derive("lockstep tls identity 1");
  const Key key(::EVP_PKEY_new_raw_private_key(
      EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(seed.data()), seed.size()));
  expect(key != nullptr, "make an Ed25519 key");
  const Certificate certificate = self_signed(key.get());
  const Memory key_text(::BIO_new(::BIO_s_mem())), certificate_text(::BIO_new(::BIO_s_mem()));
  expect(key_text && certificate_text &&
             ::PEM_write_bio_PrivateKey(key_text.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                        nullptr) == 1 &&
             ::PEM_write_bio_X509(certificate_text.get(), certificate.get()) == 1,
         "write the job's certificate");
  return {text_of(key_text.get()), text_of(certificate_text.get())};
}

}  // namespace lockstep::launcher
