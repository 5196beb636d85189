// Triton's HTTP door before a worker that does what the test says.
#include "gateway/triton/http/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/gateway_cluster.h"
#include "tests/gateway/http/raw_http_client.h"

namespace caravan {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

constexpr char kBody[] =
    R"({"text_input":"hello","max_tokens":100,"stream":true,"exclude_input_in_output":true})";

GatewayConfig EveryToken() {
  GatewayConfig config;
  config.triton.stream_interval = 1;
  return config;
}

std::string Post(const std::string& call, const std::string& body = kBody) {
  return absl::StrCat("POST /v2/models/ensemble/", call,
                      " HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

// The next event of a stream whose head was read.
Json NextEvent(RawHttpClient* client) {
  const std::string chunk = client->ReadChunk();
  EXPECT_EQ(chunk.substr(0, 6), "data: ");
  EXPECT_EQ(chunk.substr(chunk.size() - std::min<size_t>(2, chunk.size())), "\n\n");
  return chunk.size() < 8 ? Json() : Json::parse(chunk.substr(6), nullptr, false);
}

TEST(TritonHttpService, EventsComeWhileTheModelGenerates) {
  Cluster cluster(EveryToken());
  RawHttpClient client(cluster.gateway().http_port());
  client.Send(Post("generate_stream"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(0)});
  const RawResponse head = client.Read(/*has_body=*/false);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.Header("Content-Type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(NextEvent(&client)["text_output"], " the");
  cluster.worker().Emit(key, {WordId(1)});
  EXPECT_EQ(NextEvent(&client)["text_output"], " the cat");
  cluster.worker().Emit(key, {WordId(2)}, v1::WorkerTokenEvent::LENGTH);
  EXPECT_EQ(NextEvent(&client)["text_output"], " the cat sat");
  EXPECT_EQ(client.ReadChunk(), "");
  client.Send("GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read().status, 200);  // on the same connection
}

TEST(TritonHttpService, AnErrorAfterTheFirstEventIsAnEvent) {
  Cluster cluster(EveryToken());
  RawHttpClient client(cluster.gateway().http_port());
  client.Send(Post("generate_stream"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(0)});
  client.Read(/*has_body=*/false);
  NextEvent(&client);
  cluster.worker().BreakSessions();
  EXPECT_TRUE(NextEvent(&client)["error"].is_string());
  EXPECT_EQ(client.ReadChunk(), "");
}

TEST(TritonHttpService, AnErrorBeforeTheFirstEventIsAStatus) {
  GatewayConfig config = EveryToken();
  config.admission.max_inflight_requests = 1;
  config.admission.max_queued_requests = 0;
  Cluster cluster(config);
  RawHttpClient first(cluster.gateway().http_port());
  first.Send(Post("generate_stream"));
  cluster.worker().AwaitSubmit();
  RawHttpClient second(cluster.gateway().http_port());
  const RawResponse refused = second.Ask(Post("generate_stream"));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.Header("Retry-After"), "1");
  EXPECT_TRUE(Json::parse(refused.body)["error"].is_string());
}

TEST(TritonHttpService, AClientThatLeavesIsCancelledAtTheWorker) {
  Cluster cluster(EveryToken());
  for (const char* call : {"generate", "generate_stream"}) {
    RawHttpClient client(cluster.gateway().http_port());
    client.Send(Post(call));
    const uint64_t key = cluster.worker().AwaitSubmit().key();
    client.Close();
    EXPECT_EQ(cluster.worker().AwaitCancel(), key) << call;
  }
}

TEST(TritonHttpService, WhatASlowClientMissesIsOneEvent) {
  GatewayConfig config = EveryToken();
  config.http.send_buffer_bytes = 4 << 10;
  Cluster cluster(config);
  RawHttpClient client(cluster.gateway().http_port(), 4 << 10);
  const std::string body = R"({"text_input":"hello","max_tokens":400,"stream":true})";
  client.Send(Post("generate_stream", body));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  for (int i = 0; i < 399; ++i) cluster.worker().Emit(key, {WordId(0)});
  cluster.worker().Emit(key, {WordId(3)}, v1::WorkerTokenEvent::LENGTH);
  cluster.AwaitInflight(0, 0);  // the model is done before the client reads
  client.Read(/*has_body=*/false);
  std::string last;
  int num_events = 0;
  for (Json event = NextEvent(&client);; event = NextEvent(&client)) {
    ++num_events;
    last = event["text_output"];
    if (last.find(" END") != std::string::npos) break;
  }
  EXPECT_EQ(client.ReadChunk(), "");
  EXPECT_LE(num_events, 400);
}

TEST(TritonHttpService, ALargeRequestIsParsedAsideFromTheConnections) {
  Cluster cluster;
  RawHttpClient client(cluster.gateway().http_port());
  std::string body = R"({"inputs":[)" + std::string(1 << 20, ' ') + "]}";
  const RawResponse response = client.Ask(Post("infer", body));
  EXPECT_EQ(response.status, 400);
  EXPECT_THAT(response.body, HasSubstr("'inputs'"));
}

}  // namespace
}  // namespace caravan
