#include "gateway/generation/tokenizer_session.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr std::chrono::milliseconds kFirstPause{50};
constexpr std::chrono::milliseconds kLongestPause{1000};
constexpr int kMaxBatchMessages = 512;
constexpr size_t kMaxBatchBytes = 1 << 20;
constexpr size_t kFrameBytes = 64;  // at most, of a message beside its ids
constexpr size_t kIdBytes = 5;      // at most, of an id: a varint of 31 bits
// As large as they are: callers bound what they ask.
constexpr int kMaxAnswerBytes = std::numeric_limits<int>::max();

std::shared_ptr<const Vocabulary> MakeVocabulary(const v1::GetVocabularyResponse& response) {
  auto vocabulary = std::make_shared<Vocabulary>();
  vocabulary->size = static_cast<int32_t>(response.size());
  vocabulary->adds_bos = response.adds_bos();
  vocabulary->bos_token_id = response.bos_token_id();
  vocabulary->eos_token_ids.assign(response.eos_token_ids().begin(),
                                   response.eos_token_ids().end());
  vocabulary->special_token_ids.insert(response.special_token_ids().begin(),
                                       response.special_token_ids().end());
  vocabulary->tokens.assign(response.tokens().begin(), response.tokens().end());
  vocabulary->word_token_ids.insert(response.word_token_ids().begin(),
                                    response.word_token_ids().end());
  vocabulary->fingerprint = response.fingerprint();
  vocabulary->bounds = BoundsOf(response);
  return vocabulary;
}

}  // namespace

struct TokenizerSession::VocabularyCall {
  explicit VocabularyCall(EventLoop* loop) : keep_alive(loop) {}
  TokenizerSession* session = nullptr;  // nullptr: the session is gone
  grpc::ClientContext context;
  v1::GetVocabularyRequest request;
  v1::GetVocabularyResponse response;
  const EventLoop::KeepAlive keep_alive;
};

TokenizerSession::TokenizerSession(EventLoop* loop, const std::string& address, Listener* listener)
    : loop_(loop),
      address_(address),
      listener_(listener),
      stub_(v1::Tokenizer::NewStub(MakeChannel(address, kMaxAnswerBytes))),
      reconnect_pause_(kFirstPause),
      self_(std::make_shared<TokenizerSession*>(this)) {}

TokenizerSession::~TokenizerSession() {
  *self_ = nullptr;
  loop_->CancelTimer(&reconnect_timer_);
  if (stream_ != nullptr) stream_->Close();
  if (vocabulary_call_ != nullptr) {
    vocabulary_call_->session = nullptr;
    vocabulary_call_->context.TryCancel();
  }
}

void TokenizerSession::FetchVocabulary() {
  auto call = std::make_shared<VocabularyCall>(loop_);
  vocabulary_call_ = call;
  call->session = this;
  call->request.set_include_tokens(true);
  call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  stub_->async()->GetVocabulary(&call->context, &call->request, &call->response,
                                [call, loop = loop_](const grpc::Status& status) {
                                  loop->Post([call, status] {
                                    if (call->session != nullptr)
                                      call->session->OnVocabulary(status, call->response);
                                  });
                                });
}

void TokenizerSession::OnVocabulary(const grpc::Status& status,
                                    const v1::GetVocabularyResponse& response) {
  vocabulary_call_ = nullptr;
  if (!status.ok()) return ReconnectLater(status);
  vocabulary_ = MakeVocabulary(response);
  stream_ =
      Stream::Open(loop_, this, [this](grpc::ClientContext* context, Stream::Reactor* reactor) {
        stub_->async()->DecodeSession(context, reactor);
      });
  reconnect_pause_ = kFirstPause;
  loss_logged_ = false;
  LogInfo("connected to tokenizer", {{"tokenizer", address_}, {"vocabulary", vocabulary_->size}});
  listener_->OnTokenizerConnected(this);
}

void TokenizerSession::ReconnectLater(const grpc::Status& status) {
  if (!std::exchange(loss_logged_, true)) {
    LogWarning("can't reach tokenizer",
               {{"tokenizer", address_}, {"error", ToString(FromGrpcStatus(status))}});
  }
  reconnect_timer_ = loop_->RunAfter(reconnect_pause_, [this] { FetchVocabulary(); });
  reconnect_pause_ = std::min(reconnect_pause_ * 2, kLongestPause);
}

void TokenizerSession::OnClosed(const grpc::Status& status) {
  stream_ = nullptr;
  batch_.Clear();
  batch_bytes_ = 0;
  std::vector<DecodeSequence*> sequences;
  for (const auto& [id, sequence] : sequences_) sequences.push_back(sequence);
  sequences_.clear();
  ReconnectLater(status);
  listener_->OnTokenizerLost(this, std::move(sequences));
}

