// Generation.Generate: one request on one call.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "caravan/v1/generation.grpc.pb.h"
#include "gateway/generation/output_sink.h"
#include "gateway/native/native_context.h"
#include "gateway/native/output_buffer.h"

namespace caravan {

// gRPC's callbacks only post to the loop; all state, and all Start… calls, are there. At most one
// write is under way; what comes meanwhile is merged into the next. The object keeps itself alive
// until gRPC is done with it.
class GenerateReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer>, private OutputSink {
 public:
  // Validates on gRPC's thread and begins. Returns the reactor of the call.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(const NativeContext* native,
                                                           grpc::CallbackServerContext* call,
                                                           const grpc::ByteBuffer& bytes);

 private:
  GenerateReactor(const NativeContext* native, grpc::CallbackServerContext* call);

  void Begin(ValidatedRequest request, OutputView view);
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void OnStarted(const StartedInfo& started) override;
  absl::Status OnChunk(OutputChunk chunk) override;
  void OnSampleEnd(SampleEnd end) override;
  void OnEnd(const absl::Status& status, InflightPlace place) override;

  void WriteOrFinish();
  void FinishCall();
  void HandleWriteDone(bool ok);
  void WatchSlowReader();

  const NativeContext* const native_;
  grpc::CallbackServerContext* const call_;  // until gRPC is done
  std::shared_ptr<GenerateReactor> self_;    // until gRPC is done
  std::shared_ptr<Generation> generation_;
  std::optional<OutputBuffer> buffer_;
  grpc::ByteBuffer message_;  // gRPC's while writing_
  bool writing_ = false;
  bool cancelled_ = false;  // the client is gone
  bool ended_ = false;      // the request is over, its output may wait
  bool finished_ = false;   // Finish was called
  absl::Status status_;
  InflightPlace place_;
  EventLoop::TimerId slow_reader_timer_;
  const EventLoop::KeepAlive keep_alive_;
};

}  // namespace caravan
