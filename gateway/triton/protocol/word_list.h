// Bad and stop words, in both of their forms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/triton/protocol/request_check.h"

namespace caravan {

// Most words of one line.
constexpr size_t kMaxLineWords = 256;

// Text form: one line of comma separated values, as Python's csv reads it: "" and a lone newline
// are no words, spaces stay, "…" quotes commas, newlines and (doubled) quotes. INVALID_ARGUMENT for
// a raw newline inside, as there, and for more than kMaxLineWords words. Empty words are left out.
// `field` is for the error.
absl::StatusOr<std::vector<std::string>> ParseWordLine(const std::string& field,
                                                       std::string_view line);

// Id form, of one row of an INT32 [rows, 2, N]: the ids of all words joined, then the end offset of
// each, -1 after the last. INVALID_ARGUMENT names the tensor where the offsets do not rise or leave
// the ids, or an id is not in [0, vocabulary_size).
using WordIds = std::vector<std::vector<int32_t>>;
absl::StatusOr<WordIds> ReadWordIds(const std::string& tensor, const CheckedInput& input,
                                    int64_t row, int32_t vocabulary_size);

// The same, the other way, for all rows: packed INT32 of shape [rows, 2, N].
struct PackedWordIds {
  Shape shape;
  std::string data;
};
PackedWordIds PackWordIds(const std::vector<WordIds>& rows);
// The N of it.
int64_t PackedWordIdsWidth(const std::vector<WordIds>& rows);

}  // namespace caravan
