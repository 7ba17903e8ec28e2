// The format of https://github.com/huggingface/safetensors: a length, a JSON header, the numbers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace auxilium::internal {

struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // C order
};

// Throws Refused for bytes that are no such file, or hold anything but float32.
std::map<std::string, Tensor> parse_safetensors(const std::string& data);

}  // namespace auxilium::internal
