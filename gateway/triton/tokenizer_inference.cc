#include "gateway/triton/tokenizer_inference.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {
namespace {

constexpr int64_t kMaxDecodedSequences = 1 << 16;  // of one request
constexpr size_t kMaxDecodedBytes = 1 << 27;  // of OUTPUT: an id of four bytes can be a long token
constexpr int64_t kMaxEncodedElements = 1 << 23;  // of one output of preprocessing

InferOutput MakeOutput(const char* name, DataType datatype, Shape shape, std::string data) {
  InferOutput output;
  output.name = name;
  output.datatype = datatype;
  output.shape = std::move(shape);
  output.data = std::move(data);
  return output;
}

// One long row widens all of them, so that a short request could ask for gigabytes.
absl::Status CheckEncodedSize(const char* input, const char* output, int64_t rows, int64_t width) {
  if (rows <= kMaxEncodedElements / std::max<int64_t>(1, width)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      input, ": ", rows, " rows of ", width, " elements, as many as the longest needs, make ",
      output, " larger than ", kMaxEncodedElements, " elements; send long rows by themselves"));
}

// The ids of words, each once: a word has two encodings, at a text's start and inside one.
WordIds TakeWords(const v1::EncodeResponse& response, size_t first, size_t count) {
  WordIds words;
  for (size_t i = first; i < first + count; ++i) {
    const auto& ids = response.outputs(static_cast<int>(i)).token_ids();
    std::vector<int32_t> word(ids.begin(), ids.end());
    if (word.empty() || std::find(words.begin(), words.end(), word) != words.end()) continue;
    words.push_back(std::move(word));
  }
  return words;
}

}  // namespace

TokenizerInference::TokenizerInference(const InferContext* context, InferCall call, InferSink* sink)
    : InferenceBase(context, std::move(call), sink), started_(Clock::now()) {}

TokenizerInference::~TokenizerInference() { TokenizerInference::Stop(); }

void TokenizerInference::Start() {
  if (const absl::Status status = TryStart(); !status.ok()) Fail(status);
}

absl::Status TokenizerInference::TryStart() {
  Stamp("REQUEST_START");
  Stamp("COMPUTE_START");
  if (context().dispatcher->vocabulary() == nullptr) {
    return absl::UnavailableError("no tokenizer has been reached yet; retry in a moment");
  }
  return request().model().kind == TritonModelKind::kPreprocessing ? StartEncoding()
                                                                   : StartDecoding();
}

const TokenizerBounds& TokenizerInference::bounds() const {
  return context().dispatcher->tokenizer().bounds();
}

TokenizerClient::CallOptions TokenizerInference::call_options() const {
  const InferRequest& call = request().request();
  return {call.request_id, call.traceparent, call.deadline};
}

