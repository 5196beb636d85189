#include "cli/request_options.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace caravan {

void RequestOptions::AddTo(Options* options) {
  options->Add("address", &address,
               "host:port of a gateway; the running cluster's if not given, else localhost:8001");
  options->Add("model", &model, "name of the model; needed where several are served");
  options->Add("max_tokens", &max_tokens, "tokens to generate at most");
  options->Add("temperature", &temperature, "0 = greedy, up to 100 (default 1)");
  options->Add("top_k", &top_k, "draw from the k most probable tokens; 0 = all");
  options->Add("top_p", &top_p, "draw from the most probable tokens that sum to p (default 1)");
  options->Add("min_p", &min_p, "leave out tokens less probable than this share of the best");
  options->Add("repetition_penalty", &repetition_penalty, "above 1: fewer repeats (default 1)");
  options->Add("presence_penalty", &presence_penalty, "on tokens already in the output");
  options->Add("frequency_penalty", &frequency_penalty, "the same, for each time");
  options->Add("seed", &seed, "equal seeds give equal outputs; one is drawn if not given");
  options->Add("stop", &stop, "a text that ends the output; may be given several times");
  options->Add("ignore_eos", &ignore_eos, "go on after the model's end-of-sequence tokens");
  options->Add("timeout_ms", &timeout_ms, "give up after this time; 0 = never");
  options->Add("retry", &retry, "go on where it was cut off when the cluster fails; --noretry");
  options->Add("retry_seconds", &retry_seconds, "how long to try without a new token");
}

void RequestOptions::CheckOrExit(const Options& options) const {
  options.CheckAddressOrExit("address", address);
  const struct {
    const char* name;
    int64_t value;
    int64_t least;
  } counts[] = {{"max_tokens", max_tokens, 1},
                {"top_k", top_k, 0},
                {"timeout_ms", timeout_ms, 0},
                {"retry_seconds", retry_seconds, 0}};
  for (const auto& count : counts) {
    if (count.value < count.least || count.value > std::numeric_limits<uint32_t>::max()) {
      options.Fail(absl::StrCat("--", count.name, " is ", count.value, "; it must be from ",
                                count.least, " to ", std::numeric_limits<uint32_t>::max()));
    }
  }
}

v1::GenerateRequest RequestOptions::MakeRequest() const {
  v1::GenerateRequest request;
  request.set_model(model);
  request.set_timeout_ms(static_cast<uint32_t>(timeout_ms));
  v1::SamplingParams& sampling = *request.mutable_sampling();
  if (temperature.has_value()) sampling.set_temperature(static_cast<float>(*temperature));
  sampling.set_top_k(static_cast<uint32_t>(top_k));
  if (top_p.has_value()) sampling.set_top_p(static_cast<float>(*top_p));
  sampling.set_min_p(static_cast<float>(min_p));
  if (repetition_penalty.has_value()) {
    sampling.set_repetition_penalty(static_cast<float>(*repetition_penalty));
  }
  sampling.set_presence_penalty(static_cast<float>(presence_penalty));
  sampling.set_frequency_penalty(static_cast<float>(frequency_penalty));
  if (seed.has_value()) sampling.set_seed(*seed);
  request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(max_tokens));
  for (const std::string& text : stop) request.mutable_stopping()->add_stop_strings(text);
  request.mutable_stopping()->set_ignore_eos(ignore_eos);
  return request;
}

RetryOptions RequestOptions::MakeRetry() const {
  return {.enabled = retry, .give_up_after = absl::Seconds(retry_seconds)};
}

}  // namespace caravan
