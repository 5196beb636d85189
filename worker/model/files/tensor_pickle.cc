#include "worker/model/files/tensor_pickle.h"

#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "common/status.h"

namespace caravan {
namespace {

constexpr size_t kMaxPickleBytes = 16 << 20;
constexpr size_t kMaxValues = 1 << 20;  // 700 tensors take 20000
constexpr size_t kMaxTensors = 1 << 16;
constexpr size_t kMaxArguments = 16;  // of what makes a tensor; torch gives up to seven
constexpr size_t kMaxKeyBytes = 256;  // a storage's
constexpr char kOrderedDict[] = "collections.OrderedDict";
constexpr char kRebuildTensor[] = "torch._utils._rebuild_tensor_v2";
constexpr char kRebuildParameter[] = "torch._utils._rebuild_parameter";

enum class Kind : uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kTuple,
  kList,
  kDict,
  kGlobal,
  kStorage,
  kTensor,
  kMark
};

const char* NameOf(Kind kind) {
  constexpr const char* kNames[] = {"None",      "a bool",       "an int",
                                    "a float",   "a text",       "a tuple",
                                    "a list",    "a dictionary", "a class or function",
                                    "a storage", "a tensor",     "a mark"};
  return kNames[static_cast<size_t>(kind)];
}

// Refers to others by their number, so that what contains itself is no trouble.
struct Value {
  Kind kind = Kind::kNone;
  int64_t number = 0;               // kInt, kBool; kStorage: elements; kTensor: in `tensors_`
  std::string text = {};            // kText; kGlobal: module.name; kStorage: key
  std::string dtype_name = {};      // kStorage
  std::vector<int32_t> items = {};  // kTuple, kList; kDict: key, value, key, …
};

// A name of the file for an error.
std::string Brief(const std::string& name) {
  constexpr size_t kMaxBytes = 200;
  return name.size() <= kMaxBytes ? name : name.substr(0, kMaxBytes) + "…";
}

const char* DtypeOfStorage(const std::string& global) {
  static const auto& names = *new std::map<std::string, const char*>{
      {"torch.FloatStorage", "F32"},     {"torch.HalfStorage", "F16"},
      {"torch.BFloat16Storage", "BF16"}, {"torch.DoubleStorage", "F64"},
      {"torch.LongStorage", "I64"},      {"torch.IntStorage", "I32"},
      {"torch.ShortStorage", "I16"},     {"torch.CharStorage", "I8"},
      {"torch.ByteStorage", "U8"},       {"torch.BoolStorage", "BOOL"}};
  const auto found = names.find(global);
  return found == names.end() ? nullptr : found->second;
}

class Interpreter {
 public:
  Interpreter(std::string_view pickle, const std::string& file) : pickle_(pickle), file_(file) {}

  absl::StatusOr<std::vector<PickledTensor>> Run();

 private:
  template <typename... Parts>
  absl::Status Wrong(const Parts&... parts) const {
    return absl::InvalidArgumentError(
        absl::StrCat(file_, ": pickle, byte ", next_, ": ", parts...));
  }

  // Reading. Past the end they give nothing, and truncated_ is set.
  std::string_view Bytes(size_t count);
  uint64_t Unsigned(size_t bytes);
  std::string_view Line();

  // The stack.
  int32_t New(Value value);
  void Push(Value value) { stack_.push_back(New(std::move(value))); }
  void PushInt(int64_t number) { Push({.kind = Kind::kInt, .number = number}); }
  void PushText(std::string_view text) { Push({.kind = Kind::kText, .text = std::string(text)}); }
  absl::StatusOr<int32_t> Pop(const char* what);
  absl::StatusOr<std::vector<int32_t>> PopToMark();
  Value& At(int32_t value) { return values_[static_cast<size_t>(value)]; }

  absl::Status Step(unsigned char opcode);
  absl::Status StepOnContainers(unsigned char opcode);
  absl::Status StepOnMemo(unsigned char opcode);
  absl::Status PushGlobal(std::string name);
  absl::Status PushLong();
  absl::Status PushTuple(size_t count);
  absl::Status AddItems(Kind container, std::vector<int32_t> items);
  absl::Status LoadStorage();
  absl::Status Reduce();
  absl::Status RebuildTensor(const std::vector<int32_t>& arguments);
  absl::StatusOr<std::vector<int64_t>> Sizes(int32_t value, const char* what);
  absl::StatusOr<std::vector<PickledTensor>> Result();

