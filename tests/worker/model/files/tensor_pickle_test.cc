#include "worker/model/files/tensor_pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace caravan {
namespace {

using namespace std::string_literals;
using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<std::vector<PickledTensor>> Read(const std::string& pickle) {
  return ReadTensorPickle(pickle, "a.bin");
}
std::string ErrorOf(const std::string& pickle) {
  const auto tensors = Read(pickle);
  EXPECT_TRUE(absl::IsInvalidArgument(tensors.status())) << tensors.status();
  EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("a.bin: pickle, byte"));
  return std::string(tensors.status().message());
}

std::string Text(const std::string& text) {
  std::string opcode = "X";
  opcode += static_cast<char>(text.size());
  opcode += "\0\0\0"s;
  return opcode += text;
}
// A tensor of shape [2, 3] at element 1 of the storage "7" of 9 floats.
const std::string kTensor = "ctorch._utils\n_rebuild_tensor_v2\n((" + Text("storage") +
                            "ctorch\nFloatStorage\n" + Text("7") + Text("cpu") +
                            "K\x09tQK\x01K\x02K\x03\x86K\x03K\x01\x86\x89"
                            "ccollections\nOrderedDict\n)RtR";
const std::string kStart = "\x80\x02}(";

TEST(TensorPickle, ReadsTensors) {
  const auto tensors = Read(kStart + Text("w") + kTensor + Text("b") + kTensor + "u.");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2U);
  const PickledTensor& tensor = (*tensors)[0];
  EXPECT_EQ(tensor.name, "w");
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ(tensor.storage, "7");
  EXPECT_EQ(tensor.dtype_name, "F32");
  EXPECT_EQ(tensor.storage_elements, 9);
  EXPECT_EQ(tensor.offset, 1);
  EXPECT_THAT(tensor.shape, ElementsAre(2, 3));
  EXPECT_THAT(tensor.strides, ElementsAre(3, 1));
}

TEST(TensorPickle, ReadsAnEmptyDictionary) {
  const auto tensors = Read("\x80\x02}.");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_TRUE(tensors->empty());
}

TEST(TensorPickle, RunsNothing) {
  // os.system("true") as pickle does it.
  EXPECT_THAT(ErrorOf("\x80\x02"
                      "cos\nsystem\n" +
                      Text("true") + "\x85R."),
              HasSubstr("it names os.system, which has no place in a file of tensors: refused"));
  EXPECT_THAT(ErrorOf("\x80\x02(ios\nsystem\n."), HasSubstr("opcode 105"));  // INST
  EXPECT_THAT(ErrorOf("\x80\x04\x8c\x02os\x8c\x06system\x93."), HasSubstr("opcode 147"));
  EXPECT_THAT(ErrorOf("\x80\x02(ccollections\nOrderedDict\no."), HasSubstr("opcode 111"));
  EXPECT_THAT(ErrorOf("\x80\x02"
                      "ccollections\nOrderedDict\nK\x01\x85R."),
              HasSubstr("it makes a collections.OrderedDict from 1 arguments: refused"));
  EXPECT_THAT(ErrorOf("\x80\x02"
                      "ctorch\nFloatStorage\n)R."),
              HasSubstr("torch.FloatStorage from 0 arguments"));
}

TEST(TensorPickle, SaysWhatAnEntryIsThatIsNoTensor) {
  EXPECT_THAT(ErrorOf(kStart + Text("epoch") + "K\x05u."),
              HasSubstr("'epoch' is an int, must be a tensor"));
  EXPECT_THAT(ErrorOf(kStart + Text("state_dict") + "}u."),
              HasSubstr("'state_dict' is a dictionary"));
  EXPECT_THAT(ErrorOf(kStart + "K\x05" + kTensor + "u."), HasSubstr("a name is an int"));
  EXPECT_THAT(ErrorOf(kStart + Text("w") + kTensor + Text("w") + kTensor + "u."),
              HasSubstr("'w' is there twice"));
  EXPECT_THAT(ErrorOf("\x80\x02]."), HasSubstr("it holds a list"));
}

