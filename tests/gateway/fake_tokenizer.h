// A tokenizer service in the test's own process. Token 3 + b is the byte b; 1 begins and 2 ends a
// text and both are special; from 259 on stand the words of kWords.
#pragma once

#include <grpcpp/grpcpp.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "caravan/v1/tokenizer.grpc.pb.h"
#include "common/server.h"
#include "common/status.h"
#include "common/utf8.h"

namespace caravan {

inline constexpr std::array<const char*, 6> kWords = {" the", " cat", " sat", " END", "E", "ND!"};

inline int32_t WordId(int word) { return 259 + word; }
inline std::vector<int32_t> ByteIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(3 + static_cast<unsigned char>(c));
  return ids;
}

class FakeTokenizer : public v1::Tokenizer::Service {
 public:
  explicit FakeTokenizer(const std::string& listen_address = "127.0.0.1:0") {
    GrpcServerOptions options;
    options.listen_address = listen_address;
    auto server = GrpcServer::Start(options, {this});
    CARAVAN_CHECK(server.ok(), std::string(server.status().message()));
    server_ = *std::move(server);
  }
  ~FakeTokenizer() override { Stop(); }

  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  void Stop() {
    ReleaseEncodes();
    BreakSessions();
    server_->Shutdown(absl::Now());
  }
  void BreakSessions() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (grpc::ServerContext* context : sessions_) context->TryCancel();
  }
  // From now on decode sessions end at a larger message, and GetVocabulary says so.
  void BoundMessages(size_t bytes) { max_message_bytes_ = bytes; }
  int num_refused_messages() const { return num_refused_messages_; }
  // The next calls of Encode fail.
  void RefuseEncodes(int count) { refused_encodes_ = count; }
  // Encode does not answer until released.
  void HoldEncodes() { held_ = true; }
  void ReleaseEncodes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = false;
    released_.notify_all();
  }
  // Until so many calls of Encode have come.
  void AwaitEncodes(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool came =
        released_.wait_for(lock, std::chrono::seconds(20), [&] { return num_encodes_ >= count; });
    CARAVAN_CHECK(came, "no Encode came");
  }
  int num_encodes() const { return num_encodes_; }
  int num_decodes() const { return num_decodes_; }
  std::string last_request_id() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_request_id_;
  }

 private:
  static std::string BytesOf(int32_t id, bool keep_special_tokens) {
    if (id >= 3 && id < 259) return std::string(1, static_cast<char>(id - 3));
    if (id >= 259 && id < 259 + static_cast<int32_t>(kWords.size())) return kWords[id - 259];
    if (!keep_special_tokens) return "";
    return id == 1 ? "<s>" : id == 2 ? "</s>" : "<unk>";
  }

  // Takes the complete characters off the front.
  static std::string TakeComplete(std::string* bytes) {
    const size_t complete = std::min(FindInvalidUtf8(*bytes), bytes->size());
    std::string text = bytes->substr(0, complete);
    bytes->erase(0, complete);
    return text;
  }

  grpc::Status Encode(grpc::ServerContext* context, const v1::EncodeRequest* request,
                      v1::EncodeResponse* response) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++num_encodes_;
      released_.notify_all();
    }
    if (refused_encodes_ > 0) {
      --refused_encodes_;
      return {grpc::StatusCode::UNAVAILABLE, "refused by the test"};
    }
    {
      std::unique_lock<std::mutex> lock(mutex_);
      last_request_id_ = MetadataOf(*context, kRequestIdKey);
      released_.wait(lock, [&] { return !held_; });
    }
    for (const v1::EncodeInput& input : request->inputs()) {
      v1::EncodeOutput* output = response->add_outputs();
      if (input.add_bos()) output->add_token_ids(1);
      for (const int32_t id : ByteIds(input.text())) output->add_token_ids(id);
    }
    return grpc::Status::OK;
  }

  grpc::Status Decode(grpc::ServerContext* context, const v1::DecodeRequest* request,
                      v1::DecodeResponse* response) override {
    ++num_decodes_;
    for (const v1::DecodeInput& input : request->inputs()) {
      std::string* text = response->add_texts();
      for (const int32_t id : input.token_ids()) {
        text->append(BytesOf(id, input.keep_special_tokens()));
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status GetVocabulary(grpc::ServerContext* context, const v1::GetVocabularyRequest* request,
                             v1::GetVocabularyResponse* response) override {
    response->set_size(259 + kWords.size());
    response->set_bos_token_id(1);
    response->set_adds_bos(true);
    response->add_eos_token_ids(2);
    for (const int32_t id : {0, 1, 2}) response->add_special_token_ids(id);
    for (int32_t id = 0; id < static_cast<int32_t>(response->size()); ++id) {
      response->add_tokens(BytesOf(id, true));
    }
    response->set_fingerprint("fake");
    response->set_max_message_bytes(static_cast<uint32_t>(max_message_bytes_));
    return grpc::Status::OK;
  }

  // Of a session: keep special tokens, bytes held back.
  using Sequences = std::map<uint64_t, std::pair<bool, std::string>>;
  static bool Answer(const v1::DecodeSessionRequest& request, Sequences* sequences,
                     v1::DecodeSessionResponse* response) {
    if (request.has_open()) {
      const bool keep = request.open().keep_special_tokens();
      std::string held;
      for (const int32_t id : request.open().context_token_ids()) held.append(BytesOf(id, keep));
      TakeComplete(&held);
      (*sequences)[request.open().sequence()] = {keep, held};
      return false;
    }
    if (request.has_append()) {
      auto& [keep, held] = (*sequences)[request.append().sequence()];
      response->set_sequence(request.append().sequence());
      for (const int32_t id : request.append().token_ids()) held.append(BytesOf(id, keep));
      response->set_num_tokens(static_cast<uint32_t>(request.append().token_ids_size()));
      response->set_text(TakeComplete(&held));
      return true;
    }
    response->set_sequence(request.close().sequence());
    response->set_closed(true);
    if (!(*sequences)[request.close().sequence()].second.empty()) {
      response->set_text("\xef\xbf\xbd");
    }
    sequences->erase(request.close().sequence());
    return true;
  }

  using Stream = grpc::ServerReaderWriter<v1::DecodeSessionResponse, v1::DecodeSessionRequest>;
  grpc::Status DecodeSession(grpc::ServerContext* context, Stream* stream) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      sessions_.push_back(context);
    }
    Sequences sequences;
    v1::DecodeSessionRequest request;
    while (stream->Read(&request)) {
      if (request.ByteSizeLong() > max_message_bytes_) {
        ++num_refused_messages_;
        break;
      }
      v1::DecodeSessionResponse response;
      if (!request.has_batch()) {
        if (Answer(request, &sequences, &response)) stream->Write(response);
        continue;
      }
      for (const v1::DecodeSessionRequest& message : request.batch().messages()) {
        if (!Answer(message, &sequences, response.add_batch()))
          response.mutable_batch()->RemoveLast();
      }
      if (!response.batch().empty()) stream->Write(response);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase(sessions_, context);
    return grpc::Status::OK;
  }

  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<grpc::ServerContext*> sessions_;
  std::string last_request_id_;
  std::atomic<bool> held_{false};
  std::atomic<size_t> max_message_bytes_{16 << 20};
  std::atomic<int> num_refused_messages_{0};
  std::atomic<int> refused_encodes_{0};
  std::atomic<int> num_encodes_{0};
  std::atomic<int> num_decodes_{0};
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace caravan
