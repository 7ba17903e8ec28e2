// JSON values as protobuf's Struct, which comes with gRPC.
#pragma once

#include <google/protobuf/struct.pb.h>

#include <string>

namespace auxilium::internal {

// Throws InvalidArgument, naming `where`, for what is no JSON object.
google::protobuf::Struct parse_json(const std::string& text, const std::string& where);

// A field of an object; null: it is not there.
const google::protobuf::Value* find(const google::protobuf::Struct& object, const std::string& key);
// Text of a field; empty: it is not there, or is no text.
std::string text_of(const google::protobuf::Struct& object, const std::string& key);
double number_of(const google::protobuf::Struct& object, const std::string& key, double otherwise);

}  // namespace auxilium::internal
