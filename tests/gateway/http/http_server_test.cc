#include "gateway/http/http_server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/http/content_coding.h"
#include "tests/gateway/http/echo_server.h"

namespace caravan {
namespace {

std::string Post(std::string_view path, std::string_view body, std::string_view headers = "") {
  return absl::StrCat("POST ", std::string(path),
                      " HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n",
                      std::string(headers), "\r\n", std::string(body));
}

HttpResponse StreamHead() {
  HttpResponse head;
  head.content_type = "text/event-stream";
  return head;
}

TEST(HttpServer, AnswersManyRequestsOnOneConnection) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  for (int i = 0; i < 10; ++i) {
    const RawResponse response = client.Ask(Post("/echo?x=1", absl::StrCat("body ", i)));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, absl::StrCat("POST /echo body ", i));
    EXPECT_EQ(response.Header("Content-Type"), "text/plain");
    EXPECT_EQ(response.Header("Connection"), "");
  }
}

TEST(HttpServer, AnswersPipelinedRequestsInOrder) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  std::string all;
  for (int i = 0; i < 2000; ++i) absl::StrAppend(&all, Post("/echo", std::to_string(i)));
  std::thread writer([&] { client.Send(all); });
  for (int i = 0; i < 2000; ++i) {
    ASSERT_EQ(client.Read().body, absl::StrCat("POST /echo ", i));
  }
  writer.join();
}

TEST(HttpServer, LaterRequestsWaitForASlowEarlierOne) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  client.Send(Post("/wait", "1") + Post("/echo", "2"));
  const auto exchange = echo.Next();
  HttpResponse late;
  late.body = "late";
  exchange->Respond(late);
  EXPECT_EQ(client.Read().body, "late");
  EXPECT_EQ(client.Read().body, "POST /echo 2");
}

TEST(HttpServer, TakesChunkedBodiesByteByByte) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  const std::string request =
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "5;ext=1\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nTrailer: x\r\n\r\n";
  for (const char c : request) client.Send({&c, 1});
  EXPECT_EQ(client.Read().body, "POST /echo hello world");
}

TEST(HttpServer, DecompressesRequestsAndCompressesResponses) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  const std::string text(200000, 'z');
  for (const ContentCoding coding : {ContentCoding::kGzip, ContentCoding::kDeflate}) {
    const std::string name(NameOf(coding));
    const RawResponse response = client.Ask(
        Post("/echo", EncodeContent(coding, text),
             absl::StrCat("Content-Encoding: ", name, "\r\nAccept-Encoding: ", name, "\r\n")));
    ASSERT_EQ(response.status, 200);
    EXPECT_EQ(response.Header("Content-Encoding"), name);
    EXPECT_LT(response.body.size(), text.size() / 10);
    ContentDecoder decoder(coding, 1 << 20);
    std::string decoded;
    ASSERT_TRUE(decoder.Add(response.body, &decoded).ok());
    EXPECT_EQ(decoded, "POST /echo " + text);
  }
}

TEST(HttpServer, SpeaksHttp10) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  const RawResponse response = client.Ask("GET /echo HTTP/1.0\r\n\r\n");
  EXPECT_EQ(response.body, "GET /echo ");
  EXPECT_EQ(response.Header("Connection"), "close");
  EXPECT_TRUE(client.AtEnd());
  RawHttpClient patient(echo.port());
  patient.Send("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(patient.Read().Header("Connection"), "keep-alive");
  EXPECT_EQ(patient.Ask("GET /echo HTTP/1.0\r\n\r\n").status, 200);
}

TEST(HttpServer, AStreamToHttp10EndsWithTheConnection) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  client.Send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const auto exchange = echo.Next();
  exchange->BeginStream(StreamHead());
  EXPECT_TRUE(exchange->Write("one ").ok());
  exchange->EndStream("two");
  const RawResponse response = client.Read();
  EXPECT_EQ(response.Header("Transfer-Encoding"), "");
  EXPECT_EQ(response.body, "one two");
}

