// Files of torch.save: those in tests/golden/torch, and broken ones made of them.
#include "worker/model/files/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>

#include "tests/worker/model/model_folder_fixture.h"

namespace caravan {
namespace {

using testing::HasSubstr;

std::string GoldenFile(const std::string& name) {
  return std::string(CARAVAN_SOURCE_DIR) + "/tests/golden/torch/" + name;
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

double Element(const std::byte* at, const std::string& dtype) {
  if (dtype == "I64") {
    int64_t value = 0;
    std::memcpy(&value, at, sizeof(value));
    return static_cast<double>(value);
  }
  if (dtype == "F64") {
    double value = 0;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  uint32_t bits = 0;
  if (dtype == "F32") {
    std::memcpy(&bits, at, sizeof(bits));
  } else {
    uint16_t half = 0;
    std::memcpy(&half, at, sizeof(half));
    if (dtype == "BF16") {
      bits = static_cast<uint32_t>(half) << 16;
    } else if (half != 0 && half != 0x8000) {  // no subnormal number is among the values
      const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
      bits = sign | ((((half >> 10) & 31U) + 112) << 23) | static_cast<uint32_t>(half & 1023) << 13;
    }
  }
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// All elements in the order of the tensor's indices.
std::vector<double> Elements(const TensorInfo& tensor) {
  const int64_t size = ElementBytes(tensor.dtype_name);
  std::vector<double> values;
  if (tensor.parts.empty()) {
    for (int64_t i = 0; i < tensor.bytes; i += size) {
      values.push_back(Element(tensor.data + i, tensor.dtype_name));
    }
    return values;
  }
  const TensorPart& part = tensor.parts[0];
  for (int64_t r = 0; r < part.rows; ++r) {
    for (int64_t c = 0; c < part.cols; ++c) {
      const int64_t place = r * part.row_stride + c * part.col_stride;
      values.push_back(Element(part.data + place * size, tensor.dtype_name));
    }
  }
  return values;
}

class TorchGoldenFile : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(GoldenFile(GetParam()))) {
      GTEST_SKIP() << GetParam() << " is made by tests/golden/make_torch_checkpoint.py";
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Files, TorchGoldenFile, testing::Values("by_hand.bin", "saved.bin"),
                         [](const auto& info) {
                           return std::string(info.param).substr(0, info.index == 0 ? 7 : 5);
                         });

TEST_P(TorchGoldenFile, HasTheTensorsThatWereSaved) {
  const auto file = TorchFile::Open(GoldenFile(GetParam()));
  ASSERT_TRUE(file.ok()) << file.status();
  std::map<std::string, const TensorInfo*> tensors;
  for (const TensorInfo& tensor : (*file)->tensors()) tensors[tensor.name] = &tensor;
  const std::map<std::string, std::pair<std::string, std::string>> expected = {
      {"dense", {"F32", "[3, 5]"}}, {"half", {"F16", "[4, 2]"}},   {"brain", {"BF16", "[2, 3]"}},
      {"double", {"F64", "[3]"}},   {"ids", {"I64", "[3]"}},       {"parameter", {"F32", "[2]"}},
      {"scalar", {"F32", "[]"}},    {"empty", {"F32", "[0, 4]"}},  {"large", {"F16", "[70, 130]"}},
      {"again", {"F32", "[3, 5]"}}, {"turned", {"F32", "[4, 6]"}}, {"part", {"F32", "[2, 5]"}}};
  ASSERT_EQ(tensors.size(), expected.size());
  for (const auto& [name, what] : expected) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    const TensorInfo& tensor = *tensors[name];
    EXPECT_EQ(tensor.dtype_name, what.first) << name;
    EXPECT_EQ(tensor.ShapeText(), what.second) << name;
    const std::vector<double> values = Elements(tensor);
    ASSERT_EQ(static_cast<int64_t>(values.size()) * ElementBytes(what.first), tensor.bytes) << name;
    const int first = name == "part" ? 5 : 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double number = static_cast<double>(i) + first;
      // Halves keep 11 bits of the large one's values.
      const double slack = name == "large" ? 0.5 : 0;
      ASSERT_NEAR(values[i], name == "ids" ? number : number / 8 - 4, slack) << name << " " << i;
    }
  }
  EXPECT_EQ(tensors["again"]->data, tensors["dense"]->data);
  EXPECT_EQ(tensors["turned"]->parts.size(), 1U);
}

class TorchFileTest : public testing::Test {
 protected:
  TorchFileTest() : good_(Contents(GoldenFile("by_hand.bin"))) {}

