#include "gateway/triton/grpc/response_encoder.h"

#include <utility>

#include "absl/container/inlined_vector.h"
#include "inference/grpc_service.pb.h"

namespace caravan {
namespace {

using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;
using ParameterMessage = inference::InferParameter;
using TensorMessage = ModelInferResponse::InferOutputTensor;

// Tensors of so many bytes are slices of their own; smaller ones are copied behind what precedes.
constexpr size_t kOwnSliceBytes = 16 << 10;
// Room in front for the tag and length that make it a field of the stream's message.
constexpr size_t kFrontBytes = 11;
// The fields of a map's entries.
constexpr int kKeyField = 1;
constexpr int kValueField = 2;

// Protocol Buffers' wire types.
enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2 };

uint64_t Tag(int field, WireType type) {
  return static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type);
}

size_t WriteVarint(uint64_t value, char* out) {
  size_t size = 0;
  for (; value >= 0x80; value >>= 7) out[size++] = static_cast<char>(value | 0x80);
  out[size++] = static_cast<char>(value);
  return size;
}

grpc::Slice OwnSlice(std::string data) {
  auto* owned = new std::string(std::move(data));
  return {owned->data(), owned->size(),
          [](void* string) { delete static_cast<std::string*>(string); }, owned};
}

// Copies what is in the buffer from `begin` on.
grpc::Slice CopySlice(const std::string& buffer, size_t begin) {
  return {buffer.data() + begin, buffer.size() - begin};
}

}  // namespace

void ResponseEncoder::AppendVarint(uint64_t value) {
  if (value < 0x80) return buffer_.push_back(static_cast<char>(value));
  char bytes[10];
  buffer_.append(bytes, WriteVarint(value, bytes));
}

void ResponseEncoder::AppendField(int field, std::string_view bytes) {
  AppendVarint(Tag(field, WireType::kLengthDelimited));
  AppendVarint(bytes.size());
  buffer_.append(bytes);
}

size_t ResponseEncoder::BeginMessage(int field) {
  AppendVarint(Tag(field, WireType::kLengthDelimited));
  buffer_.push_back('\0');
  return buffer_.size();
}

void ResponseEncoder::EndMessage(size_t begin) {
  const size_t length = buffer_.size() - begin;
  buffer_[begin - 1] = static_cast<char>(length);
  if (length < 0x80) return;
  char bytes[10];
  buffer_.replace(begin - 1, 1, bytes, WriteVarint(length, bytes));
}

void ResponseEncoder::AppendParameter(int field, std::string_view name,
                                      const InferParameter& value) {
  const size_t entry = BeginMessage(field);
  AppendField(kKeyField, name);
  const size_t parameter = BeginMessage(kValueField);
  const auto append = [this](int number, uint64_t content) {
    AppendVarint(Tag(number, WireType::kVarint));
    AppendVarint(content);
  };
  if (const auto* as_bool = std::get_if<bool>(&value)) {
    append(ParameterMessage::kBoolParamFieldNumber, *as_bool ? 1 : 0);
  } else if (const auto* as_int = std::get_if<int64_t>(&value)) {
    append(ParameterMessage::kInt64ParamFieldNumber, static_cast<uint64_t>(*as_int));
  } else if (const auto* as_uint = std::get_if<uint64_t>(&value)) {
    append(ParameterMessage::kUint64ParamFieldNumber, *as_uint);
  } else if (const auto* as_double = std::get_if<double>(&value)) {
    AppendVarint(Tag(ParameterMessage::kDoubleParamFieldNumber, WireType::kFixed64));
    AppendElement(*as_double, &buffer_);
  } else {
    AppendField(ParameterMessage::kStringParamFieldNumber, std::get<std::string>(value));
  }
  EndMessage(parameter);
  EndMessage(entry);
}

void ResponseEncoder::AppendTensor(const InferOutput& output) {
  const size_t tensor = BeginMessage(ModelInferResponse::kOutputsFieldNumber);
  AppendField(TensorMessage::kNameFieldNumber, output.name);
  AppendField(TensorMessage::kDatatypeFieldNumber, NameOf(output.datatype));
  const size_t shape = BeginMessage(TensorMessage::kShapeFieldNumber);
  for (const int64_t dimension : output.shape) AppendVarint(static_cast<uint64_t>(dimension));
  EndMessage(shape);
  for (const auto& [name, value] : output.parameters) {
    AppendParameter(TensorMessage::kParametersFieldNumber, name, value);
  }
  EndMessage(tensor);
}

// All but the tensors' data.
void ResponseEncoder::AppendHead(const InferResponse& response) {
  AppendField(ModelInferResponse::kModelNameFieldNumber, response.model_name);
  AppendField(ModelInferResponse::kModelVersionFieldNumber, response.model_version);
  if (!response.id.empty()) AppendField(ModelInferResponse::kIdFieldNumber, response.id);
  constexpr int kParameters = ModelInferResponse::kParametersFieldNumber;
  for (const auto& [name, value] : response.parameters) AppendParameter(kParameters, name, value);
  if (response.final.has_value()) AppendParameter(kParameters, kFinalResponse, *response.final);
  for (const InferOutput& output : response.outputs) AppendTensor(output);
}

grpc::ByteBuffer ResponseEncoder::Assemble(InferResponse&& response, bool in_stream) {
  buffer_.assign(kFrontBytes, '\0');
  AppendHead(response);
  const uint64_t raw_tag =
      Tag(ModelInferResponse::kRawOutputContentsFieldNumber, WireType::kLengthDelimited);
  size_t begin = kFrontBytes;
  if (in_stream) {
    char bytes[10];
    size_t size = buffer_.size() - kFrontBytes;
    for (const InferOutput& output : response.outputs) {
      size += 1 + WriteVarint(output.data.size(), bytes) + output.data.size();
    }
    const size_t length = WriteVarint(size, bytes);
    begin -= length + 1;
    buffer_[begin] = static_cast<char>(
        Tag(ModelStreamInferResponse::kInferResponseFieldNumber, WireType::kLengthDelimited));
    buffer_.replace(begin + 1, length, bytes, length);
  }
  absl::InlinedVector<grpc::Slice, 4> slices;
  for (InferOutput& output : response.outputs) {
    AppendVarint(raw_tag);
    AppendVarint(output.data.size());
    if (output.data.size() < kOwnSliceBytes) {
      buffer_.append(output.data);
      continue;
    }
    slices.push_back(CopySlice(buffer_, begin));
    slices.push_back(OwnSlice(std::move(output.data)));
    begin = buffer_.size();
  }
  if (begin < buffer_.size()) slices.push_back(CopySlice(buffer_, begin));
  return {slices.data(), slices.size()};
}

grpc::ByteBuffer ResponseEncoder::Encode(InferResponse response) {
  return Assemble(std::move(response), false);
}

grpc::ByteBuffer ResponseEncoder::EncodeInStream(InferResponse response) {
  return Assemble(std::move(response), true);
}

}  // namespace caravan
