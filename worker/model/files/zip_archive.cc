#include "worker/model/files/zip_archive.h"

#include <algorithm>
#include <cstdint>

#include "common/status.h"

namespace caravan {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kDirectorySignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr size_t kMaxCommentBytes = 65535;
constexpr uint32_t kIn64 = 0xffffffff;  // the value stands in the zip64 field
constexpr uint16_t kZip64Field = 1;
constexpr uint64_t kMaxEntries = 1 << 20;

// Little-endian numbers, one after the other; the first that lies outside makes failed() true, and
// it and all later ones 0.
class Fields {
 public:
  Fields(std::string_view bytes, uint64_t offset) : bytes_(bytes), next_(offset) {}

  uint16_t U16() { return static_cast<uint16_t>(Number(2)); }
  uint32_t U32() { return static_cast<uint32_t>(Number(4)); }
  uint64_t U64() { return Number(8); }
  std::string_view Text(uint64_t size) {
    if (failed_ || next_ > bytes_.size() || size > bytes_.size() - next_) {
      failed_ = true;
      return {};
    }
    const std::string_view text = bytes_.substr(next_, size);
    next_ += size;
    return text;
  }
  void Skip(uint64_t size) { Text(size); }
  uint64_t next() const { return next_; }
  bool failed() const { return failed_; }

 private:
  uint64_t Number(size_t size) {
    const std::string_view text = Text(size);
    uint64_t value = 0;
    for (size_t i = text.size(); i > 0; --i) {
      value = value << 8 | static_cast<unsigned char>(text[i - 1]);
    }
    return value;
  }

  std::string_view bytes_;
  uint64_t next_;
  bool failed_ = false;
};

struct Directory {
  uint64_t entries = 0;
  uint64_t offset = 0;
};

struct Entry {
  std::string name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint64_t stored_bytes = 0;
  uint64_t bytes = 0;
  uint64_t local_offset = 0;
};

absl::Status Wrong(const std::string& file, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", problem));
}

absl::StatusOr<Directory> ReadEnd64(std::string_view bytes, const std::string& file,
                                    uint64_t end_offset) {
  if (end_offset < kEnd64LocatorBytes) return Wrong(file, "its zip64 directory is missing");
  Fields locator(bytes, end_offset - kEnd64LocatorBytes);
  if (locator.U32() != kEnd64LocatorSignature) return Wrong(file, "its zip64 directory is missing");
  locator.Skip(4);
  Fields end(bytes, locator.U64());
  if (end.U32() != kEnd64Signature) return Wrong(file, "its zip64 directory is damaged");
  end.Skip(8 + 2 + 2 + 4 + 4 + 8);
  Directory directory;
  directory.entries = end.U64();
  end.Skip(8);
  directory.offset = end.U64();
  if (end.failed()) return Wrong(file, "its zip64 directory is truncated");
  return directory;
}

// The end record is the last thing in the file, but for a comment.
absl::StatusOr<Directory> ReadEnd(std::string_view bytes, const std::string& file) {
  const size_t least = bytes.size() - std::min(bytes.size(), kEndBytes + kMaxCommentBytes);
  for (size_t offset = bytes.size(); offset-- > least;) {
    if (bytes.size() - offset < kEndBytes) continue;
    Fields end(bytes, offset);
    if (end.U32() != kEndSignature) continue;
    end.Skip(2 + 2 + 2);
    Directory directory;
    directory.entries = end.U16();
    end.Skip(4);
    directory.offset = end.U32();
    if (end.failed()) break;
    const bool is_64 = directory.entries == 0xffff || directory.offset == kIn64;
    return is_64 ? ReadEnd64(bytes, file, offset) : directory;
  }
  return Wrong(file,
               "is no zip file, or a truncated one (torch before 1.6 wrote another format, which "
               "is not read: save it again with a newer one)");
}

// Sizes and offset that did not fit 32 bits.
void ReadZip64Field(std::string_view extra, Entry* entry) {
  Fields fields(extra, 0);
  while (!fields.failed()) {
    const uint16_t id = fields.U16();
    const std::string_view content = fields.Text(fields.U16());
    if (id != kZip64Field || fields.failed()) continue;
    Fields wide(content, 0);
    if (entry->bytes == kIn64) entry->bytes = wide.U64();
    if (entry->stored_bytes == kIn64) entry->stored_bytes = wide.U64();
    if (entry->local_offset == kIn64) entry->local_offset = wide.U64();
    return;
  }
}

absl::StatusOr<Entry> ReadEntry(Fields& fields, const std::string& file) {
  Entry entry;
  const bool is_entry = fields.U32() == kDirectorySignature;
  fields.Skip(2 + 2);
  entry.flags = fields.U16();
  entry.method = fields.U16();
  fields.Skip(2 + 2 + 4);
  entry.stored_bytes = fields.U32();
  entry.bytes = fields.U32();
  const uint16_t name_bytes = fields.U16();
  const uint16_t extra_bytes = fields.U16();
  const uint16_t comment_bytes = fields.U16();
  fields.Skip(2 + 2 + 4);
  entry.local_offset = fields.U32();
  entry.name = std::string(fields.Text(name_bytes));
  ReadZip64Field(fields.Text(extra_bytes), &entry);
  fields.Skip(comment_bytes);
  if (!is_entry || fields.failed()) return Wrong(file, "its zip directory is damaged or truncated");
  return entry;
}

absl::StatusOr<std::string_view> ContentOf(const Entry& entry, std::string_view bytes,
                                           const std::string& file) {
  const auto wrong = [&](const char* problem) {
    return Wrong(file, absl::StrCat("entry ", entry.name, " ", problem));
  };
  if ((entry.flags & 1) != 0) return wrong("is encrypted");
  if (entry.method != 0 || entry.stored_bytes != entry.bytes) {
    return wrong("is compressed; torch stores tensors as they are");
  }
  Fields local(bytes, entry.local_offset);
  if (local.U32() != kLocalSignature) return wrong("has no header where the directory says");
  local.Skip(2 + 2 + 2 + 2 + 2 + 4 + 4 + 4);
  const uint16_t name_bytes = local.U16();
  const uint16_t extra_bytes = local.U16();
  local.Skip(name_bytes);
  local.Skip(extra_bytes);
  const std::string_view content = local.Text(entry.bytes);
  if (local.failed()) return wrong("ends behind the file: it is truncated");
  return content;
}

}  // namespace

absl::StatusOr<ZipEntries> ReadStoredZip(std::string_view bytes, const std::string& file) {
  ASSIGN_OR_RETURN(const Directory directory, ReadEnd(bytes, file));
  if (directory.entries > kMaxEntries) {
    return Wrong(file, absl::StrCat("has ", directory.entries, " zip entries, at most ",
                                    kMaxEntries, " are read"));
  }
  ZipEntries entries;
  Fields fields(bytes, directory.offset);
  for (uint64_t i = 0; i < directory.entries; ++i) {
    ASSIGN_OR_RETURN(const Entry entry, ReadEntry(fields, file));
    ASSIGN_OR_RETURN(const std::string_view content, ContentOf(entry, bytes, file));
    if (!entries.emplace(entry.name, content).second) {
      return Wrong(file, absl::StrCat("entry ", entry.name, " is there twice"));
    }
  }
  return entries;
}

}  // namespace caravan
