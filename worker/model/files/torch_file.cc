#include "worker/model/files/torch_file.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr std::string_view kPickle = "/data.pkl";

std::string TextOf(const std::vector<int64_t>& sizes) {
  return absl::StrCat("[", absl::StrJoin(sizes, ", "), "]");
}

// Elements of the shape, and one beyond the last that the view reaches, both 0 for an empty shape;
// false where they overflow.
bool Extent(const PickledTensor& tensor, int64_t* elements, int64_t* end) {
  *elements = 1;
  *end = 1;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 0) {
      *elements = *end = 0;
      return true;
    }
    int64_t reach = 0;
    if (__builtin_mul_overflow(*elements, tensor.shape[i], elements) ||
        __builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(*end, reach, end)) {
      return false;
    }
  }
  return !__builtin_add_overflow(*end, tensor.offset, end);
}

bool IsDense(const PickledTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i > 0; --i) {
    if (tensor.shape[i - 1] != 1 && tensor.strides[i - 1] != expected) return false;
    expected *= tensor.shape[i - 1];
  }
  return true;
}

TensorPart WholeMatrix(const PickledTensor& tensor, const std::byte* data) {
  TensorPart part;
  part.rows = tensor.shape[0];
  part.cols = tensor.shape[1];
  part.data = data;
  part.row_stride = tensor.strides[0];
  part.col_stride = tensor.strides[1];
  return part;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TorchFile>> TorchFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile map, MappedFile::Open(path));
  auto file = std::unique_ptr<TorchFile>(new TorchFile(std::move(map)));
  RETURN_IF_ERROR(file->Parse());
  return file;
}

absl::Status TorchFile::Parse() {
  ASSIGN_OR_RETURN(const ZipEntries entries, ReadStoredZip(map_.text(), path()));
  const auto is_pickle = [](const auto& entry) {
    return std::string_view(entry.first).ends_with(kPickle);
  };
  const auto pickle = std::find_if(entries.begin(), entries.end(), is_pickle);
  if (pickle == entries.end() || std::count_if(entries.begin(), entries.end(), is_pickle) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": has no or several entries data.pkl: not a file of torch.save"));
  }
  const std::string folder = pickle->first.substr(0, pickle->first.size() - kPickle.size());
  const auto order = entries.find(folder + "/byteorder");
  if (order != entries.end() && order->second != "little") {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": its byte order is ",
                                                   std::string(order->second.substr(0, 16)),
                                                   ", only little is read"));
  }
  ASSIGN_OR_RETURN(const std::vector<PickledTensor> pickled,
                   ReadTensorPickle(pickle->second, path()));
  for (const PickledTensor& tensor : pickled) RETURN_IF_ERROR(Add(tensor, entries, folder));
  return absl::OkStatus();
}

absl::Status TorchFile::Add(const PickledTensor& pickled, const ZipEntries& entries,
                            const std::string& folder) {
  const auto wrong = [&](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path(), ": tensor ", pickled.name, ": ", what...));
  };
  const auto storage = entries.find(absl::StrCat(folder, "/data/", pickled.storage));
  if (storage == entries.end()) return wrong("its storage data/", pickled.storage, " is missing");
  const int64_t element_bytes = ElementBytes(pickled.dtype_name);
  int64_t storage_bytes = 0;
  if (__builtin_mul_overflow(pickled.storage_elements, element_bytes, &storage_bytes) ||
      storage_bytes != static_cast<int64_t>(storage->second.size())) {
    return wrong("its storage of ", pickled.storage_elements, " ", pickled.dtype_name,
                 " elements has ", storage->second.size(), " bytes");
  }
  int64_t elements = 0;
  int64_t end = 0;
  if (!Extent(pickled, &elements, &end) || pickled.offset < 0 || end > pickled.storage_elements) {
    return wrong("size ", TextOf(pickled.shape), " with strides ", TextOf(pickled.strides),
                 " from element ", pickled.offset, " exceeds its storage of ",
                 pickled.storage_elements, " elements");
  }
  TensorInfo info;
  info.name = pickled.name;
  info.dtype_name = pickled.dtype_name;
  info.shape = pickled.shape;
  info.data = reinterpret_cast<const std::byte*>(storage->second.data());
  if (elements > 0) info.data += pickled.offset * element_bytes;
  // A stride of 0 repeats elements: their number is bounded by the storage otherwise.
  if (__builtin_mul_overflow(elements, element_bytes, &info.bytes) || info.bytes > storage_bytes) {
    return wrong("it repeats elements of its storage");
  }
  if (!IsDense(pickled) && elements > 0) {
    if (pickled.shape.size() != 2) {
      return wrong("strides ", TextOf(pickled.strides), " of size ", TextOf(pickled.shape),
                   " are only read of matrices");
    }
    info.parts.push_back(WholeMatrix(pickled, info.data));
  }
  tensors_.push_back(std::move(info));
  return absl::OkStatus();
}

}  // namespace caravan
