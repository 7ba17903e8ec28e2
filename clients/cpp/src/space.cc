#include "auxilium/space.h"

#include <cmath>
#include <utility>

#include "auxilium/errors.h"

namespace auxilium {

Space Space::box(std::vector<float> low, std::vector<float> high, std::vector<std::int64_t> shape) {
  if (shape.empty()) shape = {static_cast<std::int64_t>(low.size())};
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    if (size < 1) throw InvalidArgument("shape", std::to_string(size) + " given; every size must be above 0");
    count *= size;
  }
  if (low.size() != high.size() || static_cast<std::int64_t>(low.size()) != count) {
    throw InvalidArgument("box", std::to_string(low.size()) + " low and " + std::to_string(high.size()) +
                                     " high given; the shape has " + std::to_string(count) + " numbers");
  }
  for (std::size_t i = 0; i < low.size(); ++i) {
    if (!(low[i] <= high[i])) {
      throw InvalidArgument("box", "low " + std::to_string(low[i]) + " and high " + std::to_string(high[i]) + " at " +
                                       std::to_string(i) + " given; low must not lie above high");
    }
  }
  Space space;
  space.kind = Kind::kBox;
  space.shape = std::move(shape);
  space.low = std::move(low);
  space.high = std::move(high);
  return space;
}

Space Space::box(float low, float high, std::vector<std::int64_t> shape) {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= size > 0 ? static_cast<std::size_t>(size) : 1;
  return box(std::vector<float>(count, low), std::vector<float>(count, high), std::move(shape));
}

Space Space::discrete(std::int64_t n, std::int64_t start) {
  if (n < 1) throw InvalidArgument("n", std::to_string(n) + " given; at least 1 choice is accepted");
  Space space;
  space.kind = Kind::kDiscrete;
  space.n = n;
  space.start = start;
  return space;
}

}  // namespace auxilium
