// Requests for the tests of the protocol layer.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "gateway/triton/protocol/model_catalog.h"
#include "gateway/triton/protocol/request_check.h"

namespace caravan {

inline const TritonModel& ModelNamed(const std::string& name) {
  static const std::vector<TritonModel>* models =
      new std::vector<TritonModel>(MakeModelCatalog(ModelCatalogOptions()));
  for (const TritonModel& model : *models) {
    if (model.name == name) return model;
  }
  CARAVAN_CHECK(false, "no model ", name);
}

inline InferInput MakeInput(const std::string& name, const std::string& datatype, Shape shape,
                            std::string data) {
  InferInput input;
  input.name = name;
  input.datatype = datatype;
  input.shape = std::move(shape);
  input.data = std::move(data);
  return input;
}

template <typename Value>
InferInput Column(const std::string& name, const std::string& datatype,
                  const std::vector<Value>& values) {
  return MakeInput(name, datatype, {static_cast<int64_t>(values.size()), 1}, Pack(values));
}

inline InferInput Strings(const std::string& name, const std::vector<std::string>& values) {
  std::string data;
  for (const std::string& value : values) AppendBytes(value, &data);
  return MakeInput(name, "BYTES", {static_cast<int64_t>(values.size()), 1}, std::move(data));
}

// The four required inputs of the ensemble, for so many rows.
inline InferRequest EnsembleRequest(size_t rows = 1) {
  InferRequest request;
  request.model_name = "ensemble";
  request.inputs = {Strings("INPUT_0", std::vector<std::string>(rows, "hello")),
                    Column("INPUT_1", "UINT32", std::vector<uint32_t>(rows, 8)),
                    Strings("INPUT_2", std::vector<std::string>(rows)),
                    Strings("INPUT_3", std::vector<std::string>(rows))};
  return request;
}

inline absl::StatusOr<CheckedRequest> Check(InferRequest request, int max_batch_size = 1024) {
  const std::string model = request.model_name;
  return CheckRequest(ModelNamed(model), max_batch_size, std::move(request),
                      [](const SharedMemoryUse& use) -> absl::StatusOr<std::string> {
                        return absl::InvalidArgumentError("no region '" + use.region + "'");
                      });
}

}  // namespace caravan
