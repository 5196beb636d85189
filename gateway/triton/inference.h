// One inference request being served.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gateway/triton/protocol/infer_message.h"

namespace caravan {

// Told when there is something to take. Called on the loop, from a task of its own: everything may
// be called from inside, and the inference dropped.
class InferSink {
 public:
  virtual ~InferSink() = default;
  // HasNext() or ended() is true; called again after each change, maybe more often than needed.
  virtual void OnInferReady() = 0;
};

// Loop thread only. The front door takes responses when it can write them: what waits for a slow
// client is kept once, and not as the messages that it will become, so that its size is bounded by
// the request's own output, whatever the number of partial responses.
class Inference {
 public:
  virtual ~Inference() = default;

  // A response can be taken. Of a request that does not stream there is one, or an error.
  virtual bool HasNext() const = 0;
  // REQUIRES: HasNext(). The next one, in order; the last has triton_final_response true, where the
  // request streams. An error (shared memory that can't be written) is how the request ends:
  // status() says it from then on, and nothing more comes.
  virtual absl::StatusOr<InferResponse> Next() = 0;
  // Nothing more will come but what HasNext() says; status() is how it ended.
  virtual bool ended() const = 0;
  // OK: complete. Else the responses (those taken and those left) are all there is.
  virtual const absl::Status& status() const = 0;
  // The client left, or no longer wants it: ends, and nothing is told to the sink any more. The
  // inference may be forgotten (the pointer dropped) without it, which does the same.
  virtual void Cancel() = 0;
};

}  // namespace caravan
