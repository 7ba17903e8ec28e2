/// \file
/// What an agent sees and does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace auxilium {

/// A Box of float32 or a Discrete space, as Gymnasium has them.
struct Space {
  /// Which of the two.
  enum class Kind { kBox, kDiscrete };

  /// \param low,high bounds of each number, in C order; infinities are bounds too.
  /// \param shape empty: one dimension.
  /// \throws InvalidArgument sizes that differ, a NaN, or low above high.
  static Space box(std::vector<float> low, std::vector<float> high, std::vector<std::int64_t> shape = {});
  /// The same bounds for every number of a shape.
  static Space box(float low, float high, std::vector<std::int64_t> shape);
  /// `n` choices, counted from `start`. \throws InvalidArgument `n` below 1.
  static Space discrete(std::int64_t n, std::int64_t start = 0);

  /// Numbers of one element; 1 for a Discrete space.
  std::size_t size() const { return kind == Kind::kBox ? low.size() : 1; }

  Kind kind = Kind::kBox;           ///< Which of the two.
  std::vector<std::int64_t> shape;  ///< Of a Box.
  std::vector<float> low;           ///< Of a Box, one for each number.
  std::vector<float> high;          ///< Likewise.
  std::int64_t n = 0;               ///< Of a Discrete space: how many choices.
  std::int64_t start = 0;           ///< Of a Discrete space: the first one.
};

}  // namespace auxilium
