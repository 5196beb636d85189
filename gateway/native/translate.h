// generation.proto ↔ the validated request and its output: nothing else happens at this front door.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "caravan/v1/generation.pb.h"
#include "gateway/generation/decode_sequence.h"
#include "gateway/generation/output_sink.h"
#include "gateway/generation/request.h"
#include "gateway/grpc_call.h"
#include "gateway/replica_pool.h"

namespace caravan {

// Takes the message's texts. The id is the message's, else the call's; the deadline the earlier of
// both.
RequestSpec ToSpec(v1::GenerateRequest request, const CallInfo& call);

// What a client asked to see of tokens.
struct OutputView {
  bool token_ids = false;
  bool logprobs = false;
  std::shared_ptr<const Vocabulary> vocabulary;  // for the texts of top log probabilities
};
OutputView ViewOf(const v1::OutputOptions& output);  // without the vocabulary

v1::Started ToProto(const StartedInfo& started);
// Adds a chunk to an event of the same sample.
void AppendTo(OutputChunk chunk, const OutputView& view, v1::TokenEvent* event);
v1::Finished ToProto(const SampleEnd& end);
v1::ListModelsResponse ToProto(const std::vector<ReplicaStatus>& replicas);

}  // namespace caravan
