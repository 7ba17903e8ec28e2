#include "files.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include "auxilium/errors.h"
#include "network.h"
#include "payload.h"
#include "safetensors.h"

namespace auxilium::internal {
namespace {

using ::auxilium::v1::Payload;

std::string zstd(const std::string& data) {
  std::string out(ZSTD_compressBound(data.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), data.data(), data.size(), 1));
  return out;
}

Payload payload(const std::string& data, const std::string& base = "") {
  Payload made;
  std::string sent = data;
  for (std::size_t i = 0; i < base.size(); ++i) sent[i] = static_cast<char>(sent[i] ^ base[i]);
  made.set_encoding(base.empty() ? Payload::ENCODING_ZSTD : Payload::ENCODING_XOR_ZSTD);
  if (!base.empty()) made.set_base_sha256(sha256_of(base));
  made.set_data(zstd(sent));
  made.set_size(static_cast<std::int64_t>(data.size()));
  made.set_sha256(sha256_of(data));
  return made;
}

TEST(Payload, HasTheHashItShouldHave) {
  EXPECT_EQ(sha256_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(unpack_payload(payload("weights"), ""), "weights");
  EXPECT_EQ(unpack_payload(payload("weights", "WEIGHTS"), "WEIGHTS"), "weights");
  EXPECT_THROW(unpack_payload(payload("weights", "WEIGHTS"), "weightS"), Error);
  Payload wrong = payload("weights");
  wrong.set_sha256(sha256_of("other"));
  EXPECT_THROW(unpack_payload(wrong, ""), Error);
  wrong = payload("weights");
  wrong.mutable_data()->back() ^= 1;
  EXPECT_THROW(unpack_payload(wrong, ""), Error);
  wrong = payload("weights");
  wrong.set_size(3);
  EXPECT_THROW(unpack_payload(wrong, ""), Error);
  wrong.set_size(std::int64_t{1} << 40);
  EXPECT_THROW(unpack_payload(wrong, ""), Error);
  wrong = payload("weights");
  wrong.set_encoding(Payload::ENCODING_UNSPECIFIED);
  EXPECT_THROW(unpack_payload(wrong, ""), Error);
}

TEST(Safetensors, AreReadWithinTheirBounds) {
  const auto tensors = parse_safetensors(bias_only({1, 2, 3}));
  EXPECT_EQ(tensors.at("b").values, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(tensors.at("w").shape, (std::vector<std::int64_t>{3, 1}));
  const auto one = [](const std::string& told) { return safetensors(R"({"t":{)" + told + "}}", {1, 2}); };
  EXPECT_EQ(parse_safetensors(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])")).at("t").values[1], 2);
  for (const char* wrong : {R"("dtype":"F16","shape":[2],"data_offsets":[0,8])", R"("dtype":"F32","shape":[3],"data_offsets":[0,12])",
                            R"("dtype":"F32","shape":[2],"data_offsets":[4,12])", R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])",
                            R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])", R"("dtype":"F32","shape":[2])",
                            R"("dtype":"F32","shape":[16777216,16777216,16777216],"data_offsets":[0,8])"}) {
    EXPECT_THROW(parse_safetensors(one(wrong)), Refused) << wrong;
  }
  EXPECT_THROW(parse_safetensors("short"), Refused);
  EXPECT_THROW(parse_safetensors(std::string(8, '\xff')), Refused);
  EXPECT_THROW(parse_safetensors(safetensors("no json", {})), Error);
}

TEST(Network, IsRefusedWhereItIsNoneOfTheseLayers) {
  const std::string weights = bias_only({1, 2});
  EXPECT_EQ(Network(description("categorical", "choose"), weights).outputs(), 2);
  EXPECT_THROW(Network("{}", weights), Refused) << "a picture, memory, or an earlier release";
  EXPECT_THROW(Network(description("bernoulli", "choose"), weights), Refused);
  EXPECT_THROW(Network(description("categorical", "choose_each"), weights), Refused);
  EXPECT_THROW(Network(description("categorical", "choose", R"(,"quantiles":3)"), weights), Refused);
  EXPECT_THROW(Network(description("gaussian", "clip", R"(,"log_std":"missing")"), weights), Refused);
}

}  // namespace
}  // namespace auxilium::internal
