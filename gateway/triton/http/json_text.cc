#include "gateway/triton/http/json_text.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace caravan {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBriefBytes = 60;

// What values cost beside the bytes that they were written with.
constexpr int64_t kScalarBytes = 16;
constexpr int64_t kStringBytes = 64;
constexpr int64_t kContainerBytes = 96;
constexpr int64_t kMemberBytes = 112;

// Builds the value while it is parsed, so that a bomb ends at the bound and not in memory.
class BoundedBuilder final : public nlohmann::json_sax<Json> {
 public:
  explicit BoundedBuilder(Json* root) : root_(root) {}

  const std::string& error() const { return error_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t& text) override { return Add(value); }
  bool string(string_t& value) override { return Charge(kStringBytes) && Add(std::move(value)); }
  bool binary(binary_t& value) override { return Fail("binary values are not JSON"); }
  bool start_object(std::size_t size) override { return Open(Json::object()); }
  bool start_array(std::size_t size) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (!Charge(kMemberBytes)) return false;
    const auto [member, is_new] = stack_.back()->emplace(name, nullptr);
    if (!is_new) return Fail(absl::StrCat("the name ", Brief(name), " occurs twice in an object"));
    member_ = &*member;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override {
    return Fail(absl::StrCat("invalid JSON at ", position));
  }

 private:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  // Where the next value goes.
  Json* Place(Json value) {
    Json* place = nullptr;
    if (stack_.empty()) {
      place = root_;
      *place = std::move(value);
    } else if (stack_.back()->is_array()) {
      place = &stack_.back()->emplace_back(std::move(value));
    } else {
      place = std::exchange(member_, nullptr);
      *place = std::move(value);
    }
    return place;
  }

  bool Charge(int64_t bytes) {
    memory_bytes_ += bytes;
    if (memory_bytes_ <= kMaxJsonMemoryBytes) return true;
    return Fail(absl::StrCat("its values take more than ", kMaxJsonMemoryBytes,
                             " bytes of memory, the limit; send large tensors as binary data"));
  }

  bool Add(Json value) {
    if (!Charge(kScalarBytes)) return false;
    Place(std::move(value));
    return true;
  }

  bool Open(Json value) {
    if (stack_.size() >= kMaxJsonDepth) {
      return Fail(absl::StrCat("it nests more than ", kMaxJsonDepth, " levels deep"));
    }
    if (!Charge(kContainerBytes)) return false;
    stack_.push_back(Place(std::move(value)));
    return true;
  }

  bool Close() {
    stack_.pop_back();
    return true;
  }

  Json* const root_;
  std::vector<Json*> stack_;  // the open arrays and objects; what is below the top does not move
  Json* member_ = nullptr;
  int64_t memory_bytes_ = 0;
  std::string error_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(std::string_view text) {
  Json root;
  BoundedBuilder builder(&root);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(
        absl::StrCat("failed to parse the request JSON buffer: ", builder.error()));
  }
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "failed to parse the request JSON buffer: expected an object, found ", Brief(root)));
  }
  return root;
}

std::string ToText(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string Brief(const Json& value) {
  if (value.is_array()) return absl::StrCat("an array of ", value.size());
  if (value.is_object()) return "an object";
  std::string text = value.is_string() && value.get_ref<const std::string&>().size() > 1000
                         ? "a long string"
                         : value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMaxBriefBytes) text = text.substr(0, kMaxBriefBytes) + "…";
  return text;
}

const Json* FindMember(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

}  // namespace caravan
