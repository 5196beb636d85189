#include "gateway/generation/tokenizer_client.h"

#include <algorithm>
#include <utility>

#include "common/log.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr std::chrono::milliseconds kRetryPause{20};

}  // namespace

// One call, tried on one tokenizer after the other while they are unavailable.
template <typename Request, typename Response>
class TokenizerClient::RetriedCall
    : public Call,
      public std::enable_shared_from_this<RetriedCall<Request, Response>> {
 public:
  RetriedCall(TokenizerClient* client, CallOptions options, Request request,
              Callback<Response> done, Method<Request, Response> method)
      : client_(client->self_),
        loop_(client->loop_),
        options_(std::move(options)),
        give_up_(EventLoop::Clock::now() + client->options_.timeout),
        request_(std::move(request)),
        done_(std::move(done)),
        method_(method),
        keep_alive_(client->loop_) {}

  void Cancel() override {
    done_ = nullptr;
    if (context_ != nullptr) context_->TryCancel();
  }

  void Try() {
    if (done_ == nullptr || *client_ == nullptr) return;
    TokenizerSession* session = (*client_)->Pick();
    if (session == nullptr) return TryLater(absl::UnavailableError("no tokenizer is connected"));
    context_ = std::make_unique<grpc::ClientContext>();
    context_->AddMetadata(kRequestIdKey, options_.request_id);
    if (!options_.traceparent.empty()) context_->AddMetadata(kTraceparentKey, options_.traceparent);
    if (options_.deadline != EventLoop::Clock::time_point::max()) {
      context_->set_deadline(std::chrono::system_clock::now() +
                             std::chrono::duration_cast<std::chrono::microseconds>(
                                 options_.deadline - EventLoop::Clock::now()));
    }
    response_ = Response();
    method_(session->stub(), context_.get(), &request_, &response_,
            [self = this->shared_from_this()](const grpc::Status& status) {
              self->loop_->Post([self, status] { self->OnAnswer(FromGrpcStatus(status)); });
            });
  }

 private:
  void OnAnswer(const absl::Status& status) {
    context_ = nullptr;
    if (absl::IsUnavailable(status)) return TryLater(status);
    if (done_ == nullptr) return;
    Callback<Response> done = std::exchange(done_, nullptr);
    if (status.ok()) {
      done(std::move(response_));
    } else {
      done(status);
    }
  }

  void TryLater(const absl::Status& status) {
    if (done_ == nullptr) return;
    if (EventLoop::Clock::now() >= give_up_) {
      Callback<Response> done = std::exchange(done_, nullptr);
      return done(absl::UnavailableError(
          absl::StrCat("no tokenizer answers (", status.message(), "); retry in a moment")));
    }
    loop_->RunAfter(kRetryPause, [self = this->shared_from_this()] { self->Try(); });
  }

  const std::shared_ptr<TokenizerClient*> client_;
  EventLoop* const loop_;
  const CallOptions options_;
  const EventLoop::Clock::time_point give_up_;
  const Request request_;
  Response response_;
  Callback<Response> done_;  // null once called or cancelled
  const Method<Request, Response> method_;
  std::unique_ptr<grpc::ClientContext> context_;
  const EventLoop::KeepAlive keep_alive_;
};

