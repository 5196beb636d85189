#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace caravan {

// The byte offset of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7:
// no overlong forms, no surrogates, nothing above U+10FFFF), or nullopt where all is well.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

}  // namespace caravan
