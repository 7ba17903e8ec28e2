#include "safetensors.h"

#include <cstring>

#include "auxilium/errors.h"
#include "json.h"

namespace auxilium::internal {
namespace {

constexpr std::uint64_t kLongestHeader = 1 << 20;

std::uint64_t length_of(const std::string& data) {
  if (data.size() < 8) throw Refused("the weights are no safetensors: " + std::to_string(data.size()) + " bytes");
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(data[i]);
  if (length > kLongestHeader || length > data.size() - 8) {
    throw Refused("the weights are no safetensors: their header has " + std::to_string(length) + " bytes");
  }
  return length;
}

Tensor tensor_of(const std::string& name, const google::protobuf::Struct& told, const char* numbers, std::size_t size) {
  if (text_of(told, "dtype") != "F32") {
    throw Refused("tensor " + name + " has the dtype " + text_of(told, "dtype") + "; F32 is understood");
  }
  Tensor tensor;
  std::uint64_t count = 1;
  const auto* shape = find(told, "shape");
  if (shape != nullptr) {
    for (const auto& one : shape->list_value().values()) {
      const double width = one.number_value();
      if (!(width >= 0 && width <= 1 << 24)) throw Refused("tensor " + name + " has a shape that is none");
      tensor.shape.push_back(static_cast<std::int64_t>(width));
      count *= static_cast<std::uint64_t>(width);
      if (count > size) throw Refused("tensor " + name + " is longer than the file");
    }
  }
  const auto* offsets = find(told, "data_offsets");
  const bool pair = offsets != nullptr && offsets->list_value().values_size() == 2;
  const double begin = pair ? offsets->list_value().values(0).number_value() : -1;
  const double end = pair ? offsets->list_value().values(1).number_value() : -1;
  if (!(begin >= 0 && end <= static_cast<double>(size) && end - begin == 4.0 * static_cast<double>(count))) {
    throw Refused("tensor " + name + " does not lie within the file");
  }
  tensor.values.resize(count);
  if (count > 0) std::memcpy(tensor.values.data(), numbers + static_cast<std::size_t>(begin), 4 * count);
  return tensor;
}

}  // namespace

std::map<std::string, Tensor> parse_safetensors(const std::string& data) {
  const std::uint64_t length = length_of(data);
  const google::protobuf::Struct header = parse_json(data.substr(8, length), "safetensors");
  const char* numbers = data.data() + 8 + length;
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, told] : header.fields()) {
    if (name == "__metadata__") continue;
    tensors[name] = tensor_of(name, told.struct_value(), numbers, data.size() - 8 - length);
  }
  return tensors;
}

}  // namespace auxilium::internal
