#include "gateway/triton/http/service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gateway/triton/http/generate_json.h"
#include "gateway/triton/http/http_error.h"
#include "gateway/triton/http/json_text.h"
#include "gateway/triton/http/management.h"

namespace caravan {
namespace {

constexpr size_t kMaxHeaderValueBytes = 256;

// A header that is copied into logs: printable and not long, or not at all.
std::string PrintableHeader(const HttpRequest& request, std::string_view name) {
  const std::string* value = request.FindHeader(name);
  if (value == nullptr || value->size() > kMaxHeaderValueBytes) return "";
  for (const char c : *value) {
    if (c < ' ' || c > '~') return "";
  }
  return *value;
}

// What belongs to the call, not to its body.
void SetCall(const Route& route, const HttpRequest& http, InferRequest* request) {
  request->model_name = route.model;
  request->model_version = route.version;
  request->client = http.client;
  request->request_id = PrintableHeader(http, "x-request-id");
  request->traceparent = PrintableHeader(http, "traceparent");
  request->arrival = std::chrono::steady_clock::now();
}

absl::StatusOr<std::optional<size_t>> HeaderLengthOf(const HttpRequest& request) {
  const std::string* value = request.FindHeader("inference-header-content-length");
  if (value == nullptr) return std::nullopt;
  uint64_t length = 0;
  if (!absl::SimpleAtoi(*value, &length)) {
    return absl::InvalidArgumentError(absl::StrCat(
        kInferHeaderLength, " must be a number of bytes, found '", value->substr(0, 32), "'"));
  }
  return static_cast<size_t>(length);
}

// A body without JSON is one model's only input; the models here have more.
absl::Status RefuseRawRequest(const TritonModel& model) {
  const auto inputs = std::count_if(model.inputs.begin(), model.inputs.end(),
                                    [](const TensorSpec& input) { return !input.hidden; });
  return absl::InvalidArgumentError(
      absl::StrCat("Raw request must only have 1 input (found 1) to be deduced but got ", inputs,
                   " inputs in '", model.name, "' model configuration"));
}

const TritonModel* FindModel(const InferenceServer& server, const std::string& name) {
  for (const TritonModel& model : server.models()) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

}  // namespace

void TritonHttpService::Handle(std::shared_ptr<HttpExchange> exchange) {
  const HttpRequest& http = exchange->request();
  const absl::StatusOr<std::optional<Route>> found = FindRoute(http.path);
  if (!found.ok()) return exchange->Respond(MakeErrorResponse(found.status()));
  if (!found->has_value()) return exchange->Respond(MakeErrorResponse(404, "Not Found"));
  const Route& route = **found;
  const bool is_get = http.method == "GET" || http.method == "HEAD";
  const bool is_post = http.method == "POST";
  if (!(is_get && route.takes_get) && !(is_post && route.takes_post)) {
    HttpResponse refusal = MakeErrorResponse(405, "Method Not Allowed");
    refusal.headers.push_back({"Allow", route.takes_get && route.takes_post ? "GET, POST"
                                        : route.takes_get                   ? "GET"
                                                                            : "POST"});
    return exchange->Respond(std::move(refusal));
  }
  if (route.action == Action::kInfer) return Infer(route, exchange);
  if (route.action == Action::kGenerate || route.action == Action::kGenerateStream) {
    return Generate(route, exchange);
  }
  ManagementRequest request{.route = route, .is_post = is_post};
  if (is_post && !http.body.empty()) {
    absl::StatusOr<nlohmann::json> body = ParseJsonObject(http.body);
    if (!body.ok()) return exchange->Respond(MakeErrorResponse(body.status()));
    request.body = *std::move(body);
  }
  loop_->Post([server = server_, exchange = std::move(exchange), request = std::move(request)] {
    Manage(request, server,
           [exchange](HttpResponse response) { exchange->Respond(std::move(response)); });
  });
}

HttpResponse TritonHttpService::MakeError(int status, std::string_view text) const {
  return MakeErrorResponse(status, text);
}

void TritonHttpService::Infer(const Route& route, const std::shared_ptr<HttpExchange>& exchange) {
  const absl::StatusOr<std::optional<size_t>> header_length = HeaderLengthOf(exchange->request());
  if (!header_length.ok()) return exchange->Respond(MakeErrorResponse(header_length.status()));
  const TritonModel* model = FindModel(*server_, route.model);
  ParsedInfer parsed;
  // An unknown model is the server's to refuse, in its words.
  if (model != nullptr) {
    absl::StatusOr<ParsedInfer> result = header_length->value_or(1) == 0
                                             ? absl::StatusOr<ParsedInfer>(RefuseRawRequest(*model))
                                             : ParseInfer(exchange->request().body, *header_length);
    if (!result.ok()) return exchange->Respond(MakeErrorResponse(result.status()));
    parsed = *std::move(result);
  }
  SetCall(route, exchange->request(), &parsed.request);
  exchange->request().body = std::string();
  std::make_shared<HttpInfer>(loop_, server_, exchange, InferForm::kInfer, std::move(parsed.form))
      ->Start(std::move(parsed.request));
}

void TritonHttpService::Generate(const Route& route,
                                 const std::shared_ptr<HttpExchange>& exchange) {
  const TritonModel* model = FindModel(*server_, route.model);
  InferRequest request;
  if (model != nullptr) {
    absl::StatusOr<InferRequest> parsed = ParseGenerate(*model, exchange->request().body);
    if (!parsed.ok()) return exchange->Respond(MakeErrorResponse(parsed.status()));
    request = *std::move(parsed);
  }
  SetCall(route, exchange->request(), &request);
  exchange->request().body = std::string();
  const InferForm form =
      route.action == Action::kGenerate ? InferForm::kGenerate : InferForm::kGenerateStream;
  std::make_shared<HttpInfer>(loop_, server_, exchange, form, OutputForm())
      ->Start(std::move(request));
}

}  // namespace caravan
