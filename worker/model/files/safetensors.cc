#include "worker/model/files/safetensors.h"

#include <algorithm>
#include <limits>

#include "common/status.h"
#include "worker/model/files/json_reader.h"

namespace caravan {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr size_t kMaxDimensions = 8;

absl::Status Wrong(const std::string& path, const std::string& tensor, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", tensor, ": ", problem));
}

// A non-negative int64, or -1.
int64_t AsSize(const nlohmann::json& value) {
  if (!value.is_number_integer()) return -1;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return -1;
  }
  return std::max<int64_t>(value.get<int64_t>(), -1);
}

// Shape, dtype and offsets of one header entry; `data` is where offset 0 lies.
absl::Status ParseTensor(const std::string& path, const nlohmann::json& entry,
                         const std::byte* data, int64_t data_bytes, TensorInfo* info) {
  if (!entry.is_object()) {
    return Wrong(path, info->name, absl::StrCat("expected an object, found ", Brief(entry)));
  }
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto offsets = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) {
    return Wrong(path, info->name, "dtype is missing or not a string");
  }
  info->dtype_name = dtype->get<std::string>();
  const int64_t element_bytes = ElementBytes(info->dtype_name);
  if (element_bytes == 0) {
    return Wrong(path, info->name, absl::StrCat("unknown dtype ", Brief(*dtype)));
  }
  if (shape == entry.end() || !shape->is_array() || shape->size() > kMaxDimensions) {
    return Wrong(
        path, info->name,
        absl::StrCat("shape is missing, no list or has more than ", kMaxDimensions, " dimensions"));
  }
  int64_t expected = element_bytes;
  for (const nlohmann::json& dimension : *shape) {
    const int64_t size = AsSize(dimension);
    if (size < 0 || __builtin_mul_overflow(expected, size, &expected)) {
      return Wrong(path, info->name,
                   absl::StrCat("shape ", shape->dump(), " is negative or too large"));
    }
    info->shape.push_back(size);
  }
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return Wrong(path, info->name, "data_offsets is missing or not a list of two");
  }
  const int64_t begin = AsSize((*offsets)[0]);
  const int64_t end = AsSize((*offsets)[1]);
  if (begin < 0 || end < begin) {
    return Wrong(path, info->name,
                 absl::StrCat("data_offsets ", offsets->dump(), " are not ascending sizes"));
  }
  if (end - begin != expected) {
    return Wrong(path, info->name,
                 absl::StrCat("shape ", info->ShapeText(), " of ", info->dtype_name, " takes ",
                              expected, " bytes, data_offsets have ", end - begin));
  }
  if (end > data_bytes) {
    return Wrong(path, info->name,
                 absl::StrCat("ends at byte ", end, " of the data, the file has ", data_bytes,
                              ": it is truncated"));
  }
  info->data = data + begin;
  info->bytes = end - begin;
  return absl::OkStatus();
}

// The tensors must tile the data: no overlap, no hole, no rest.
absl::Status CheckTiling(const std::string& path, const std::vector<TensorInfo>& tensors,
                         const std::byte* data, int64_t data_bytes) {
  std::vector<const TensorInfo*> by_offset;
  by_offset.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return a->data != b->data ? a->data < b->data : a->bytes < b->bytes;
  });
  const std::byte* covered = data;
  const TensorInfo* previous = nullptr;
  for (const TensorInfo* tensor : by_offset) {
    if (tensor->data < covered) {
      return Wrong(path, tensor->name,
                   absl::StrCat("overlaps tensor ", previous->name, ": begins at byte ",
                                tensor->data - data, ", that one ends at ", covered - data));
    }
    if (tensor->data > covered) {
      return Wrong(path, tensor->name,
                   absl::StrCat("begins at byte ", tensor->data - data, " of the data, but bytes ",
                                covered - data, " on belong to no tensor"));
    }
    covered = tensor->data + tensor->bytes;
    previous = tensor;
  }
  if (covered - data != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tensors take ", covered - data,
                                                   " bytes of data, the file has ", data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile map, MappedFile::Open(path));
  if (map.bytes() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", map.bytes(), " bytes, too few for a safetensors header"));
  }
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile(std::move(map)));
  RETURN_IF_ERROR(file->ParseHeader());
  return file;
}

absl::Status SafetensorsFile::ParseHeader() {
  const std::byte* begin = map_.data();
  uint64_t header_bytes = 0;
  for (int64_t i = kLengthBytes - 1; i >= 0; --i) {
    header_bytes = header_bytes << 8 | std::to_integer<uint64_t>(begin[i]);
  }
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": header length is ", header_bytes,
                                                   ", must be at most ", kMaxHeaderBytes,
                                                   ": not a safetensors file?"));
  }
  const auto header_length = static_cast<int64_t>(header_bytes);
  if (header_length > map_.bytes() - kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": header length is ", header_length,
                                                   ", the file has ", map_.bytes() - kLengthBytes,
                                                   " bytes after it: it is truncated"));
  }
  const std::string_view text(reinterpret_cast<const char*>(begin + kLengthBytes),
                              static_cast<size_t>(header_length));
  ASSIGN_OR_RETURN(const nlohmann::json header, ParseJsonObject(text, path() + ": header"));
  const std::byte* data = begin + kLengthBytes + header_length;
  const int64_t data_bytes = map_.bytes() - kLengthBytes - header_length;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    TensorInfo info;
    info.name = name;
    RETURN_IF_ERROR(ParseTensor(path(), entry, data, data_bytes, &info));
    tensors_.push_back(std::move(info));
  }
  return CheckTiling(path(), tensors_, data, data_bytes);
}

}  // namespace caravan
