// grpc_service.proto ↔ the requests and answers of InferenceServer: nothing else happens at this
// front door.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/grpc_call.h"
#include "gateway/triton/inference_server.h"
#include "inference/grpc_service.pb.h"

namespace caravan {

// Takes the message's data. Typed contents are packed. INVALID_ARGUMENT names the input whose data
// is missing, doubled, of another type or out of its type's range. `id` is what could be read of
// the request's, error or not.
absl::StatusOr<InferRequest> ParseInferRequest(const grpc::ByteBuffer& bytes, const CallInfo& call,
                                               bool streaming, std::string* id);
// The error of one request on a stream, which is its final response.
inference::ModelStreamInferResponse ErrorResponse(const std::string& id,
                                                  const absl::Status& status);

inference::ModelMetadataResponse ModelMetadataOf(const TritonModel& model);
inference::ModelStatistics ToProto(const ModelStatistics& statistics);

InferParameters FromProto(
    const google::protobuf::Map<std::string, inference::ModelRepositoryParameter>& parameters);

TraceSettingValues FromProto(const inference::TraceSettingRequest& request);
inference::TraceSettingResponse ToProto(const TraceSettingValues& values);
// INVALID_ARGUMENT for a setting without a value.
absl::StatusOr<LogSettingValues> FromProto(const inference::LogSettingsRequest& request);
inference::LogSettingsResponse ToProto(const LogSettingValues& values);

}  // namespace caravan