  absl::Status Open(const std::string& bytes) {
    folder_.Write("bad.bin", bytes);
    const auto file = TorchFile::Open(folder_.File("bad.bin"));
    if (file.ok()) Touch(**file);
    return file.status();
  }
  std::string ErrorOf(const std::string& bytes) {
    const absl::Status status = Open(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("bad.bin"));
    return std::string(status.message());
  }
  // The good file with the first occurrence of `from` replaced by `to`, of equal length.
  std::string With(const std::string& from, const std::string& to) {
    EXPECT_EQ(from.size(), to.size());
    std::string bytes = good_;
    const size_t place = bytes.find(from);
    EXPECT_NE(place, std::string::npos) << from;
    return bytes.replace(place, from.size(), to);
  }
  // Reads what the tensors say is theirs: it must lie in the file.
  void Touch(const TorchFile& file) {
    for (const TensorInfo& tensor : file.tensors()) {
      if (!tensor.parts.empty()) {
        const TensorPart& part = tensor.parts[0];
        const int64_t size = ElementBytes(tensor.dtype_name);
        const int64_t last = (part.rows - 1) * part.row_stride + (part.cols - 1) * part.col_stride;
        sum_ += std::to_integer<int64_t>(part.data[0]);
        sum_ += std::to_integer<int64_t>(part.data[(last + 1) * size - 1]);
      } else if (tensor.bytes > 0) {
        for (int64_t i = 0; i < tensor.bytes; ++i) sum_ += std::to_integer<int64_t>(tensor.data[i]);
      }
    }
  }

  TempFolder folder_;
  std::string good_;
  int64_t sum_ = 0;
};

TEST_F(TorchFileTest, SaysThatAFileIsNoZip) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("no zip file"));
  EXPECT_THAT(ErrorOf(std::string(100, 'x')), HasSubstr("no zip file"));
  EXPECT_THAT(ErrorOf(good_.substr(0, good_.size() / 2)), HasSubstr("truncated"));
  EXPECT_TRUE(absl::IsNotFound(TorchFile::Open(folder_.File("none.bin")).status()));
}

TEST_F(TorchFileTest, RefusesWhatIsNoTensorByItsName) {
  // The same length as collections.OrderedDict.
  EXPECT_THAT(ErrorOf(With("ccollections\nOrderedDict\n", "cposix\nsystem_of_the_day\n")),
              HasSubstr("it names posix.system_of_the_day, which has no place"));
  EXPECT_THAT(ErrorOf(With("_rebuild_tensor_v2", "_rebuild_tensor_v9")),
              HasSubstr("torch._utils._rebuild_tensor_v9"));
}

TEST_F(TorchFileTest, RefusesAStorageThatIsNotThere) {
  std::string bytes = good_;
  bytes[bytes.rfind("archive/data/0") + 13] = 'z';  // in the directory
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("tensor dense: its storage data/0 is missing"));
}

TEST_F(TorchFileTest, RefusesABigEndianFile) {
  std::string bytes = good_;
  const size_t place = bytes.find("little");
  ASSERT_NE(place, std::string::npos);
  bytes.replace(place, 6, "big\n\n\n");
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("byte order"));
}

TEST_F(TorchFileTest, RefusesCompressedAndEncryptedEntries) {
  std::string bytes = good_;
  const size_t directory = bytes.find("PK\x01\x02");
  ASSERT_NE(directory, std::string::npos);
  bytes[directory + 10] = 8;
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("is compressed"));
  bytes = good_;
  bytes[directory + 8] = 1;
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("is encrypted"));
}

// What changed bytes describe is refused, or lies within the file.
TEST_F(TorchFileTest, NoBytesMakeItReadOutsideTheFile) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  // Most of the file is the bytes of one tensor; what matters lies before and behind.
  const size_t pickle = good_.find("archive/data.pkl");
  const size_t directory = good_.find("PK\x01\x02");
  int opened = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string bytes = good_;
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      const size_t place = random() % 2 == 0 ? pickle + random() % 2500
                                             : directory + random() % (bytes.size() - directory);
      bytes[place] = static_cast<char>(random() % 4 == 0 ? 0xff : random());
    }
    if (random() % 20 == 0) bytes.resize(random() % bytes.size());
    opened += Open(bytes).ok();
  }
  EXPECT_GT(opened, 20);
  EXPECT_LT(opened, 1450);
}

}  // namespace
}  // namespace caravan