TEST(HttpServer, AnswersHeadWithoutABody) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  client.Send("HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read(/*has_body=*/false).Header("Content-Length"), "11");
  EXPECT_EQ(client.Ask(Post("/echo", "")).body, "POST /echo ");
}

TEST(HttpServer, InvitesABodyThatWaitsForIt) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  client.Send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.Read(/*has_body=*/false).status, 100);
  EXPECT_EQ(client.Ask("ok").body, "POST /echo ok");
}

TEST(HttpServer, StreamsPieceByPieceAndGoesOnWithTheConnection) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  client.Send(Post("/stream", ""));
  const auto exchange = echo.Next();
  exchange->BeginStream(StreamHead());
  const RawResponse head = client.Read(/*has_body=*/false);
  EXPECT_EQ(head.Header("Content-Type"), "text/event-stream");
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(exchange->Write(absl::StrCat("data: ", i, "\n\n")).ok());
    EXPECT_EQ(client.ReadChunk(), absl::StrCat("data: ", i, "\n\n"));
  }
  exchange->EndStream("");
  EXPECT_EQ(client.ReadChunk(), "");
  EXPECT_EQ(client.Ask(Post("/echo", "next")).body, "POST /echo next");
}

TEST(HttpServer, TellsWhenAllThatWasWrittenHasLeft) {
  EchoServer echo;
  RawHttpClient client(echo.port());
  client.Send(Post("/stream", ""));
  const auto exchange = echo.Next();
  int left = 100;
  exchange->WhenDrained([&left, weak = std::weak_ptr<HttpExchange>(exchange)] {
    const auto self = weak.lock();
    if (--left == 0) return self->EndStream("");
    EXPECT_TRUE(self->Write(absl::StrCat(left, " ")).ok());
  });
  exchange->BeginStream(StreamHead());
  ASSERT_TRUE(exchange->Write("begin ").ok());
  const RawResponse response = client.Read();
  EXPECT_TRUE(absl::StartsWith(response.body, "begin 99 98 "));
  EXPECT_TRUE(absl::EndsWith(response.body, " 2 1 "));
}

