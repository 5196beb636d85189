#include "gateway/triton/http/message_json.h"

#include <string>
#include <utility>

#include "google/protobuf/descriptor.h"

namespace caravan {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using OrderedJson = nlohmann::ordered_json;

OrderedJson EnumToJson(const EnumValueDescriptor* value) { return value->name(); }

OrderedJson SingularToJson(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->GetInt64(message, field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->GetUInt64(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetDouble(message, field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection->GetFloat(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumToJson(reflection->GetEnum(message, field));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->GetString(message, field);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(reflection->GetMessage(message, field));
  }
  return nullptr;
}

OrderedJson ElementToJson(const Message& message, const FieldDescriptor* field, int i) {
  const Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->GetRepeatedInt32(message, field, i);
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->GetRepeatedInt64(message, field, i);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->GetRepeatedUInt32(message, field, i);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->GetRepeatedUInt64(message, field, i);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetRepeatedDouble(message, field, i);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection->GetRepeatedFloat(message, field, i);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetRepeatedBool(message, field, i);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumToJson(reflection->GetRepeatedEnum(message, field, i));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->GetRepeatedString(message, field, i);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(reflection->GetRepeatedMessage(message, field, i));
  }
  return nullptr;
}

std::string KeyOf(const OrderedJson& key) {
  return key.is_string() ? key.get<std::string>() : key.dump();
}

OrderedJson MapToJson(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  std::map<std::string, OrderedJson> sorted;
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, field, i);
    sorted[KeyOf(SingularToJson(entry, field->message_type()->map_key()))] =
        SingularToJson(entry, field->message_type()->map_value());
  }
  OrderedJson json = OrderedJson::object();
  for (auto& [key, value] : sorted) json[key] = std::move(value);
  return json;
}

OrderedJson RepeatedToJson(const Message& message, const FieldDescriptor* field) {
  OrderedJson json = OrderedJson::array();
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    json.push_back(ElementToJson(message, field, i));
  }
  return json;
}

}  // namespace

OrderedJson MessageToJson(const Message& message) {
  OrderedJson json = OrderedJson::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->is_map()) {
      json[field->name()] = MapToJson(message, field);
    } else if (field->is_repeated()) {
      json[field->name()] = RepeatedToJson(message, field);
    } else if (!field->has_presence() || message.GetReflection()->HasField(message, field)) {
      json[field->name()] = SingularToJson(message, field);
    }
  }
  return json;
}

}  // namespace caravan