// What is more than one call takes: one call after the other.
template <typename Request, typename Response>
class TokenizerClient::PartedCall
    : public Call,
      public std::enable_shared_from_this<PartedCall<Request, Response>> {
 public:
  PartedCall(TokenizerClient* client, CallOptions options, std::vector<Request> parts,
             Callback<Response> done, Method<Request, Response> method)
      : client_(client->self_),
        options_(std::move(options)),
        parts_(std::move(parts)),
        done_(std::move(done)),
        method_(method) {}

  void Cancel() override {
    done_ = nullptr;
    if (current_ != nullptr) current_->Cancel();
  }

  void Next() {
    std::vector<Request> part;
    part.push_back(std::move(parts_[next_++]));
    current_ = (*client_)->Make<Request, Response>(
        options_, std::move(part),
        [self = this->shared_from_this()](absl::StatusOr<Response> response) {
          self->OnPart(std::move(response));
        },
        method_);
  }

 private:
  void OnPart(absl::StatusOr<Response> response) {
    current_ = nullptr;
    if (done_ == nullptr) return;
    if (response.ok()) {
      response_.MergeFrom(*response);
      if (next_ < parts_.size() && *client_ != nullptr) return Next();
      if (next_ < parts_.size()) response = absl::CancelledError("the gateway is shutting down");
    }
    Callback<Response> done = std::exchange(done_, nullptr);
    if (!response.ok()) return done(response.status());
    done(std::move(response_));
  }

  const std::shared_ptr<TokenizerClient*> client_;
  const CallOptions options_;
  std::vector<Request> parts_;
  size_t next_ = 0;
  Response response_;
  Callback<Response> done_;  // null once called or cancelled
  const Method<Request, Response> method_;
  std::shared_ptr<Call> current_;
};

TokenizerClient::TokenizerClient(EventLoop* loop, TokenizerClientOptions options,
                                 GatewayMetrics* metrics, std::function<void()> on_change)
    : loop_(loop),
      options_(std::move(options)),
      metrics_(metrics),
      on_change_(std::move(on_change)),
      self_(std::make_shared<TokenizerClient*>(this)) {
  for (const std::string& address : options_.addresses) {
    sessions_.push_back(std::make_unique<TokenizerSession>(
        loop, address, static_cast<TokenizerSession::Listener*>(this)));
  }
}

TokenizerClient::~TokenizerClient() { *self_ = nullptr; }

void TokenizerClient::Start() {
  for (const auto& session : sessions_) session->Start();
}

template <typename Request, typename Response>
std::shared_ptr<TokenizerClient::Call> TokenizerClient::Make(const CallOptions& options,
                                                             std::vector<Request> parts,
                                                             Callback<Response> done,
                                                             Method<Request, Response> method) {
  if (parts.size() > 1) {
    auto call = std::make_shared<PartedCall<Request, Response>>(this, options, std::move(parts),
                                                                std::move(done), method);
    call->Next();
    return call;
  }
  auto call = std::make_shared<RetriedCall<Request, Response>>(
      this, options, std::move(parts.front()), std::move(done), method);
  loop_->Post([call] { call->Try(); });
  return call;
}

std::shared_ptr<TokenizerClient::Call> TokenizerClient::Encode(const CallOptions& options,
                                                               v1::EncodeRequest request,
                                                               Callback<v1::EncodeResponse> done) {
  return Make<v1::EncodeRequest, v1::EncodeResponse>(
      options, SplitEncode(std::move(request), bounds_), std::move(done),
      [](v1::Tokenizer::Stub* stub, auto* context, auto* encode_request, auto* response,
         std::function<void(grpc::Status)> callback) {
        stub->async()->Encode(context, encode_request, response, std::move(callback));
      });
}

std::shared_ptr<TokenizerClient::Call> TokenizerClient::Decode(const CallOptions& options,
                                                               v1::DecodeRequest request,
                                                               Callback<v1::DecodeResponse> done) {
  return Make<v1::DecodeRequest, v1::DecodeResponse>(
      options, SplitDecode(std::move(request), bounds_), std::move(done),
      [](v1::Tokenizer::Stub* stub, auto* context, auto* decode_request, auto* response,
         std::function<void(grpc::Status)> callback) {
        stub->async()->Decode(context, decode_request, response, std::move(callback));
      });
}

bool TokenizerClient::usable(const TokenizerSession& session) const {
  return session.connected() && session.vocabulary()->fingerprint == vocabulary_->fingerprint;
}