absl::Status TokenizerInference::AddTexts(v1::EncodeRequest* encode) const {
  const CheckedInput& query = *request().Find("QUERY");
  const auto width = static_cast<size_t>(query.shape[1]);
  const std::vector<std::string_view> texts = UnpackBytes(query.data);
  for (size_t row = 0; row < static_cast<size_t>(request().rows()); ++row) {
    if (width == 0) {
      return absl::InvalidArgumentError(absl::StrCat("QUERY of row ", row, " has no element"));
    }
    RETURN_IF_ERROR(CheckText(absl::StrCat("QUERY of row ", row), texts[row * width], bounds()));
    v1::EncodeInput* input = encode->add_inputs();
    input->set_text(std::string(texts[row * width]));
    input->set_add_bos(context().dispatcher->vocabulary()->adds_bos);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenizerInference::WordRange>> TokenizerInference::AddWords(
    const std::string& tensor, v1::EncodeRequest* encode) const {
  std::vector<WordRange> ranges(static_cast<size_t>(request().rows()));
  const CheckedInput* input = request().Find(tensor);
  if (input == nullptr || input->shape[1] == 0) return ranges;
  const auto width = static_cast<size_t>(input->shape[1]);
  const std::vector<std::string_view> lines = UnpackBytes(input->data);
  for (size_t row = 0; row < ranges.size(); ++row) {
    const std::string field = absl::StrCat(tensor, " of row ", row);
    ASSIGN_OR_RETURN(const std::vector<std::string> words,
                     ParseWordLine(field, lines[row * width]));
    ranges[row] = {static_cast<size_t>(encode->inputs_size()), words.size() * 2};
    for (size_t i = 0; i < words.size(); ++i) {
      const std::string& word = words[i];
      RETURN_IF_ERROR(CheckText(absl::StrCat(field, ": word ", i), word, bounds()));
      for (const bool no_dummy_prefix : {false, true}) {
        v1::EncodeInput* added = encode->add_inputs();
        added->set_text(word);
        added->set_no_dummy_prefix(no_dummy_prefix);
      }
    }
  }
  return ranges;
}

absl::Status TokenizerInference::StartEncoding() {
  v1::EncodeRequest encode;
  RETURN_IF_ERROR(AddTexts(&encode));
  ASSIGN_OR_RETURN(bad_words_, AddWords("BAD_WORDS_DICT", &encode));
  ASSIGN_OR_RETURN(stop_words_, AddWords("STOP_WORDS_DICT", &encode));
  const int expected = encode.inputs_size();
  tokenizer_call_ = context().dispatcher->tokenizer().Encode(
      call_options(), std::move(encode),
      [this, expected](absl::StatusOr<v1::EncodeResponse> response) {
        if (response.ok() && response->outputs_size() != expected) {
          response = absl::InternalError("the tokenizer did not answer for every text");
        }
        OnEncoded(response);
      });
  return absl::OkStatus();
}

void TokenizerInference::OnEncoded(const absl::StatusOr<v1::EncodeResponse>& response) {
  tokenizer_call_ = nullptr;
  if (!response.ok()) return Fail(response.status());
  if (const absl::Status status = TryAnswer(*response); !status.ok()) Fail(status);
}

absl::Status TokenizerInference::TryAnswer(const v1::EncodeResponse& response) {
  const int64_t rows = request().rows();
  int width = 0;
  std::vector<WordIds> bad_words;
  std::vector<WordIds> stop_words;
  for (int row = 0; row < rows; ++row) {
    width = std::max(width, response.outputs(row).token_ids_size());
    const WordRange& bad = bad_words_[static_cast<size_t>(row)];
    const WordRange& stop = stop_words_[static_cast<size_t>(row)];
    bad_words.push_back(TakeWords(response, bad.first, bad.count));
    stop_words.push_back(TakeWords(response, stop.first, stop.count));
  }
  RETURN_IF_ERROR(CheckEncodedSize("QUERY", "INPUT_ID", rows, width));
  RETURN_IF_ERROR(
      CheckEncodedSize("BAD_WORDS_DICT", "BAD_WORDS_IDS", rows, 2 * PackedWordIdsWidth(bad_words)));
  RETURN_IF_ERROR(CheckEncodedSize("STOP_WORDS_DICT", "STOP_WORDS_IDS", rows,
                                   2 * PackedWordIdsWidth(stop_words)));
  std::string ids;
  std::string lengths;
  // The succeeded system pads with the beginning-of-sequence token; lengths say what counts.
  const int32_t pad = std::max(0, context().dispatcher->vocabulary()->bos_token_id);
  for (int row = 0; row < rows; ++row) {
    std::vector<int32_t> row_ids(response.outputs(row).token_ids().begin(),
                                 response.outputs(row).token_ids().end());
    AppendElement(static_cast<uint32_t>(row_ids.size()), &lengths);
    row_ids.resize(static_cast<size_t>(width), pad);
    ids += Pack(row_ids);
  }
  PackedWordIds bad = PackWordIds(bad_words);
  PackedWordIds stop = PackWordIds(stop_words);
  const CheckedInput& output_len = *request().Find("REQUEST_OUTPUT_LEN");
  std::vector<InferOutput> outputs;
  outputs.push_back(MakeOutput("INPUT_ID", DataType::kUint32, {rows, width}, std::move(ids)));
  outputs.push_back(
      MakeOutput("REQUEST_INPUT_LEN", DataType::kUint32, {rows, 1}, std::move(lengths)));
  outputs.push_back(
      MakeOutput("BAD_WORDS_IDS", DataType::kInt32, std::move(bad.shape), std::move(bad.data)));
  outputs.push_back(
      MakeOutput("STOP_WORDS_IDS", DataType::kInt32, std::move(stop.shape), std::move(stop.data)));
  outputs.push_back(
      MakeOutput("REQUEST_OUTPUT_LEN", DataType::kUint32, output_len.shape, output_len.data));
  Answer(std::move(outputs));
  return absl::OkStatus();
}

absl::Status TokenizerInference::AddSequence(size_t sequence, size_t length, size_t* bytes,
                                             v1::DecodeInput* input) const {
  const Vocabulary& vocabulary = *context().dispatcher->vocabulary();
  const CheckedInput& tokens = *request().Find("TOKENS_BATCH");
  const size_t first = sequence * static_cast<size_t>(tokens.shape[2]);
  input->set_keep_special_tokens(true);
  for (size_t k = 0; k < length; ++k) {
    const auto id = ElementAt<uint32_t>(tokens.data, first + k);
    if (id >= static_cast<uint32_t>(vocabulary.size)) {
      return absl::InvalidArgumentError(absl::StrCat("TOKENS_BATCH of sequence ", sequence,
                                                     " has token id ", id, "; it must be in [0, ",
                                                     vocabulary.size, ")"));
    }
    input->add_token_ids(static_cast<int32_t>(id));
    *bytes += id < vocabulary.tokens.size() ? vocabulary.tokens[id].size() : 0;
  }
  if (*bytes <= kMaxDecodedBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("TOKENS_BATCH up to sequence ", sequence,
                                                 " makes OUTPUT larger than ", kMaxDecodedBytes,
                                                 " bytes; send it in several requests"));
}

absl::Status TokenizerInference::StartDecoding() {
  const CheckedInput& tokens = *request().Find("TOKENS_BATCH");
  const CheckedInput& lengths = *request().Find("sequence_length");
  const int64_t beams = tokens.shape[1];
  const auto width = static_cast<size_t>(tokens.shape[2]);
  if (lengths.shape[1] != beams) {
    return absl::InvalidArgumentError(absl::StrCat("sequence_length has ", lengths.shape[1],
                                                   " columns; TOKENS_BATCH has ", beams));
  }
  if (request().rows() * beams > kMaxDecodedSequences) {
    return absl::InvalidArgumentError(absl::StrCat("TOKENS_BATCH has ", request().rows() * beams,
                                                   " sequences; at most ", kMaxDecodedSequences,
                                                   " are allowed"));
  }
  v1::DecodeRequest decode;
  size_t bytes = 0;
  for (size_t i = 0; i < static_cast<size_t>(request().rows() * beams); ++i) {
    const size_t length = ElementAt<uint32_t>(lengths.data, i);
    const std::string sequence = absl::StrCat("sequence_length of sequence ", i, " is ", length);
    if (length > width) {
      return absl::InvalidArgumentError(
          absl::StrCat(sequence, "; TOKENS_BATCH has ", width, " tokens a sequence"));
    }
    if (length > bounds().max_decode_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(sequence, "; it must be at most ",
                                                     bounds().max_decode_tokens,
                                                     " (--max_decode_tokens of the tokenizer)"));
    }
    RETURN_IF_ERROR(AddSequence(i, length, &bytes, decode.add_inputs()));
  }
  tokenizer_call_ = context().dispatcher->tokenizer().Decode(
      call_options(), std::move(decode),
      [this](const absl::StatusOr<v1::DecodeResponse>& response) { OnDecoded(response); });
  return absl::OkStatus();
}

void TokenizerInference::OnDecoded(const absl::StatusOr<v1::DecodeResponse>& response) {
  tokenizer_call_ = nullptr;
  if (!response.ok()) return Fail(response.status());
  std::string data;
  for (const std::string& bytes : response->texts()) {
    std::string text;
    Utf8Assembler assembler;
    assembler.Append(bytes, text);
    assembler.Flush(text);
    AppendBytes(text, &data);
  }
  // One dimension, as the succeeded system's model returned a flat list.
  std::vector<InferOutput> outputs;
  outputs.push_back(
      MakeOutput("OUTPUT", DataType::kBytes, {response->texts_size()}, std::move(data)));
  Answer(std::move(outputs));
}

void TokenizerInference::Answer(std::vector<InferOutput> outputs) {
  outputs_ = std::move(outputs);
  has_response_ = true;
  const auto now = Clock::now();
  InferTimes times;
  times.queue = started_ - request().request().arrival;
  times.compute_infer = now - started_;
  times.total = now - request().request().arrival;
  Stamp("COMPUTE_END");
  Succeed(times);
  NotifySoon();
}

absl::StatusOr<InferResponse> TokenizerInference::Next() {
  CARAVAN_CHECK(HasNext());
  has_response_ = false;
  InferResponse response = MakeResponse();
  for (InferOutput& output : outputs_) {
    if (!request().Wants(output.name)) continue;
    if (const absl::Status status = AddOutput(std::move(output), &response); !status.ok()) {
      Fail(status);
      return this->status();
    }
  }
  Finalize(true, &response);
  return response;
}

void TokenizerInference::Stop() {
  if (tokenizer_call_ != nullptr) tokenizer_call_->Cancel();
}

}  // namespace caravan
