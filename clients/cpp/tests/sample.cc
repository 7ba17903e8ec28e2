// Acts on observations from a file, for comparison with other languages:
//     sample DESCRIPTION WEIGHTS OBSERVATIONS MASKS|- SEED draw|best LOW HIGH
// A line for each: what is learned from, what is sent, and the log-probability. `LOW` and `HIGH` bound a Box.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "auxilium/errors.h"
#include "sampler.h"

namespace {

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

int main(int count, char** words) {
  if (count != 9) return 2;
  try {
    using namespace auxilium;
    internal::Network network(read(words[1]), read(words[2]));
    const std::size_t width = static_cast<std::size_t>(network.inputs());
    const auto outputs = network.outputs();
    const bool discrete = network.finish() == internal::Finish::kChoose;
    const Space action = discrete ? Space::discrete(outputs) : Space::box(std::stof(words[7]), std::stof(words[8]), {outputs});
    const internal::Sampler sampler(network, Space::box(-1, 1, {network.inputs()}), action, 0.1);
    const std::string numbers = read(words[3]);
    const std::string masks = std::strcmp(words[4], "-") == 0 ? "" : read(words[4]);
    internal::SplitMix64 random(std::stoull(words[5]));
    std::vector<float> row(width);
    for (std::size_t i = 0; (i + 1) * width * sizeof(float) <= numbers.size(); ++i) {
      std::memcpy(row.data(), numbers.data() + i * width * sizeof(float), width * sizeof(float));
      std::vector<std::uint8_t> mask;
      if (!masks.empty()) mask.assign(masks.begin() + i * outputs, masks.begin() + (i + 1) * outputs);
      const bool draw = std::strcmp(words[6], "draw") == 0;
      const internal::Drawn drawn = draw ? sampler.draw(row.data(), mask, random) : sampler.best(row.data(), mask);
      if (discrete) std::printf("%lld ", static_cast<long long>(drawn.index));
      for (const float one : drawn.taken) std::printf("%.9g ", one);
      for (const float one : drawn.sent) std::printf("%.9g ", one);
      std::printf("%.9g\n", drawn.log_prob);
    }
  } catch (const auxilium::Error& failed) {
    std::cerr << failed.what() << '\n';
    return 1;
  }
  return 0;
}
