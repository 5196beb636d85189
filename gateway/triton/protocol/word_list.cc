#include "gateway/triton/protocol/word_list.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace caravan {

absl::StatusOr<std::vector<std::string>> ParseWordLine(const std::string& field,
                                                       std::string_view line) {
  enum class State : uint8_t { kStart, kPlain, kQuoted, kQuoteInQuoted };
  std::vector<std::string> words;
  std::string word;
  State state = State::kStart;
  const auto finish = [&] {
    if (!word.empty()) words.push_back(std::exchange(word, {}));
    state = State::kStart;
  };
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (state == State::kQuoted) {
      if (c == '"') {
        state = State::kQuoteInQuoted;
      } else {
        word.push_back(c);
      }
    } else if (state == State::kQuoteInQuoted && c == '"') {
      word.push_back(c);
      state = State::kQuoted;
    } else if (state == State::kStart && c == '"') {
      state = State::kQuoted;
    } else if (c == ',') {
      finish();
      if (words.size() > kMaxLineWords) break;
    } else if (c == '\n' || c == '\r') {
      // At the end of the line it ends the line; elsewhere Python's csv refuses it.
      if (line.find_first_not_of("\r\n", i) == std::string_view::npos) break;
      return absl::InvalidArgumentError(absl::StrCat(
          field, ": new-line character seen in unquoted field; put quotes around the word"));
    } else {
      word.push_back(c);
      state = State::kPlain;
    }
  }
  finish();
  if (words.size() > kMaxLineWords) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has too many words; at most ", kMaxLineWords, " are allowed"));
  }
  return words;
}

absl::StatusOr<WordIds> ReadWordIds(const std::string& tensor, const CheckedInput& input,
                                    int64_t row, int32_t vocabulary_size) {
  const auto width = static_cast<size_t>(input.shape[2]);
  const size_t ids = static_cast<size_t>(row) * 2 * width;
  const size_t offsets = ids + width;
  WordIds words;
  int32_t begin = 0;
  for (size_t i = 0; i < width; ++i) {
    const int32_t end = ElementAt<int32_t>(input.data, offsets + i);
    if (end < 0) break;
    if (end == begin) continue;
    if (end < begin || static_cast<size_t>(end) > width) {
      return absl::InvalidArgumentError(absl::StrCat(tensor, " of row ", row, ": end offset ", end,
                                                     " of word ", i, " is not in [", begin, ", ",
                                                     width, "]"));
    }
    std::vector<int32_t> word;
    for (int32_t k = begin; k < end; ++k) {
      const int32_t id = ElementAt<int32_t>(input.data, ids + static_cast<size_t>(k));
      if (id < 0 || id >= vocabulary_size) {
        return absl::InvalidArgumentError(absl::StrCat(tensor, " of row ", row, " has token id ",
                                                       id, "; it must be in [0, ", vocabulary_size,
                                                       ")"));
      }
      word.push_back(id);
    }
    words.push_back(std::move(word));
    begin = end;
  }
  return words;
}

int64_t PackedWordIdsWidth(const std::vector<WordIds>& rows) {
  size_t width = 1;
  for (const WordIds& words : rows) {
    size_t total = 0;
    for (const std::vector<int32_t>& word : words) total += word.size();
    width = std::max(width, total);
  }
  return static_cast<int64_t>(width);
}

PackedWordIds PackWordIds(const std::vector<WordIds>& rows) {
  const auto width = static_cast<size_t>(PackedWordIdsWidth(rows));
  PackedWordIds packed;
  packed.shape = {static_cast<int64_t>(rows.size()), 2, static_cast<int64_t>(width)};
  for (const WordIds& words : rows) {
    std::vector<int32_t> ids;
    std::vector<int32_t> ends;
    for (const std::vector<int32_t>& word : words) {
      ids.insert(ids.end(), word.begin(), word.end());
      ends.push_back(static_cast<int32_t>(ids.size()));
    }
    ids.resize(width, 0);
    ends.resize(width, -1);
    packed.data += Pack(ids) + Pack(ends);
  }
  return packed;
}

}  // namespace caravan
