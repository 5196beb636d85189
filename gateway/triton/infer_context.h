// What the inferences of a server share.
#pragma once

#include <memory>

#include "gateway/event_loop.h"
#include "gateway/generation/dispatcher.h"
#include "gateway/triton/inference.h"
#include "gateway/triton/protocol/generation_parameters.h"
#include "gateway/triton/protocol/request_check.h"
#include "gateway/triton/shared_memory.h"
#include "gateway/triton/statistics.h"
#include "gateway/triton/trace.h"

namespace caravan {

// Outlives the inferences.
struct InferContext {
  EventLoop* loop = nullptr;
  Dispatcher* dispatcher = nullptr;
  GatewayMetrics* metrics = nullptr;
  TraceWriter* traces = nullptr;
  GenerationDefaults defaults;
  // Of the models that a request runs through; those of the ensemble count too.
  StatisticsCounter* of_fastertransformer = nullptr;
  StatisticsCounter* of_preprocessing = nullptr;
  StatisticsCounter* of_postprocessing = nullptr;
};

// What every request has, whatever its model.
struct InferCall {
  CheckedRequest request;
  std::shared_ptr<const ServedModel> served;  // what answers it
  StatisticsCounter* statistics = nullptr;    // of its model
  std::shared_ptr<RequestTrace> trace;        // nullptr: not traced
  // Regions that outputs go to, by output.
  std::map<std::string, SharedMemoryRegistry::Region, std::less<>> places;
};

}  // namespace caravan
