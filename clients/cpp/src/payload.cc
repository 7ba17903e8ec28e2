#include "payload.h"

#include <openssl/evp.h>
#include <zstd.h>

#include "auxilium/errors.h"

namespace auxilium::internal {
namespace {

using ::auxilium::v1::Payload;

constexpr std::int64_t kMost = std::int64_t{1} << 30;

std::string decompressed(const std::string& data, std::int64_t size) {
  std::string out(static_cast<std::size_t>(size), '\0');
  const std::size_t written = ZSTD_decompress(out.data(), out.size(), data.data(), data.size());
  if (ZSTD_isError(written) != 0) throw Error(std::string("not compressed as it should be: ") + ZSTD_getErrorName(written));
  out.resize(written);
  return out;
}

}  // namespace

std::string sha256_of(const std::string& data) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  if (EVP_Digest(data.data(), data.size(), digest, &length, EVP_sha256(), nullptr) != 1) {
    throw Error("SHA-256 is not there");
  }
  static const char* const kDigits = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < length; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

std::string unpack_payload(const Payload& payload, const std::string& base) {
  if (payload.size() < 0 || payload.size() > kMost) {
    throw Error("a file of " + std::to_string(payload.size()) + " bytes was announced");
  }
  std::string data = decompressed(payload.data(), payload.size());
  if (payload.encoding() == Payload::ENCODING_XOR_ZSTD) {
    if (base.size() != data.size() || sha256_of(base) != payload.base_sha256()) {
      throw Error("a difference came to a file that is not here");
    }
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(data[i] ^ base[i]);
  } else if (payload.encoding() != Payload::ENCODING_ZSTD) {
    throw Error("encoding " + std::to_string(payload.encoding()) + " is not known here");
  }
  const std::string found = sha256_of(data);
  if (found != payload.sha256()) throw Error("sha256 " + payload.sha256() + " was announced, " + found + " came");
  return data;
}

}  // namespace auxilium::internal
