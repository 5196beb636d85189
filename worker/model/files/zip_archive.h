// The entries of a zip file whose bytes lie in it as they are, as torch.save writes it.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace caravan {

using ZipEntries = std::map<std::string, std::string_view>;

// Reads the directory (PKWARE APPNOTE 6.3.10, zip64 included) and checks every offset against
// `bytes`; `file` is named in errors. INVALID_ARGUMENT for what is no zip file, is truncated or
// has a compressed, encrypted or doubled entry. The entries point into `bytes`; their checksums are
// not verified.
absl::StatusOr<ZipEntries> ReadStoredZip(std::string_view bytes, const std::string& file);

}  // namespace caravan