TEST(TensorPickle, RefusesWhatIsMalformed) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf("\x80\x02"), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf("\x80\x02X\xff\xff\xff\xffw."), HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf("\x80\x02"
                      "ccollections"),
              HasSubstr("truncated"));
  EXPECT_THAT(ErrorOf("\x80\x09."), HasSubstr("protocol 9"));
  EXPECT_THAT(ErrorOf("\x80\x02u."), HasSubstr("a mark is missing"));
  EXPECT_THAT(ErrorOf("\x80\x02}(K\x01u."), HasSubstr("a value is missing"));
  EXPECT_THAT(ErrorOf("\x80\x02h\x05."), HasSubstr("nothing was kept as 5"));
  EXPECT_THAT(ErrorOf("\x80\x02q\x05."), HasSubstr("there is nothing to keep"));
  EXPECT_THAT(ErrorOf("\x80\x02(."), HasSubstr("it holds a mark"));
  EXPECT_THAT(ErrorOf("\x80\x02)Q."), HasSubstr("described in an unknown way"));
  EXPECT_THAT(ErrorOf("\x80\x02R."), HasSubstr("arguments is missing"));
  EXPECT_THAT(ErrorOf("\x80\x02\x8a\x09xxxxxxxxx."), HasSubstr("9 bytes is too large"));
}

// Each REDUCE of three bytes copied its two million arguments: hours.
TEST(TensorPickle, ManyCallsWithTheSameManyArgumentsAreRefused) {
  const std::string parameter = "ctorch._utils\n_rebuild_parameter\n";
  std::string pickle = "\x80\x02" + parameter + "q\x00("s + kTensor + "q\x02";
  for (int i = 0; i < 2000000; ++i) pickle += "h\x02"s;
  pickle += "tq\x01";
  for (int i = 0; i < 1000000; ++i) pickle += "h\x00h\x01R"s;
  EXPECT_THAT(ErrorOf(pickle + "."), HasSubstr("from 2000001 arguments: refused"));
}

TEST(TensorPickle, BoundsWhatItKeeps) {
  EXPECT_THAT(ErrorOf("\x80\x04N" + std::string((1 << 20) + 2, '\x94') + "."),
              HasSubstr("keeps more than"));
  std::string tensors = kStart;
  const std::string tensor = Text("w") + kTensor + "q\x01";
  tensors += tensor;
  for (int i = 0; i < (1 << 16); ++i) tensors += "h\x01h\x01"s;
  EXPECT_THAT(ErrorOf(tensors + "u."), HasSubstr("more than 65536 names"));
}

TEST(TensorPickle, ADictionaryThatHoldsItselfIsNoTrouble) {
  // d = {}; d['x'] = d
  EXPECT_THAT(ErrorOf("\x80\x02}q\x00"s + Text("x") + "h\x00s."s),
              HasSubstr("'x' is a dictionary"));
}

TEST(TensorPickle, NumbersOfAllSizesAreRead) {
  const auto offset_of = [](const std::string& number) -> int64_t {
    std::string tensor = kTensor;
    tensor.replace(tensor.find("K\x01K\x02"), 2, number);
    const auto tensors = Read(kStart + Text("w") + tensor + "u.");
    EXPECT_TRUE(tensors.ok()) << tensors.status();
    return tensors.ok() ? (*tensors)[0].offset : -1;
  };
  EXPECT_EQ(offset_of("M\xff\xff"), 65535);
  EXPECT_EQ(offset_of("J\x00\x00\x01\x00"s), 65536);
  EXPECT_EQ(offset_of("\x8a\x05\x00\x00\x00\x00\x01"s), int64_t{1} << 32);
  EXPECT_EQ(offset_of("\x8a\x00"s), 0);
}

TEST(TensorPickle, RandomOpcodesEnd) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::string opcodes = "\x80}(])NKMJXcQRtu\x85\x86\x87sabqhrj\x88\x89.";
  for (int i = 0; i < 50000; ++i) {
    std::string pickle = kStart + Text("w") + kTensor;
    for (uint64_t n = random() % 30; n > 0; --n) {
      const size_t place = random() % pickle.size();
      pickle[place] =
          random() % 2 == 0 ? opcodes[random() % opcodes.size()] : static_cast<char>(random());
    }
    (void)Read(pickle + "u.");
  }
}

}  // namespace
}  // namespace caravan
