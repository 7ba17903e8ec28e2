// From steps of several episodes to the message of one chunk.
#pragma once

#include <vector>

#include "auxilium/space.h"
#include "auxilium/v1/experience.pb.h"
#include "episode.h"

namespace auxilium::internal {

// `mask_len`: 0: there are no masks.
::auxilium::v1::Chunk pack(std::int64_t seq, const std::vector<Rows>& taken, const Space& action, std::int64_t mask_len);

// As messages have it.
::simulation::v2::Space message_of(const Space& space);

}  // namespace auxilium::internal