TEST(HttpServer, CutsAReaderThatLetsItsBufferFill) {
  HttpServerOptions options;
  options.max_stream_buffer_bytes = 64 << 10;
  options.send_buffer_bytes = 16 << 10;
  EchoServer echo(options);
  RawHttpClient slow(echo.port(), 16 << 10);
  slow.Send(Post("/stream", ""));
  const auto exchange = echo.Next();
  exchange->BeginStream(StreamHead());
  absl::Status status;
  size_t written = 0;
  while (status.ok() && written < (100 << 20)) {
    status = exchange->Write(std::string(1000, 'x'));
    written += 1000;
    // Neighbours are served meanwhile.
    if (written % 50000 == 0) {
      RawHttpClient neighbour(echo.port());
      EXPECT_EQ(neighbour.Ask(Post("/echo", "?")).status, 200);
    }
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(echo.metrics().slow_readers.Value(), 1);
  exchange->EndStream("bye");
  const RawResponse response = slow.Read();
  EXPECT_TRUE(response.complete);
  EXPECT_EQ(response.body.size(), written - 1000 + 3);
}

TEST(HttpServer, CutsAReaderThatTakesNothing) {
  HttpServerOptions options;
  options.send_buffer_bytes = 16 << 10;
  options.slow_reader_timeout_ms = 200;
  EchoServer echo(options);
  RawHttpClient slow(echo.port(), 16 << 10);
  slow.Send(Post("/stream", ""));
  const auto exchange = echo.Next();
  std::atomic<bool> gone = false;
  exchange->WhenGone([&] { gone = true; });
  exchange->BeginStream(StreamHead());
  while (exchange->Write(std::string(1000, 'x')).ok()) {
  }
  AwaitTrue([&] { return gone.load(); });
  EXPECT_EQ(exchange->Write("x").code(), absl::StatusCode::kCancelled);
}

TEST(HttpServer, NoticesAClientThatLeaves) {
  EchoServer echo;
  for (const bool reset : {false, true}) {
    for (const bool streaming : {false, true}) {
      RawHttpClient client(echo.port());
      client.Send(Post("/wait", ""));
      const auto exchange = echo.Next();
      std::atomic<bool> gone = false;
      exchange->WhenGone([&] { gone = true; });
      if (streaming) {
        exchange->BeginStream(StreamHead());
        EXPECT_EQ(client.Read(/*has_body=*/false).status, 200);
      }
      reset ? client.Reset() : client.Close();
      AwaitTrue([&] { return gone.load(); });
      std::atomic<bool> told_late = false;
      exchange->WhenGone([&] { told_late = true; });
      EXPECT_TRUE(told_late);
    }
  }
}

TEST(HttpServer, ACompleteAnswerIsNotAClientThatLeft) {
  EchoServer echo;
  std::atomic<int> gone = 0;
  {
    RawHttpClient client(echo.port());
    client.Send(Post("/wait", ""));
    const auto exchange = echo.Next();
    exchange->WhenGone([&] { ++gone; });
    exchange->Respond({});
    EXPECT_EQ(client.Read().status, 200);
  }
  AwaitTrue([&] { return echo.metrics().connections.Value() == 0; });
  EXPECT_EQ(gone, 0);
}

struct BadRequest {
  const char* name;
  std::string bytes;
  int status;
};

TEST(HttpServer, RefusesMalformedRequestsAndCloses) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  options.max_header_bytes = 2000;
  EchoServer echo(options);
  const std::string bomb = EncodeContent(ContentCoding::kGzip, std::string(100000, 'a'));
  const std::vector<BadRequest> requests = {
      {"garbage", "\x01\x02\x03 garbage\r\n\r\n", 400},
      {"no version", "GET /\r\n\r\n", 400},
      {"http/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"huge header", "GET / HTTP/1.1\r\nX: " + std::string(5000, 'x') + "\r\n\r\n", 431},
      {"endless header", "GET / HTTP/1.1\r\nX: " + std::string(5000, 'x'), 431},
      {"bad field", "GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", 400},
      {"bad length", "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400},
      {"negative length", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"two lengths", "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"2 GB claim", "POST / HTTP/1.1\r\nContent-Length: 2147483648\r\n\r\n", 413},
      {"2^64 claim", "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", 413},
      {"2^64+1 claim", "POST / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n", 400},
      {"large body", Post("/echo", std::string(1001, 'x')), 413},
      {"large chunks",
       "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + std::string(0x400, 'x'),
       413},
      {"large chunk claim",
       "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 413},
      {"bad chunk", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
      {"endless chunk header",
       "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(40000, 'x'), 400},
      {"odd transfer", "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
      {"odd coding", Post("/echo", "x", "Content-Encoding: br\r\n"), 415},
      {"not gzip", Post("/echo", "xxxxxxxx", "Content-Encoding: gzip\r\n"), 400},
      {"cut gzip", Post("/echo", bomb.substr(0, 20), "Content-Encoding: gzip\r\n"), 400},
      {"bomb", Post("/echo", bomb, "Content-Encoding: gzip\r\n"), 413},
      {"expects a miracle", Post("/echo", "x", "Expect: miracle\r\n"), 417},
  };
  for (const BadRequest& request : requests) {
    RawHttpClient client(echo.port());
    const RawResponse response = client.Ask(request.bytes);
    EXPECT_EQ(response.status, request.status) << request.name << ": " << response.body;
    EXPECT_FALSE(response.body.empty()) << request.name;
    EXPECT_EQ(response.Header("Connection"), "close") << request.name;
    EXPECT_TRUE(client.AtEnd()) << request.name;
  }
  RawHttpClient client(echo.port());
  EXPECT_EQ(client.Ask(Post("/echo", "fine")).body, "POST /echo fine");
}

TEST(HttpServer, AClientThatSendsTooMuchStillReadsTheError) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  EchoServer echo(options);
  RawHttpClient client(echo.port());
  client.Send(absl::StrCat("POST /echo HTTP/1.1\r\nContent-Length: ", 50 << 20, "\r\n\r\n"));
  client.Send(std::string(8 << 20, 'x'));
  EXPECT_EQ(client.Read().status, 413);
}

TEST(HttpServer, BoundsTheBodiesOfAllRequestsTogether) {
  HttpServerOptions options;
  options.max_all_bodies_bytes = 150000;
  EchoServer echo(options);
  RawHttpClient first(echo.port());
  first.Send(Post("/wait", std::string(100000, 'x')));
  auto exchange = echo.Next();
  RawHttpClient second(echo.port());
  EXPECT_EQ(second.Ask(Post("/echo", std::string(100000, 'x'))).status, 503);
  exchange->Respond({});
  EXPECT_EQ(first.Read().status, 200);
  exchange = nullptr;
  AwaitTrue([&] { return echo.metrics().body_bytes.Value() == 0; });
  RawHttpClient third(echo.port());
  EXPECT_EQ(third.Ask(Post("/echo", std::string(100000, 'x'))).status, 200);
}

TEST(HttpServer, EndsRequestsThatComeTooSlowly) {
  HttpServerOptions options;
  options.header_timeout_ms = 150;
  options.body_timeout_ms = 150;
  options.idle_timeout_ms = 150;
  EchoServer echo(options);
  RawHttpClient silent(echo.port());
  RawHttpClient half_a_header(echo.port());
  half_a_header.Send("GET /echo HTTP/1.1\r\nX-Slow: ");
  RawHttpClient half_a_body(echo.port());
  half_a_body.Send("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf");
  RawHttpClient idle(echo.port());
  EXPECT_EQ(idle.Ask(Post("/echo", "")).status, 200);
  EXPECT_TRUE(silent.AtEnd());
  EXPECT_EQ(half_a_header.Read().status, 408);
  EXPECT_EQ(half_a_body.Read().status, 408);
  EXPECT_TRUE(idle.AtEnd());
}

TEST(HttpServer, RefusesConnectionsAboveTheLimit) {
  HttpServerOptions options;
  options.max_connections = 2;
  EchoServer echo(options);
  auto first = std::make_unique<RawHttpClient>(echo.port());
  RawHttpClient second(echo.port());
  EXPECT_EQ(first->Ask(Post("/echo", "")).status, 200);
  EXPECT_EQ(second.Ask(Post("/echo", "")).status, 200);
  RawHttpClient third(echo.port());
  EXPECT_EQ(third.Read().status, 503);
  first->Close();
  third.Close();
  AwaitTrue([&] { return echo.metrics().connections.Value() == 1; });
  RawHttpClient fourth(echo.port());
  EXPECT_EQ(fourth.Ask(Post("/echo", "")).status, 200);
}

TEST(HttpServer, DrainsAndThenCuts) {
  EchoServer echo;
  RawHttpClient idle(echo.port());
  EXPECT_EQ(idle.Ask(Post("/echo", "")).status, 200);
  RawHttpClient busy(echo.port());
  busy.Send(Post("/wait", ""));
  const auto busy_exchange = echo.Next();
  RawHttpClient stuck(echo.port());
  stuck.Send(Post("/wait", ""));
  const auto stuck_exchange = echo.Next();
  std::atomic<bool> gone = false;
  stuck_exchange->WhenGone([&] { gone = true; });
  echo.server().Drain();
  EXPECT_TRUE(idle.AtEnd());
  busy_exchange->Respond({});
  const RawResponse response = busy.Read();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Connection"), "close");
  EXPECT_TRUE(busy.AtEnd());
  echo.server().Shutdown(absl::Now() + absl::Milliseconds(50));
  EXPECT_TRUE(gone);
  EXPECT_TRUE(stuck.AtEnd());
  stuck_exchange->Respond({});  // nobody is there: nothing happens
}

// Draining gave an answer that a client reads slowly two seconds, however long a drain might take.
TEST(HttpServer, AwaitsTheLastByteOfAnAnswer) {
  EchoServer echo;
  EXPECT_EQ(echo.server().AwaitAnswers(absl::InfinitePast()), 0);
  RawHttpClient idle(echo.port());
  EXPECT_EQ(idle.Ask(Post("/echo", "")).status, 200);
  RawHttpClient slow(echo.port(), /*receive_bytes=*/4096);
  slow.Send(Post("/wait", ""));
  HttpResponse answer;
  answer.body = std::string(32 << 20, 'x');
  echo.Next()->Respond(answer);
  echo.server().Drain();
  EXPECT_EQ(echo.server().AwaitAnswers(absl::Now() + absl::Milliseconds(50)), 1);
  std::atomic<int> left = -1;
  std::thread drain([&] { left = echo.server().AwaitAnswers(absl::InfiniteFuture()); });
  EXPECT_EQ(slow.Read().body, answer.body);
  drain.join();
  EXPECT_EQ(left, 0);
  // Nobody waits for a client that has left, nor for one that has asked nothing.
  RawHttpClient gone(echo.port());
  gone.Send(Post("/wait", ""));
  const auto exchange = echo.Next();
  const RawHttpClient silent(echo.port());
  gone.Close();
  EXPECT_EQ(echo.server().AwaitAnswers(absl::InfiniteFuture()), 0);
}

TEST(HttpServer, APortInUseIsAnErrorThatNamesIt) {
  EchoServer echo;
  HttpServerOptions options;
  options.listen_address = absl::StrCat("127.0.0.1:", echo.port());
  MetricsRegistry registry;
  HttpMetrics metrics(registry);
  const auto second = HttpServer::Start(options, nullptr, &metrics);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(second.status().message(), options.listen_address));
}

// Mutations of good requests, many at once, with a neighbour that must not notice.
TEST(HttpServer, SurvivesMutatedRequests) {
  HttpServerOptions options;
  options.header_timeout_ms = 300;
  options.body_timeout_ms = 300;
  EchoServer echo(options);
  const std::string gzip = EncodeContent(ContentCoding::kGzip, "hello hello hello hello");
  const std::vector<std::string> seeds = {
      Post("/echo", "hello"), Post("/echo", gzip, "Content-Encoding: gzip\r\n"),
      "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
      Post("/echo", "a") + Post("/echo", "b")};
  std::mt19937 random(42);
  std::vector<std::unique_ptr<RawHttpClient>> clients;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = seeds[random() % seeds.size()];
    for (uint32_t n = random() % 6; n > 0; --n) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, random() % 8);
          break;
        case 2:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 30));
          break;
        default:
          bytes.insert(at, std::to_string(random()));
          break;
      }
      if (bytes.empty()) bytes = "\r\n";
    }
    auto client = std::make_unique<RawHttpClient>(echo.port());
    client->Send(bytes);
    clients.push_back(std::move(client));
    if (clients.size() > 100) clients.erase(clients.begin());
    if (i % 100 == 0) {
      RawHttpClient neighbour(echo.port());
      ASSERT_EQ(neighbour.Ask(Post("/echo", "?")).status, 200);
    }
  }
}

TEST(HttpMessage, SplitsAndDecodesPaths) {
  EXPECT_EQ(*SplitPath("/v2/models/a%2Fb%20c/infer"),
            (std::vector<std::string>{"v2", "models", "a/b c", "infer"}));
  EXPECT_EQ(*SplitPath("/v2/"), std::vector<std::string>{"v2"});
  EXPECT_EQ(*SplitPath("/"), std::vector<std::string>{});
  EXPECT_EQ(*SplitPath("//a"), (std::vector<std::string>{"", "a"}));
  EXPECT_FALSE(SplitPath("/%2").ok());
  EXPECT_FALSE(SplitPath("/%zz").ok());
}

}  // namespace
}  // namespace caravan
