#include "gateway/generation/beam_texts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr size_t kLongestCharacter = 4;  // bytes

bool Continues(const std::vector<int32_t>& token_ids, const std::vector<int32_t>& parent) {
  const size_t size = parent.size();
  if (size == 0 || size > token_ids.size()) return size == 0;
  // Beams differ at their ends.
  return parent[size - 1] == token_ids[size - 1] &&
         std::equal(parent.begin(), parent.end(), token_ids.begin());
}

}  // namespace

BeamTexts::BeamTexts(const RequestSpec& spec, std::shared_ptr<const Vocabulary> vocabulary,
                     const std::vector<int32_t>& prompt_token_ids)
    : keep_special_tokens_(spec.output.keep_special_tokens),
      include_stop_(spec.stopping.include_stop),
      min_tokens_(spec.stopping.min_tokens),
      vocabulary_(std::move(vocabulary)),
      root_(spec.stopping.stop_strings) {
  // What the prompt leaves of a character depends on its last bytes alone.
  std::string end;
  for (size_t i = prompt_token_ids.size(); i > 0 && end.size() < kLongestCharacter; --i) {
    if (static_cast<size_t>(prompt_token_ids[i - 1]) >= vocabulary_->tokens.size()) continue;
    bool at_start = false;
    end.insert(0, BytesOf(prompt_token_ids[i - 1], &at_start));
  }
  for (size_t i = prompt_token_ids.size(); i > 0 && root_.at_start; --i) {
    const int32_t id = prompt_token_ids[i - 1];
    root_.at_start = vocabulary_->special_token_ids.contains(id) && !keep_special_tokens_;
  }
  std::string whole;
  root_.assembler.Append(end, whole);
}

std::string_view BeamTexts::BytesOf(int32_t id, bool* at_start) const {
  if (!keep_special_tokens_ && vocabulary_->special_token_ids.contains(id)) return {};
  std::string_view bytes = vocabulary_->tokens[static_cast<size_t>(id)];
  if (*at_start && vocabulary_->word_token_ids.contains(id) && !bytes.empty()) {
    bytes.remove_prefix(1);
  }
  *at_start = false;
  return bytes;
}

absl::Status BeamTexts::Append(int32_t id, Beam* beam) const {
  beam->token_ids.push_back(id);
  if (beam->stopped) return absl::OkStatus();
  if (static_cast<size_t>(id) >= vocabulary_->tokens.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a beam has token id ", id, "; the tokenizer has ids from 0 to ",
                     static_cast<int64_t>(vocabulary_->tokens.size()) - 1));
  }
  std::string piece;
  beam->assembler.Append(BytesOf(id, &beam->at_start), piece);
  const StopStringMatcher::Result result = beam->matcher.Feed(piece, beam->num_shown < min_tokens_);
  ++beam->num_shown;
  beam->text += result.released;
  if (result.matched < 0) return absl::OkStatus();
  beam->stopped = true;
  if (include_stop_) beam->text += beam->matcher.stop_string(result.matched);
  return absl::OkStatus();
}

const BeamTexts::Beam& BeamTexts::ParentOf(const std::vector<int32_t>& token_ids,
                                           size_t likely) const {
  const Beam* longest = &root_;
  const auto take = [&](const Beam& beam) {
    const bool longer = beam.token_ids.size() > longest->token_ids.size();
    if (longer && Continues(token_ids, beam.token_ids)) longest = &beam;
  };
  if (likely < beams_.size()) take(beams_[likely]);
  for (const Beam& beam : beams_) take(beam);
  return *longest;
}

absl::Status BeamTexts::Decode(std::vector<BeamState>* beams) {
  std::vector<Beam> decoded;
  decoded.reserve(beams->size());
  for (BeamState& shown : *beams) {
    decoded.push_back(ParentOf(shown.token_ids, decoded.size()));
    Beam& beam = decoded.back();
    for (size_t i = beam.token_ids.size(); i < shown.token_ids.size(); ++i) {
      RETURN_IF_ERROR(Append(shown.token_ids[i], &beam));
    }
    shown.text = absl::StrCat(beam.text, beam.stopped ? "" : beam.matcher.held());
    if (!beam.stopped) continue;
    shown.token_ids.resize(beam.num_shown);
    shown.logprobs.resize(std::min(shown.logprobs.size(), beam.num_shown));
  }
  beams_ = std::move(decoded);
  return absl::OkStatus();
}

}  // namespace caravan
