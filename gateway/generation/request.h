// What a client asked, whatever its protocol: first as a front door wrote it down, then validated.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/served_model.h"

namespace caravan {

struct PromptPart {
  enum class Kind : uint8_t { kUnset, kText, kTokenIds, kEmbeddings, kMedia };
  Kind kind = Kind::kUnset;
  std::string text;
  std::vector<int32_t> token_ids;
  bool parse_special_tokens = false;
  bool omit_bos = false;
};

// A request as a front door fills it in; nothing is checked yet. Fields, ranges and defaults are
// those of the native API (generation.proto), whose field names the errors use.
struct RequestSpec {
  std::string request_id;
  std::string traceparent;  // W3C trace context, or empty
  std::string client;       // whom limits per client count: an address
  std::chrono::steady_clock::time_point arrival;
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  std::string model;
  std::string adapter;
  std::string tenant;
  std::vector<PromptPart> prompt;
  std::vector<int32_t> resume_token_ids;
  int32_t priority = 0;
  uint32_t num_samples = 1;
  bool has_response_format = false;
  std::vector<std::string> logits_processors;

  struct Sampling {
    float temperature = 1;
    uint32_t top_k = 0;
    float top_p = 1;
    float min_p = 0;
    float repetition_penalty = 1;
    float presence_penalty = 0;
    float frequency_penalty = 0;
    std::map<int32_t, float> logit_bias;
    std::vector<std::string> bad_words;
    std::vector<std::vector<int32_t>> bad_token_ids;
    std::optional<uint64_t> seed;  // set by validation where the client set none
    uint32_t beam_width = 1;       // 0 and 1: none
    float length_penalty = 0;
    float beam_diversity_rate = 0;
    uint32_t beam_snapshot_interval = 0;  // as worker.proto has them
    uint32_t beam_snapshot_offset = 0;
    float top_p_decay = 1;
    float top_p_min = 1e-6F;
    std::optional<int32_t> top_p_reset_id;
    bool penalize_prompt = false;
  } sampling;

  struct Stopping {
    uint32_t max_tokens = 0;  // 0: 16, or what the context has left if that is less
    uint32_t min_tokens = 0;
    std::vector<int32_t> stop_token_ids;
    std::vector<std::string> stop_strings;
    bool include_stop = false;
    bool ignore_eos = false;
    std::vector<std::vector<int32_t>> stop_token_sequences;
  } stopping;

  struct Output {
    std::optional<uint32_t> logprobs;
    bool echo_prompt = false;
    bool keep_special_tokens = false;
    bool no_text = false;
    bool processed_logprobs = false;
  } output;
};

// What a worker takes of bad words, each text of them in its two encodings.
inline constexpr size_t kMaxBadWordTokens = 1024;     // of one
inline constexpr size_t kMaxTokensOfBadWords = 4096;  // of all

// A request that keeps every rule which can be checked without the prompt's token ids. Only Make
// makes one, so nothing behind it checks again. Copies share the model.
class ValidatedRequest {
 public:
  // INVALID_ARGUMENT names the field, its value and the limit; NOT_FOUND an unknown model or
  // adapter, UNIMPLEMENTED what is not served yet, UNAVAILABLE that no replica was ever reached.
  // Draws the seed where it is unset, and a request id where that is empty. Any thread.
  static absl::StatusOr<ValidatedRequest> Make(RequestSpec spec, const ServedModels& models);

  const RequestSpec& spec() const { return spec_; }
  const ServedModel& model() const { return *model_; }
  uint64_t seed() const { return *spec_.sampling.seed; }
  bool has_beams() const { return spec_.sampling.beam_width > 1; }
  // Sequences that come out: samples or beams.
  uint32_t num_sequences() const {
    return has_beams() ? spec_.sampling.beam_width : spec_.num_samples;
  }
  // Beams come out in one burst, whose size is known here: tokens that a client must be given the
  // time to read. 0 without beams.
  int32_t burst_tokens() const;

  // Tokens to generate (resumed ones included) after a prompt of so many tokens; INVALID_ARGUMENT,
  // with both numbers, where prompt or output do not fit the model.
  absl::StatusOr<int32_t> MaxTokensAfter(size_t prompt_tokens) const;

 private:
  ValidatedRequest(RequestSpec spec, std::shared_ptr<const ServedModel> model)
      : spec_(std::move(spec)), model_(std::move(model)) {}

  RequestSpec spec_;
  std::shared_ptr<const ServedModel> model_;
};

// A new id for a request that brought none: "req-" and 16 hexadecimal digits.
std::string MakeRequestId();

}  // namespace caravan
