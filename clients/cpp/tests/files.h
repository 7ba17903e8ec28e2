// Files as a server sends them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace auxilium::internal {

inline std::string safetensors(const std::string& header, const std::vector<float>& numbers) {
  std::string data;
  for (int i = 0; i < 8; ++i) data += static_cast<char>(header.size() >> (8 * i) & 255);
  data += header;
  data.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
  return data;
}

// A policy whose scores are `bias`, whatever it sees: one layer for one number.
inline std::string bias_only(const std::vector<float>& bias) {
  const std::string n = std::to_string(bias.size());
  const std::string middle = std::to_string(4 * bias.size());
  const std::string end = std::to_string(8 * bias.size());
  std::vector<float> numbers(bias.size(), 0.0F);
  numbers.insert(numbers.end(), bias.begin(), bias.end());
  return safetensors(R"({"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[)" + n + R"(,1],"data_offsets":[0,)" + middle +
                         R"(]},"b":{"dtype":"F32","shape":[)" + n + R"(],"data_offsets":[)" + middle + "," + end + "]}}",
                     numbers);
}

inline std::string description(const std::string& distribution, const std::string& finish, const std::string& more = "") {
  return R"({"distribution":")" + distribution + R"(","network":{"features":"flat","finish":")" + finish +
         R"(","layers":[{"weight":"w","bias":"b","activation":"none"}])" + more + "}}";
}

}  // namespace auxilium::internal
