// caravan status: what runs where, and how busy it is.
#include <grpcpp/grpcpp.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "caravan/v1/generation.grpc.pb.h"
#include "cli/cluster_state.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "common/server.h"
#include "google/protobuf/util/json_util.h"

namespace caravan {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(5);

std::string DescribeBlocks(const v1::ReplicaInfo& replica) {
  if (replica.total_blocks() == 0) return "-";
  return absl::StrFormat("%.0f %% of %d", 100.0 * replica.used_blocks() / replica.total_blocks(),
                         replica.total_blocks() * replica.block_tokens());
}

std::string FormatReplicas(const v1::ModelInfo& model) {
  std::vector<std::vector<std::string>> rows = {{"REPLICA", "STATE", "DEVICE", "TP", "EPOCH",
                                                 "WAITING", "RUNNING", "KV TOKENS", "CACHED",
                                                 "TOKENS/S"}};
  for (const v1::ReplicaInfo& replica : model.replicas()) {
    rows.push_back({replica.address(), replica.state(), replica.device(),
                    absl::StrCat(replica.tensor_parallel()), absl::StrCat(replica.epoch()),
                    absl::StrCat(replica.waiting_requests()),
                    absl::StrCat(replica.running_sequences()), DescribeBlocks(replica),
                    absl::StrCat(replica.cached_blocks() * replica.block_tokens()),
                    absl::StrFormat("%.1f", replica.generated_tokens_per_second())});
  }
  return FormatTable(rows);
}

std::string DescribeGpuMemory(const v1::RankInfo& rank) {
  if (rank.device_total_bytes() == 0) return "-";
  return absl::StrCat(FormatBytes(rank.device_memory_bytes()), " of ",
                      FormatBytes(rank.device_total_bytes()));
}

std::string FormatRanks(const v1::ModelInfo& model) {
  std::vector<std::vector<std::string>> rows = {
      {"REPLICA", "RANK", "STATE", "HOST", "PID", "MEMORY", "DEVICE", "GPU MEMORY"}};
  for (const v1::ReplicaInfo& replica : model.replicas()) {
    for (const v1::RankInfo& rank : replica.ranks()) {
      rows.push_back({replica.address(), absl::StrCat(rank.rank()), rank.state(), rank.host(),
                      absl::StrCat(rank.pid()), FormatBytes(rank.memory_bytes()), rank.device(),
                      DescribeGpuMemory(rank)});
    }
  }
  return rows.size() == 1 ? "" : FormatTable(rows);
}

absl::Status PrintStatus(const std::string& address, bool json) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kTimeout));
  v1::ListModelsResponse response;
  const auto stub = v1::Generation::NewStub(MakeChannel(address));
  const grpc::Status status = stub->ListModels(&context, {}, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  if (json) {
    std::string text;
    google::protobuf::util::JsonPrintOptions options;
    options.add_whitespace = true;
    options.always_print_primitive_fields = true;
    options.preserve_proto_field_names = true;
    const auto converted = google::protobuf::util::MessageToJsonString(response, &text, options);
    if (!converted.ok()) return absl::InternalError(std::string(converted.message()));
    WriteOut(text);
    return absl::OkStatus();
  }
  WriteOut(absl::StrCat("gateway ", address, "\n"));
  if (response.models().empty()) WriteOut("no model is served yet: no replica has reported\n");
  for (const v1::ModelInfo& model : response.models()) {
    WriteOut(absl::StrFormat("\n%s  %s, %s, %d tokens of vocabulary, context %d tokens\n\n",
                             model.name(), model.architecture(), model.dtype(),
                             model.vocabulary_size(), model.max_context_tokens()));
    WriteOut(FormatReplicas(model));
    WriteOut(absl::StrCat("\n", FormatRanks(model)));
  }
  return absl::OkStatus();
}

}  // namespace

int StatusCommand(const std::vector<std::string>& words) {
  std::string address;
  bool json = false;
  Options options("status", "",
                  "Shows the models that a gateway serves: replicas, ranks, load and "
                  "KV memory.");
  options.Add("address", &address,
              "host:port of a gateway; the running cluster's if not given, else localhost:8001");
  options.Add("json", &json, "write ListModels' answer as JSON");
  options.ParseOrExit(words);
  options.CheckAddressOrExit("address", address);
  return Report("status", PrintStatus(ResolveGatewayAddress(address), json));
}

}  // namespace caravan
