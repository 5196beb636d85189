#include "cli/load_generator.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/server.h"

namespace caravan {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);
// Below it lie the special and the single-byte tokens of LLaMA vocabularies.
constexpr int kFirstPlainToken = 259;

}  // namespace

// One request and its stream; its callbacks come one at a time.
class LoadGenerator::Call : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(LoadGenerator* owner, v1::Generation::Stub* stub, v1::GenerateRequest request)
      : owner_(owner), request_(std::move(request)) {
    record_.sent_at = absl::Now();
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void Cancel() {
    cancelled_ = true;
    context_.TryCancel();
  }
  // After OnDone.
  const RequestRecord& record() const { return record_; }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_started()) record_.prompt_tokens = event_.started().prompt_tokens();
    if (event_.has_tokens()) AddTokens(static_cast<int>(event_.tokens().num_tokens()));
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.finished_at = absl::Now();
    record_.status = FromGrpcStatus(status);
    record_.cancelled = cancelled_ && absl::IsCancelled(record_.status);
    const absl::MutexLock lock(&owner_->mutex_);
    ++owner_->counts_.finished;
    owner_->counts_.failed += status.ok() || record_.cancelled ? 0 : 1;
  }

 private:
  void AddTokens(int count) {
    if (count == 0) return;
    const absl::Time now = absl::Now();
    if (record_.output_tokens == 0) {
      record_.first_token_at = now;
    } else {
      const double gap_ms = absl::ToDoubleMilliseconds(now - record_.last_token_at);
      record_.inter_token_ms.insert(record_.inter_token_ms.end(), count, gap_ms / count);
    }
    record_.last_token_at = now;
    record_.output_tokens += count;
    const absl::MutexLock lock(&owner_->mutex_);
    owner_->counts_.output_tokens += count;
  }

  LoadGenerator* owner_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateResponse event_;
  std::atomic<bool> cancelled_ = false;
  RequestRecord record_;
};

LoadGenerator::LoadGenerator(const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                             LoadOptions options)
    : options_(std::move(options)), random_(options_.seed) {
  stubs_.reserve(channels.size());
  for (const std::shared_ptr<grpc::Channel>& channel : channels) {
    stubs_.push_back(v1::Generation::NewStub(channel));
  }
}

LoadGenerator::~LoadGenerator() = default;

std::vector<RequestRecord> LoadGenerator::Run(
    const std::function<void(const LoadProgressCounts&)>& on_progress) {
  const absl::MutexLock lock(&mutex_);
  next_arrival_ = absl::Now();
  absl::Time next_report = absl::Now();
  while (true) {
    const bool all_started = cancelled_ || counts_.started == options_.num_requests;
    if (all_started && num_running() == 0) break;
    const absl::Time now = absl::Now();
    if (!all_started && IsDue(now)) {
      StartOne();
      continue;
    }
    if (now >= next_report) {
      next_report = now + kProgressInterval;
      const LoadProgressCounts counts = counts_;
      mutex_.Unlock();  // the callback may Cancel
      on_progress(counts);
      mutex_.Lock();
      continue;
    }
    const absl::Time wake_at =
        all_started || options_.rate == 0 ? next_report : std::min(next_report, next_arrival_);
    const int finished_before = counts_.finished;
    const bool cancelled_before = cancelled_;
    const auto changed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return counts_.finished != finished_before || cancelled_ != cancelled_before;
    };
    mutex_.AwaitWithDeadline(absl::Condition(&changed), wake_at);
  }
  const LoadProgressCounts counts = counts_;
  mutex_.Unlock();
  on_progress(counts);
  mutex_.Lock();
  std::vector<RequestRecord> records;
  for (const auto& call : calls_) records.push_back(call->record());
  return records;
}

bool LoadGenerator::IsDue(absl::Time now) {
  return options_.rate > 0 ? now >= next_arrival_ : num_running() < options_.concurrency;
}

void LoadGenerator::StartOne() {
  if (options_.rate > 0) {
    std::exponential_distribution<double> gap(options_.rate);
    next_arrival_ += absl::Seconds(gap(random_));
  }
  v1::Generation::Stub* stub = stubs_[counts_.started % stubs_.size()].get();
  ++counts_.started;
  calls_.push_back(std::make_unique<Call>(this, stub, MakeRequest()));
}

v1::GenerateRequest LoadGenerator::MakeRequest() {
  const auto draw = [this](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random_);
  };
  const int last = options_.vocabulary_size - 1;
  const int first = std::min(kFirstPlainToken, last);
  const int prompt_tokens = draw(options_.prompt_tokens.least, options_.prompt_tokens.most);
  const int output_tokens = draw(options_.output_tokens.least, options_.output_tokens.most);
  v1::GenerateRequest request;
  request.set_model(options_.model);
  v1::TokenIds& ids = *request.add_prompt()->mutable_token_ids();
  for (int i = 0; i < prompt_tokens; ++i) ids.add_ids(draw(first, last));
  request.mutable_sampling()->set_temperature(static_cast<float>(options_.temperature));
  request.mutable_sampling()->set_seed(random_());
  request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(output_tokens));
  request.mutable_stopping()->set_ignore_eos(options_.ignore_eos);
  request.mutable_output()->set_no_text(!options_.text);
  request.mutable_output()->set_token_ids(!options_.text);
  return request;
}

void LoadGenerator::Cancel() {
  const absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (const auto& call : calls_) call->Cancel();
}

}  // namespace caravan