  std::string_view pickle_;
  const std::string& file_;
  size_t next_ = 0;
  bool truncated_ = false;
  std::vector<Value> values_;
  std::vector<int32_t> stack_;
  std::unordered_map<uint64_t, int32_t> memo_;
  std::vector<PickledTensor> tensors_;
};

std::string_view Interpreter::Bytes(size_t count) {
  if (count > pickle_.size() - next_) {
    truncated_ = true;
    return {};
  }
  const std::string_view bytes = pickle_.substr(next_, count);
  next_ += count;
  return bytes;
}

uint64_t Interpreter::Unsigned(size_t count) {
  const std::string_view bytes = Bytes(count);
  uint64_t value = 0;
  for (size_t i = bytes.size(); i > 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
  }
  return value;
}

std::string_view Interpreter::Line() {
  const size_t end = pickle_.find('\n', next_);
  if (end == std::string_view::npos) {
    truncated_ = true;
    return {};
  }
  const std::string_view line = Bytes(end - next_);
  ++next_;
  return line;
}

int32_t Interpreter::New(Value value) {
  values_.push_back(std::move(value));
  return static_cast<int32_t>(values_.size()) - 1;
}

absl::StatusOr<int32_t> Interpreter::Pop(const char* what) {
  if (stack_.empty() || At(stack_.back()).kind == Kind::kMark) {
    return Wrong(what, " is missing");
  }
  const int32_t top = stack_.back();
  stack_.pop_back();
  return top;
}

absl::StatusOr<std::vector<int32_t>> Interpreter::PopToMark() {
  size_t mark = stack_.size();
  while (mark > 0 && At(stack_[mark - 1]).kind != Kind::kMark) --mark;
  if (mark == 0) return Wrong("a mark is missing");
  std::vector<int32_t> items(stack_.begin() + static_cast<ptrdiff_t>(mark), stack_.end());
  stack_.resize(mark - 1);
  return items;
}

absl::StatusOr<std::vector<PickledTensor>> Interpreter::Run() {
  if (pickle_.size() > kMaxPickleBytes) {
    return Wrong("it has ", pickle_.size(), " bytes, at most ", kMaxPickleBytes, " are read");
  }
  while (next_ < pickle_.size()) {
    const auto opcode = static_cast<unsigned char>(pickle_[next_++]);
    if (opcode == '.') return Result();
    RETURN_IF_ERROR(Step(opcode));
    if (truncated_) break;
    if (values_.size() > kMaxValues) return Wrong("it has more than ", kMaxValues, " values");
  }
  return Wrong("it is truncated");
}

absl::Status Interpreter::Step(unsigned char opcode) {
  switch (opcode) {
    case 0x80:  // PROTO
      if (const uint64_t version = Unsigned(1); version > 5) {
        return Wrong("protocol ", version, " is not known");
      }
      return absl::OkStatus();
    case 0x95:  // FRAME
      Unsigned(8);
      return absl::OkStatus();
    case 'N':
      Push({});
      return absl::OkStatus();
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      Push({.kind = Kind::kBool, .number = opcode == 0x88});
      return absl::OkStatus();
    case 'J':  // BININT
      PushInt(static_cast<int32_t>(Unsigned(4)));
      return absl::OkStatus();
    case 'K':  // BININT1
      PushInt(static_cast<int64_t>(Unsigned(1)));
      return absl::OkStatus();
    case 'M':  // BININT2
      PushInt(static_cast<int64_t>(Unsigned(2)));
      return absl::OkStatus();
    case 0x8a:  // LONG1
      return PushLong();
    case 'G':  // BINFLOAT
      Bytes(8);
      Push({.kind = Kind::kFloat});
      return absl::OkStatus();
    case 'X':  // BINUNICODE
      PushText(Bytes(Unsigned(4)));
      return absl::OkStatus();
    case 0x8c:  // SHORT_BINUNICODE
      PushText(Bytes(Unsigned(1)));
      return absl::OkStatus();
    case 'c': {  // GLOBAL
      const std::string module(Line());
      return PushGlobal(absl::StrCat(module, ".", std::string(Line())));
    }
    case 'Q':  // BINPERSID
      return LoadStorage();
    case 'R':
      return Reduce();
    default:
      return StepOnContainers(opcode);
  }
}

absl::Status Interpreter::StepOnContainers(unsigned char opcode) {
  switch (opcode) {
    case '(':
      Push({.kind = Kind::kMark});
      return absl::OkStatus();
    case ')':
      return PushTuple(0);
    case 0x85:  // TUPLE1
    case 0x86:
    case 0x87:
      return PushTuple(opcode - 0x84U);
    case 't': {
      ASSIGN_OR_RETURN(std::vector<int32_t> items, PopToMark());
      Push({.kind = Kind::kTuple, .items = std::move(items)});
      return absl::OkStatus();
    }
    case '}':
    case ']':
      Push({.kind = opcode == '}' ? Kind::kDict : Kind::kList});
      return absl::OkStatus();
    case 'u':    // SETITEMS
    case 'e': {  // APPENDS
      ASSIGN_OR_RETURN(std::vector<int32_t> items, PopToMark());
      return AddItems(opcode == 'u' ? Kind::kDict : Kind::kList, std::move(items));
    }
    case 's': {  // SETITEM
      ASSIGN_OR_RETURN(const int32_t value, Pop("a value"));
      ASSIGN_OR_RETURN(const int32_t key, Pop("a key"));
      return AddItems(Kind::kDict, {key, value});
    }
    case 'a': {  // APPEND
      ASSIGN_OR_RETURN(const int32_t item, Pop("an item"));
      return AddItems(Kind::kList, {item});
    }
    case 'b': {  // BUILD: attributes of the dictionary (_metadata), of no use here
      RETURN_IF_ERROR(Pop("attributes").status());
      return AddItems(Kind::kDict, {});
    }
    default:
      return StepOnMemo(opcode);
  }
}

absl::Status Interpreter::StepOnMemo(unsigned char opcode) {
  uint64_t place = 0;
  switch (opcode) {
    case 'q':  // BINPUT
    case 'h':  // BINGET
      place = Unsigned(1);
      break;
    case 'r':  // LONG_BINPUT
    case 'j':  // LONG_BINGET
      place = Unsigned(4);
      break;
    case 0x94:  // MEMOIZE
      place = memo_.size();
      break;
    default:
      return Wrong("opcode ", static_cast<int>(opcode), " has no place in a file of tensors");
  }
  if (opcode == 'h' || opcode == 'j') {
    const auto found = memo_.find(place);
    if (found == memo_.end()) return Wrong("nothing was kept as ", place);
    stack_.push_back(found->second);
    return absl::OkStatus();
  }
  if (stack_.empty() || At(stack_.back()).kind == Kind::kMark) {
    return Wrong("there is nothing to keep");
  }
  if (memo_.size() > kMaxValues) return Wrong("it keeps more than ", kMaxValues, " values");
  memo_[place] = stack_.back();
  return absl::OkStatus();
}

absl::Status Interpreter::PushGlobal(std::string name) {
  if (truncated_) return absl::OkStatus();  // Run says so
  if (name != kOrderedDict && name != kRebuildTensor && name != kRebuildParameter &&
      DtypeOfStorage(name) == nullptr) {
    return Wrong("it names ", Brief(name), ", which has no place in a file of tensors: refused");
  }
  Push({.kind = Kind::kGlobal, .text = std::move(name)});
  return absl::OkStatus();
}

// A little-endian two's complement number of a few bytes.
absl::Status Interpreter::PushLong() {
  const auto count = static_cast<size_t>(Unsigned(1));
  if (count > 8) return Wrong("a number of ", count, " bytes is too large");
  const uint64_t bits = Unsigned(count);
  const int shift = static_cast<int>(64 - 8 * count);
  PushInt(count == 0 ? 0 : static_cast<int64_t>(bits << shift) >> shift);
  return absl::OkStatus();
}

absl::Status Interpreter::PushTuple(size_t count) {
  std::vector<int32_t> items(count);
  for (size_t i = count; i > 0; --i) {
    ASSIGN_OR_RETURN(items[i - 1], Pop("an item of a tuple"));
  }
  Push({.kind = Kind::kTuple, .items = std::move(items)});
  return absl::OkStatus();
}

absl::Status Interpreter::AddItems(Kind container, std::vector<int32_t> items) {
  if (stack_.empty() || At(stack_.back()).kind != container) {
    return Wrong(NameOf(container), " is missing");
  }
  if (container == Kind::kDict && items.size() % 2 != 0) return Wrong("a value is missing");
  std::vector<int32_t>& all = At(stack_.back()).items;
  all.insert(all.end(), items.begin(), items.end());
  return absl::OkStatus();
}

// ('storage', class, key, device, number of elements)
absl::Status Interpreter::LoadStorage() {
  ASSIGN_OR_RETURN(const int32_t id, Pop("a storage's description"));
  const std::vector<int32_t>& items = At(id).items;
  const auto is = [&](size_t i, Kind kind) { return At(items[i]).kind == kind; };
  if (At(id).kind != Kind::kTuple || items.size() != 5 || !is(0, Kind::kText) ||
      At(items[0]).text != "storage" || !is(1, Kind::kGlobal) || !is(2, Kind::kText) ||
      !is(4, Kind::kInt) || At(items[4]).number < 0 || At(items[2]).text.size() > kMaxKeyBytes) {
    return Wrong("a storage is described in an unknown way");
  }
  const char* dtype = DtypeOfStorage(At(items[1]).text);
  if (dtype == nullptr) return Wrong(At(items[1]).text, " is no storage");
  Push({.kind = Kind::kStorage,
        .number = At(items[4]).number,
        .text = At(items[2]).text,
        .dtype_name = dtype});
  return absl::OkStatus();
}

absl::Status Interpreter::Reduce() {
  ASSIGN_OR_RETURN(const int32_t arguments, Pop("arguments"));
  ASSIGN_OR_RETURN(const int32_t callee, Pop("what is to be made"));
  if (At(callee).kind != Kind::kGlobal || At(arguments).kind != Kind::kTuple) {
    return Wrong("it makes something from ", NameOf(At(callee).kind), " with ",
                 NameOf(At(arguments).kind));
  }
  const std::string& name = At(callee).text;
  // Copied, so few: the same tuple can be given again with every two bytes.
  if (At(arguments).items.size() > kMaxArguments) {
    return Wrong("it makes a ", name, " from ", At(arguments).items.size(), " arguments: refused");
  }
  const std::vector<int32_t> items = At(arguments).items;
  if (name == kOrderedDict && items.empty()) {
    Push({.kind = Kind::kDict});
    return absl::OkStatus();
  }
  if (name == kRebuildTensor) return RebuildTensor(items);
  if (name == kRebuildParameter && !items.empty() && At(items[0]).kind == Kind::kTensor) {
    stack_.push_back(items[0]);
    return absl::OkStatus();
  }
  return Wrong("it makes a ", name, " from ", items.size(), " arguments: refused");
}

// (storage, offset, size, stride, …)
absl::Status Interpreter::RebuildTensor(const std::vector<int32_t>& arguments) {
  if (arguments.size() < 4 || At(arguments[0]).kind != Kind::kStorage ||
      At(arguments[1]).kind != Kind::kInt) {
    return Wrong("a tensor is described in an unknown way");
  }
  PickledTensor tensor;
  tensor.storage = At(arguments[0]).text;
  tensor.dtype_name = At(arguments[0]).dtype_name;
  tensor.storage_elements = At(arguments[0]).number;
  tensor.offset = At(arguments[1]).number;
  ASSIGN_OR_RETURN(tensor.shape, Sizes(arguments[2], "size"));
  ASSIGN_OR_RETURN(tensor.strides, Sizes(arguments[3], "stride"));
  if (tensors_.size() >= kMaxTensors) return Wrong("it has more than ", kMaxTensors, " tensors");
  if (tensor.shape.size() != tensor.strides.size()) {
    return Wrong("a tensor has ", tensor.shape.size(), " sizes and ", tensor.strides.size(),
                 " strides");
  }
  Push({.kind = Kind::kTensor, .number = static_cast<int64_t>(tensors_.size())});
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> Interpreter::Sizes(int32_t value, const char* what) {
  constexpr size_t kMaxDimensions = 8;
  std::vector<int64_t> sizes;
  if (At(value).kind != Kind::kTuple || At(value).items.size() > kMaxDimensions) {
    return Wrong("a tensor's ", what, " is no tuple of at most ", kMaxDimensions);
  }
  for (const int32_t item : At(value).items) {
    if (At(item).kind != Kind::kInt || At(item).number < 0) {
      return Wrong("a tensor's ", what, " holds ", NameOf(At(item).kind), " or a negative number");
    }
    sizes.push_back(At(item).number);
  }
  return sizes;
}

absl::StatusOr<std::vector<PickledTensor>> Interpreter::Result() {
  if (stack_.size() != 1 || At(stack_[0]).kind != Kind::kDict) {
    return Wrong("it holds ", stack_.empty() ? "nothing" : NameOf(At(stack_[0]).kind),
                 ", must be a dictionary from names to tensors");
  }
  std::vector<PickledTensor> result;
  std::set<std::string> names;
  const std::vector<int32_t>& items = At(stack_[0]).items;
  if (items.size() / 2 > kMaxTensors) return Wrong("it has more than ", kMaxTensors, " names");
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const Value& key = At(items[i]);
    const Value& value = At(items[i + 1]);
    if (key.kind != Kind::kText) return Wrong("a name is ", NameOf(key.kind), ", must be a text");
    if (value.kind != Kind::kTensor) {
      return Wrong("'", Brief(key.text), "' is ", NameOf(value.kind), ", must be a tensor");
    }
    if (!names.insert(key.text).second) return Wrong("'", Brief(key.text), "' is there twice");
    result.push_back(tensors_[static_cast<size_t>(value.number)]);
    result.back().name = key.text;
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<PickledTensor>> ReadTensorPickle(std::string_view pickle,
                                                            const std::string& file) {
  return Interpreter(pickle, file).Run();
}

}  // namespace caravan
