// Files on the wire: compressed, or as the compressed difference to a file that is here already.
#pragma once

#include <string>

#include "auxilium/v1/policies.pb.h"

namespace auxilium::internal {

// The file; `base` is what is here, which may be empty. Throws Error when it has not the hash it should have.
std::string unpack_payload(const ::auxilium::v1::Payload& payload, const std::string& base);

// In hexadecimal digits.
std::string sha256_of(const std::string& data);

}  // namespace auxilium::internal
