#include "gateway/triton/trace.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/regular_file.h"
#include "common/status.h"

namespace caravan {
namespace {

using nlohmann::json;

// So much of a tensor goes into a trace.
constexpr size_t kMaxTracedElements = 1024;
constexpr size_t kMaxTracedTextBytes = 64 << 10;

template <typename Value>
std::string JoinElements(std::string_view data) {
  std::string text;
  const size_t count = std::min(data.size() / sizeof(Value), kMaxTracedElements);
  for (size_t i = 0; i < count; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ",", ElementAt<Value>(data, i));
  }
  return text;
}

std::string TextOf(DataType type, std::string_view data) {
  switch (type) {
    case DataType::kUint32:
      return JoinElements<uint32_t>(data);
    case DataType::kInt32:
      return JoinElements<int32_t>(data);
    case DataType::kUint64:
      return JoinElements<uint64_t>(data);
    case DataType::kInt64:
      return JoinElements<int64_t>(data);
    case DataType::kFp32:
      return JoinElements<float>(data);
    case DataType::kBool: {
      std::string text;
      for (const char value : data.substr(0, kMaxTracedElements)) {
        absl::StrAppend(&text, text.empty() ? "" : ",", value != 0 ? "true" : "false");
      }
      return text;
    }
    case DataType::kBytes: {
      std::string text;
      for (const std::string_view element : UnpackBytes(data)) {
        if (text.size() >= kMaxTracedTextBytes) break;
        text.append(text.empty() ? "" : ",");
        text.append(element.substr(0, kMaxTracedTextBytes));
      }
      return text;
    }
    default:
      return "";
  }
}

std::string Dump(const json& object) {
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

struct TracedTensor {
  const std::string& name;
  DataType datatype;
  const Shape& shape;
  std::string_view data;
};

std::string TensorObject(uint64_t id, const char* activity, const TracedTensor& tensor) {
  std::string shape;
  for (const int64_t dimension : tensor.shape) {
    absl::StrAppend(&shape, shape.empty() ? "" : ",", dimension);
  }
  return Dump({{"id", id},
               {"activity", activity},
               {"tensor",
                {{"name", tensor.name},
                 {"data", TextOf(tensor.datatype, tensor.data)},
                 {"shape", shape},
                 {"dtype", NameOf(tensor.datatype)}}}});
}

std::vector<std::string> ObjectsOf(const RequestTrace& trace) {
  std::vector<std::string> objects;
  objects.push_back(Dump({{"id", trace.id},
                          {"model_name", trace.model_name},
                          {"model_version", trace.model_version},
                          {"request_id", trace.request_id}}));
  for (const auto& [name, when] : trace.timestamps) {
    const auto ns = std::chrono::nanoseconds(when.time_since_epoch()).count();
    json stamp = json::object({{"name", name}, {"ns", ns}});
    objects.push_back(Dump({{"id", trace.id}, {"timestamps", json::array({stamp})}}));
  }
  objects.insert(objects.end(), trace.tensors.begin(), trace.tensors.end());
  if (trace.tensors_left_out > 0) {
    objects.push_back(Dump({{"id", trace.id}, {"tensors_left_out", trace.tensors_left_out}}));
  }
  return objects;
}

}  // namespace

void RequestTrace::Stamp(const char* name) {
  if (settings.timestamps) timestamps.emplace_back(name, std::chrono::steady_clock::now());
}

bool RequestTrace::KeepsTensors() {
  if (!settings.tensors) return false;
  if (tensor_bytes < kMaxTensorBytes) return true;
  ++tensors_left_out;
  return false;
}

void RequestTrace::Keep(std::string object) {
  tensor_bytes += object.size();
  tensors.push_back(std::move(object));
}

void RequestTrace::AddTensor(const char* activity, const std::string& name,
                             const CheckedInput& input) {
  if (!KeepsTensors()) return;
  Keep(TensorObject(id, activity, {name, input.datatype, input.shape, input.data}));
}

void RequestTrace::AddTensor(const char* activity, const InferOutput& output) {
  if (!KeepsTensors()) return;
  Keep(TensorObject(id, activity, {output.name, output.datatype, output.shape, output.data}));
}

TraceWriter::~TraceWriter() {
  for (auto& [name, file] : files_) Close(file.get());
}

std::shared_ptr<RequestTrace> TraceWriter::Sample(TraceScope* scope) {
  if (!scope->Sample()) return nullptr;
  auto trace = std::make_shared<RequestTrace>();
  trace->id = next_id_++;
  trace->settings = scope->settings();
  return trace;
}

void TraceWriter::Close(File* file) {
  if (!file->stream.is_open()) return;
  file->stream << "]\n";
  file->stream.close();
  if (!file->stream) LogError("trace file not ended", {{"file", file->name}});
  file->stream.clear();
  file->complete = 0;
  file->bytes = 0;
}

absl::Status TraceWriter::Open(const TraceSettings& settings, File* file) {
  file->name = settings.file;
  if (settings.log_frequency > 0) absl::StrAppend(&file->name, ".", file->index);
  RETURN_IF_ERROR(CheckWritableFile(file->name));
  file->stream.open(file->name, std::ios::trunc);
  if (!file->stream.is_open()) return absl::UnavailableError(std::strerror(errno));
  ++file->index;
  return absl::OkStatus();
}

void TraceWriter::Write(const RequestTrace& trace) {
  std::unique_ptr<File>& file = files_[trace.settings.file];
  if (file == nullptr) file = std::make_unique<File>();
  if (!file->stream.is_open()) {
    const absl::Status opened = Open(trace.settings, file.get());
    if (!opened.ok()) return GiveUp(file.get(), std::string(opened.message()));
  }
  errno = 0;
  std::string text;
  for (const std::string& object : ObjectsOf(trace)) {
    absl::StrAppend(&text, file->bytes == 0 && text.empty() ? "[" : ",", object, "\n");
  }
  file->stream << text;
  file->stream.flush();
  if (!file->stream) {
    return GiveUp(file.get(), errno == 0 ? "it can't be written" : std::strerror(errno));
  }
  file->bytes += text.size();
  if (file->lost > 0)
    LogInfo("traces are written again", {{"file", file->name}, {"lost", file->lost}});
  file->lost = 0;
  const uint32_t frequency = trace.settings.log_frequency;
  if (++file->complete >= frequency && frequency > 0) Close(file.get());
}

// What is left is the traces before, so that the file is one that can be read. The next trace is
// tried again; the log has the first of those that are lost.
void TraceWriter::GiveUp(File* file, const std::string& error) {
  if (file->lost++ == 0) {
    LogError("trace not written",
             {{"file", file->name},
              {"error", error},
              {"note", "until one can be, traces are lost without a further line"}});
  }
  const bool was_open = file->stream.is_open();
  file->stream.close();
  file->stream.clear();
  if (!was_open) return;
  std::error_code ignored;
  std::filesystem::resize_file(file->name, file->bytes, ignored);
  file->stream.open(file->name, std::ios::app);
}

}  // namespace caravan
