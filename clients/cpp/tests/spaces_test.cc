#include <gtest/gtest.h>

#include <cmath>

#include "auxilium/errors.h"
#include "auxilium/space.h"
#include "packer.h"

namespace auxilium {
namespace {

TEST(Space, BoxesHaveAsManyBoundsAsNumbers) {
  EXPECT_EQ(Space::box(-1, 1, {2, 3}).size(), 6U);
  EXPECT_EQ(Space::box({0, 0}, {1, 2}).shape, std::vector<std::int64_t>{2});
  EXPECT_THROW(Space::box({0}, {1, 2}), InvalidArgument);
  EXPECT_THROW(Space::box({0, 0}, {1, 2}, {3}), InvalidArgument);
  EXPECT_THROW(Space::box({2}, {1}), InvalidArgument);
  EXPECT_THROW(Space::box({NAN}, {1}), InvalidArgument);
  EXPECT_THROW(Space::box(0, 1, {0}), InvalidArgument);
}

TEST(Space, ThereIsSomethingToChoose) {
  EXPECT_EQ(Space::discrete(3, 1).n, 3);
  EXPECT_THROW(Space::discrete(0), InvalidArgument);
}

TEST(Space, TravelsAsTheContractSays) {
  const auto box = internal::message_of(Space::box(-INFINITY, 1, {2}));
  EXPECT_EQ(box.dtype(), ::simulation::v2::DTYPE_FLOAT32);
  EXPECT_EQ(box.shape(0), 2);
  EXPECT_EQ(box.box().low().size(), 8U);
  const auto discrete = internal::message_of(Space::discrete(3, 1));
  EXPECT_EQ(discrete.discrete().n(), 3);
  EXPECT_EQ(discrete.discrete().start(), 1);
}

}  // namespace
}  // namespace auxilium