void TokenizerSession::Attach(DecodeSequence* sequence) {
  CARAVAN_CHECK(connected());
  sequences_[sequence->id] = sequence;
  v1::DecodeSessionRequest request;
  v1::DecodeOpen* open = request.mutable_open();
  open->set_sequence(sequence->id);
  open->mutable_context_token_ids()->Assign(sequence->context_token_ids.begin(),
                                            sequence->context_token_ids.end());
  open->set_keep_special_tokens(sequence->keep_special_tokens);
  Send(std::move(request));
  // Decoding is a function of the ids, so that what was answered comes back bit for bit.
  sequence->tokens_to_skip = sequence->num_answered;
  sequence->bytes_to_skip = sequence->num_bytes;
  const int32_t* ids = sequence->token_ids.data();
  const int32_t* unanswered = ids + sequence->num_answered;
  const int32_t* end = ids + sequence->token_ids.size();
  if (ids != unanswered) SendAppend(sequence->id, ids, unanswered);
  for (; unanswered != end; ++unanswered) SendAppend(sequence->id, unanswered, unanswered + 1);
  if (sequence->closing) Close(*sequence);
}

void TokenizerSession::Append(const DecodeSequence& sequence) {
  const int32_t* last = &sequence.token_ids.back();
  SendAppend(sequence.id, last, last + 1);
}

size_t TokenizerSession::max_batch_bytes() const {
  return std::min(kMaxBatchBytes, vocabulary_->bounds.max_message_bytes);
}

void TokenizerSession::SendAppend(uint64_t id, const int32_t* begin, const int32_t* end) {
  const size_t room = max_batch_bytes() - std::min(max_batch_bytes(), kFrameBytes);
  const ptrdiff_t most = static_cast<ptrdiff_t>(std::max<size_t>(1, room / kIdBytes));
  while (begin != end) {
    const int32_t* const next = begin + std::min(end - begin, most);
    v1::DecodeSessionRequest request;
    request.mutable_append()->set_sequence(id);
    request.mutable_append()->mutable_token_ids()->Add(begin, next);
    Send(std::move(request));
    begin = next;
  }
}

void TokenizerSession::Send(v1::DecodeSessionRequest message) {
  const size_t bytes = message.ByteSizeLong() + kFrameBytes;
  if (batch_bytes_ + bytes > max_batch_bytes()) Flush();
  batch_bytes_ += bytes;
  if (batch_.batch().messages().empty()) {
    loop_->Post([self = self_] {
      if (*self != nullptr) (*self)->Flush();
    });
  }
  *batch_.mutable_batch()->add_messages() = std::move(message);
  if (batch_.batch().messages_size() >= kMaxBatchMessages) Flush();
}

void TokenizerSession::Flush() {
  v1::DecodeSessionRequest batch = std::exchange(batch_, {});
  batch_bytes_ = 0;
  if (stream_ == nullptr || batch.batch().messages().empty()) return;
  if (batch.batch().messages_size() == 1) {
    v1::DecodeSessionRequest only = std::move(*batch.mutable_batch()->mutable_messages(0));
    stream_->Write(std::move(only));
  } else {
    stream_->Write(std::move(batch));
  }
}

void TokenizerSession::Close(const DecodeSequence& sequence) {
  v1::DecodeSessionRequest request;
  request.mutable_close()->set_sequence(sequence.id);
  Send(std::move(request));
}

void TokenizerSession::Detach(uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  if (!found->second->closing) Close(*found->second);
  sequences_.erase(found);
}

void TokenizerSession::OnMessage(v1::DecodeSessionResponse response) {
  if (response.batch().empty()) return OnAnswer(std::move(response));
  for (v1::DecodeSessionResponse& answer : *response.mutable_batch()) OnAnswer(std::move(answer));
}

void TokenizerSession::OnAnswer(v1::DecodeSessionResponse response) {
  const auto found = sequences_.find(response.sequence());
  if (found == sequences_.end()) return;  // detached meanwhile
  DecodeSequence* sequence = found->second;
  if (response.code() != 0) {
    sequences_.erase(found);
    sequence->listener->OnDecodeError(
        absl::Status(static_cast<absl::StatusCode>(response.code()),
                     absl::StrCat("tokenizer ", address_, " can't decode: ", response.message())));
    listener_->OnSequenceEnded(response.sequence());
    return;
  }
  const size_t repeated = std::min<size_t>(sequence->tokens_to_skip, response.num_tokens());
  sequence->tokens_to_skip -= repeated;
  const size_t num_tokens = response.num_tokens() - repeated;
  std::string text = std::move(*response.mutable_text());
  const size_t repeated_bytes = std::min<size_t>(sequence->bytes_to_skip, text.size());
  sequence->bytes_to_skip -= repeated_bytes;
  if (repeated_bytes > 0) text.erase(0, repeated_bytes);
  sequence->num_answered += num_tokens;
  sequence->num_bytes += text.size();
  if (response.closed()) {
    sequences_.erase(found);
    sequence->listener->OnDecodeClosed(std::move(text));
    listener_->OnSequenceEnded(response.sequence());
  } else if (num_tokens > 0 || !text.empty()) {
    sequence->listener->OnDecoded(num_tokens, std::move(text));
  }
}

}  // namespace caravan
