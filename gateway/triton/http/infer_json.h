// POST …/infer: JSON with tensors in it, or behind it as binary data (the binary tensor extension).
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "gateway/http/http_message.h"
#include "gateway/triton/protocol/infer_message.h"
#include "nlohmann/json.hpp"

namespace caravan {

inline constexpr char kInferHeaderLength[] = "Inference-Header-Content-Length";

// Which outputs go behind the JSON.
struct OutputForm {
  bool binary = false;                  // unless an output says otherwise
  std::map<std::string, bool> outputs;  // what each says

  bool IsBinary(const std::string& output) const;
};

struct ParsedInfer {
  InferRequest request;  // without model and call
  OutputForm form;
};

// `header_length`: of that header; nullopt: the body is JSON alone. INVALID_ARGUMENT names the
// tensor.
absl::StatusOr<ParsedInfer> ParseInfer(std::string_view body, std::optional<size_t> header_length);

// A tensor's shape and its data in JSON, or behind it, are up to the form.
absl::StatusOr<HttpResponse> WriteInfer(const InferResponse& response, const OutputForm& form);

// A value that Triton takes as a parameter: a bool, a number or a string. INVALID_ARGUMENT names
// `where` it stands.
absl::StatusOr<InferParameter> ParseParameter(const std::string& where,
                                              const nlohmann::json& value);
nlohmann::ordered_json ToJson(const InferParameter& parameter);

}  // namespace caravan
