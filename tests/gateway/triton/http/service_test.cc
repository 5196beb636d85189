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
    R"({"text_input":"hello","max_tokens":100,"stream":true,"stream_delta":false,)"
    R"("exclude_input_in_output":true})";

GatewayConfig EveryToken() {
  GatewayConfig config;
  config.triton.stream_interval = 1;
  return config;
}

std::string Post(const std::string& call, const std::string& body = kBody) {
  return absl::StrCat("POST /v2/models/ensemble/", call,
                      " HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

// The events of a stream whose head was read; a chunk may hold several.
class EventReader {
 public:
  explicit EventReader(RawHttpClient* client) : client_(client) {}

  // null at the end of the stream.
  Json Next() {
    size_t end = 0;
    while ((end = text_.find("\n\n")) == std::string::npos) {
      const std::string chunk = client_->ReadChunk();
      if (chunk.empty()) return Json();
      text_.append(chunk);
    }
    const std::string event = text_.substr(0, end);
    text_.erase(0, end + 2);
    EXPECT_EQ(event.substr(0, 6), "data: ");
    return Json::parse(event.substr(6), nullptr, false);
  }

 private:
  RawHttpClient* const client_;
  std::string text_;
};

TEST(TritonHttpService, EventsComeWhileTheModelGenerates) {
  Cluster cluster(EveryToken());
  RawHttpClient client(cluster.gateway().http_port());
  client.Send(Post("generate_stream"));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  cluster.worker().Emit(key, {WordId(0)});
  const RawResponse head = client.Read(/*has_body=*/false);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.Header("Content-Type"), "text/event-stream; charset=utf-8");
  EventReader events(&client);
  EXPECT_EQ(events.Next()["text_output"], " the");
  cluster.worker().Emit(key, {WordId(1)});
  EXPECT_EQ(events.Next()["text_output"], " the cat");
  cluster.worker().Emit(key, {WordId(2)}, v1::WorkerTokenEvent::LENGTH);
  EXPECT_EQ(events.Next()["text_output"], " the cat sat");
  EXPECT_TRUE(events.Next().is_null());
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
  EventReader events(&client);
  events.Next();
  cluster.worker().BreakSessions();
  EXPECT_TRUE(events.Next()["error"].is_string());
  EXPECT_TRUE(events.Next().is_null());
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
  EXPECT_EQ(refused.status, 503);
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

TEST(TritonHttpService, AClientThatReadsLateGetsEveryEvent) {
  GatewayConfig config = EveryToken();
  config.http.send_buffer_bytes = 4 << 10;
  Cluster cluster(config);
  RawHttpClient client(cluster.gateway().http_port(), 4 << 10);
  const std::string body =
      R"({"text_input":"hello","max_tokens":400,"stream":true,"stream_delta":false})";
  client.Send(Post("generate_stream", body));
  const uint64_t key = cluster.worker().AwaitSubmit().key();
  for (int i = 0; i < 399; ++i) cluster.worker().Emit(key, {WordId(0)});
  cluster.worker().Emit(key, {WordId(3)}, v1::WorkerTokenEvent::LENGTH);
  // The model is done before the client reads.
  Cluster::Await(
      [&] { return cluster.gateway().metrics().finished(EndReason::kLength).Value() == 1; });
  client.Read(/*has_body=*/false);
  EventReader events(&client);
  Json last;
  int num_events = 0;
  for (Json event = events.Next(); !event.is_null(); event = events.Next()) {
    ++num_events;
    last = std::move(event);
  }
  EXPECT_THAT(last["text_output"].get<std::string>(), testing::EndsWith(" END"));
  EXPECT_EQ(num_events, 400);
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
