// One request and its answer, between the server and the front door that answers it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "gateway/http/http_message.h"

namespace caravan {

// Every exchange is answered: by Respond, or by BeginStream, Writes and EndStream. All calls are
// allowed from any thread, never block, and do nothing once the client is gone.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  // The handler's own, to read or to take apart.
  HttpRequest& request() { return request_; }

  // The whole answer.
  virtual void Respond(HttpResponse response) = 0;

  // Sends status and headers at once; `head` has no body. The body follows in pieces.
  virtual void BeginStream(HttpResponse head) = 0;
  // RESOURCE_EXHAUSTED, and the piece is not taken, where more would wait than the limit allows:
  // the client reads too slowly. CANCELLED once it is gone. The handler then ends what produces the
  // pieces, and the stream.
  [[nodiscard]] virtual absl::Status Write(std::string_view piece) = 0;
  // Ends the stream after what was written and `last`, which is taken whatever waits.
  virtual void EndStream(std::string_view last) = 0;

  // `callback` is called, on the exchange's thread (see Post), each time that all that was written
  // has left for the client: a handler that produces pieces on demand goes on then. Set it before
  // the first Write.
  virtual void WhenDrained(absl::AnyInvocable<void()> callback) = 0;

  // Runs `task` on the exchange's thread of the server, which it shares with other connections: for
  // work on the answer that should not hold up the caller. It is dropped once the client is gone.
  virtual void Post(absl::AnyInvocable<void()> task) = 0;

  // `callback` is called once, on a thread of the server, if the client leaves (or is cut off)
  // before the answer was handed over in whole; at once if that has happened. It must not block.
  virtual void WhenGone(absl::AnyInvocable<void()> callback) = 0;

 protected:
  HttpRequest request_;
};

// A front door.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  // On a thread of the server, several at once. Requests with small bodies share their thread with
  // the connections, so it should not block; those with large bodies have threads of their own.
  virtual void Handle(std::shared_ptr<HttpExchange> exchange) = 0;

  // The door's form of an error that the server itself found: a malformed request, a limit.
  virtual HttpResponse MakeError(int status, std::string_view text) const = 0;
};

}  // namespace caravan
