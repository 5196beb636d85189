// One step of a worker, as a gateway passes it on: an append of one token for each of N sequences
// over one session on loopback, until all answers are there.
#include <benchmark/benchmark.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "common/server.h"
#include "common/status.h"
#include "tokenizer_service/service.h"

namespace caravan {
namespace {

void DecodeSessionStep(benchmark::State& state) {
  auto tokenizer = LoadTokenizer(CARAVAN_SOURCE_DIR "/models/demo");
  CARAVAN_CHECK(tokenizer.ok(), tokenizer.status().message());
  MetricsRegistry registry;
  TokenizerMetrics metrics(registry);
  TokenizerService service(tokenizer->get(), ChatFormat::kPlain, TokenizerLimits(), &metrics);
  auto server = GrpcServer::Start({}, {&service});
  CARAVAN_CHECK(server.ok(), server.status().message());
  auto stub = v1::Tokenizer::NewStub(MakeChannel(absl::StrCat("127.0.0.1:", (*server)->port())));
  grpc::ClientContext context;
  auto session = stub->DecodeSession(&context);
  const auto num_sequences = static_cast<uint64_t>(state.range(0));
  v1::DecodeSessionRequest request;
  for (uint64_t i = 0; i < num_sequences; ++i) {
    request.mutable_open()->set_sequence(i);
    session->Write(request);
  }
  const int32_t the = (*tokenizer)->Encode("the", {})->front();
  request.mutable_append()->add_token_ids(the);
  v1::DecodeSessionResponse response;
  for (auto _ : state) {
    for (uint64_t i = 0; i < num_sequences; ++i) {
      request.mutable_append()->set_sequence(i);
      session->Write(request, grpc::WriteOptions().clear_buffer_hint());
    }
    for (uint64_t i = 0; i < num_sequences; ++i) CARAVAN_CHECK(session->Read(&response));
  }
  state.SetItemsProcessed(static_cast<int64_t>(num_sequences * state.iterations()));
  session->WritesDone();
  while (session->Read(&response)) continue;
  CARAVAN_CHECK(session->Finish().ok());
}
BENCHMARK(DecodeSessionStep)
    ->Arg(1)
    ->Arg(16)
    ->Arg(256)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace caravan
