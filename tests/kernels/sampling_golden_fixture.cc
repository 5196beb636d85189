#include "tests/kernels/sampling_golden_fixture.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace caravan {
namespace {

float ReadFloat(std::istream& in) {
  std::string word;  // operator>> does not read "-inf"
  in >> word;
  return std::strtof(word.c_str(), nullptr);
}

std::pair<int32_t, double> ReadProbability(std::istream& in) {
  std::pair<int32_t, double> result;
  in >> result.first >> result.second;
  return result;
}

void ReadLine(const std::string& key, std::istream& in, SamplingCase* c) {
  if (key == "vocab") {
    int64_t vocab = 0;
    in >> vocab;
    c->logits.resize(static_cast<size_t>(vocab));
  } else if (key == "logits") {
    uint64_t seed = 0;
    double scale = 0;
    int dropped_bits = 0;
    in >> seed >> scale >> dropped_bits;
    c->logits = HashedLogits(seed, scale, dropped_bits, c->vocab());
  } else if (key == "bias") {
    TokenBias bias;
    in >> bias.token_id;
    bias.bias = ReadFloat(in);
    c->biases.push_back(bias);
  } else if (key == "count") {
    int32_t id = 0;
    uint32_t packed = 0;  // bit 31: in the prompt; the others: how often it was generated
    in >> id >> packed;
    if (packed >> 31 != 0) {
      c->history.insert(c->history.begin(), id);
      ++c->row.history_prompt;
    }
    c->history.insert(c->history.end(), packed & 0x7fffffffu, id);
  } else if (key == "kept") {
    c->kept.push_back(ReadProbability(in));
  } else if (key == "raw") {
    c->raw_logprobs.push_back(ReadProbability(in));
  } else if (key == "processed") {
    c->processed_logprobs.push_back(ReadProbability(in));
  } else if (key == "drawn") {
    for (int32_t id; in >> id;) c->drawn.push_back(id);
  } else if (key == "top_k") {
    in >> c->row.top_k;
  } else if (key == "seed") {
    in >> c->row.seed;
  } else if (key == "sample_index") {
    in >> c->row.sample_index;
  } else if (key == "position") {
    in >> c->row.position;
  } else {
    const std::pair<const char*, float*> floats[] = {{"repetition", &c->row.repetition_penalty},
                                                     {"frequency", &c->row.frequency_penalty},
                                                     {"presence", &c->row.presence_penalty},
                                                     {"temperature", &c->row.temperature},
                                                     {"top_p", &c->row.top_p},
                                                     {"min_p", &c->row.min_p}};
    for (const auto& [name, value] : floats) {
      if (key == name) {
        *value = ReadFloat(in);
        return;
      }
    }
    ADD_FAILURE() << "unknown key " << key;
  }
}

}  // namespace

SamplingRow SamplingCase::Row() const {
  SamplingRow result = row;
  result.biases = biases;
  result.history = history;
  return result;
}

std::vector<SamplingCase> ReadSamplingCases() {
  std::ifstream file(CARAVAN_SOURCE_DIR "/tests/golden/sampling.txt");
  std::vector<SamplingCase> cases;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    words >> key;
    if (key == "case") {
      words >> cases.emplace_back().name;
    } else if (key != "end") {
      ReadLine(key, words, &cases.back());
    }
  }
  EXPECT_GT(cases.size(), 100u) << "tests/golden/sampling.txt is missing or short";
  return cases;
}

std::vector<float> HashedLogits(uint64_t seed, double scale, int dropped_bits, int64_t vocab) {
  std::vector<float> logits;
  for (int64_t i = 0; i < vocab; ++i) {
    uint32_t h = static_cast<uint32_t>(static_cast<uint64_t>(i) * 2654435761u + seed * 0x9E3779B9u);
    h ^= h >> 15;
    h *= 0x2C1B3C6Du;
    h ^= h >> 12;
    const uint32_t product = ((h & 0xFFF) * ((h >> 12) & 0xFFF)) >> dropped_bits << dropped_bits;
    logits.push_back(static_cast<float>(product * 0x1p-24 * scale - scale / 2));
  }
  return logits;
}

}  // namespace caravan