bool TokenizerClient::connected() const {
  return std::any_of(sessions_.begin(), sessions_.end(),
                     [this](const auto& session) { return usable(*session); });
}

TokenizerSession* TokenizerClient::Pick() {
  TokenizerSession* best = nullptr;
  for (size_t i = 0; i < sessions_.size(); ++i) {
    TokenizerSession* session = sessions_[(next_session_ + i) % sessions_.size()].get();
    if (!usable(*session)) continue;
    if (best == nullptr || session->num_sequences() < best->num_sequences()) best = session;
  }
  ++next_session_;
  return best;
}

void TokenizerClient::OnTokenizerConnected(TokenizerSession* session) {
  if (vocabulary_ == nullptr) vocabulary_ = session->vocabulary();
  if (!usable(*session)) {
    LogError("tokenizer not used: its vocabulary differs from the first one's",
             {{"tokenizer", session->address()}});
  } else {
    bounds_ = session->vocabulary()->bounds;
    for (const auto& other : sessions_) {
      if (usable(*other)) bounds_ = TighterOf(bounds_, other->vocabulary()->bounds);
    }
  }
  std::vector<uint64_t> waiting;
  for (const auto& [id, open] : sequences_) {
    if (open->session == nullptr) waiting.push_back(id);
  }
  for (const uint64_t id : waiting) {
    const auto found = sequences_.find(id);
    if (found != sequences_.end()) AttachOrWait(found->second.get());
  }
  CountConnected();
}

void TokenizerClient::OnTokenizerLost(TokenizerSession* session,
                                      std::vector<DecodeSequence*> sequences) {
  for (DecodeSequence* sequence : sequences) AttachOrWait(sequences_.at(sequence->id).get());
  CountConnected();
}

void TokenizerClient::CountConnected() {
  metrics_->tokenizers_ready.Set(
      static_cast<double>(std::count_if(sessions_.begin(), sessions_.end(),
                                        [this](const auto& session) { return usable(*session); })));
  on_change_();
}

void TokenizerClient::AttachOrWait(OpenSequence* open) {
  open->session = Pick();
  if (open->session != nullptr) return open->session->Attach(&open->sequence);
  loop_->RunAfter(options_.timeout, [self = self_, id = open->sequence.id] {
    if (*self != nullptr) (*self)->FailWaiting(id);
  });
}

void TokenizerClient::FailWaiting(uint64_t sequence) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end() || found->second->session != nullptr) return;
  const std::unique_ptr<OpenSequence> open = std::move(found->second);
  sequences_.erase(found);
  open->sequence.listener->OnDecodeError(
      absl::UnavailableError("the tokenizer was lost and none came back; send the request again"));
}

uint64_t TokenizerClient::Open(std::vector<int32_t> context_token_ids, bool keep_special_tokens,
                               DecodeListener* listener) {
  auto open = std::make_unique<OpenSequence>();
  open->sequence.id = next_sequence_++;
  open->sequence.context_token_ids = std::move(context_token_ids);
  open->sequence.keep_special_tokens = keep_special_tokens;
  open->sequence.listener = listener;
  OpenSequence* added = open.get();
  sequences_.emplace(added->sequence.id, std::move(open));
  AttachOrWait(added);
  return added->sequence.id;
}

void TokenizerClient::Append(uint64_t sequence, int32_t token_id) {
  OpenSequence& open = *sequences_.at(sequence);
  open.sequence.token_ids.push_back(token_id);
  if (open.session != nullptr) open.session->Append(open.sequence);
}

void TokenizerClient::Close(uint64_t sequence) {
  OpenSequence& open = *sequences_.at(sequence);
  open.sequence.closing = true;
  if (open.session != nullptr) open.session->Close(open.sequence);
}

void TokenizerClient::Drop(uint64_t sequence) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) return;
  if (found->second->session != nullptr) found->second->session->Detach(sequence);
  sequences_.erase(found);
}

}  // namespace caravan
