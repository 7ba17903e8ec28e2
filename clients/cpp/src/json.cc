#include "json.h"

#include <google/protobuf/util/json_util.h>

#include "auxilium/errors.h"

namespace auxilium::internal {

google::protobuf::Struct parse_json(const std::string& text, const std::string& where) {
  google::protobuf::Struct object;
  const auto status = google::protobuf::util::JsonStringToMessage(text, &object);
  if (!status.ok()) throw InvalidArgument(where, "no JSON object: " + std::string(status.message()));
  return object;
}

const google::protobuf::Value* find(const google::protobuf::Struct& object, const std::string& key) {
  const auto found = object.fields().find(key);
  return found == object.fields().end() ? nullptr : &found->second;
}

std::string text_of(const google::protobuf::Struct& object, const std::string& key) {
  const google::protobuf::Value* value = find(object, key);
  return value == nullptr ? "" : value->string_value();
}

double number_of(const google::protobuf::Struct& object, const std::string& key, double otherwise) {
  const google::protobuf::Value* value = find(object, key);
  return value != nullptr && value->has_number_value() ? value->number_value() : otherwise;
}

}  // namespace auxilium::internal
