// caravan generate: one completion, streamed as it comes.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "cli/cluster_state.h"
#include "cli/commands.h"
#include "cli/generation_client.h"
#include "cli/request_options.h"
#include "cli/terminal.h"
#include "common/server.h"
#include "common/shutdown_signal.h"
#include "common/status.h"
#include "nlohmann/json.hpp"

namespace caravan {
namespace {

struct GenerateOptions {
  RequestOptions request;
  std::vector<std::string> resume;  // token ids
  bool json = false;
  bool stats = false;
  bool echo = false;
};

// The words of the command line, or standard input without its last line end.
absl::StatusOr<std::string> ReadPrompt(const std::vector<std::string>& arguments,
                                       const Options& options) {
  if (!arguments.empty()) return absl::StrJoin(arguments, " ");
  if (isatty(STDIN_FILENO) == 1) {
    options.Fail("give a prompt as an argument or on standard input");
  }
  std::string prompt((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  RETURN_IF_ERROR(InputStatus());
  if (!prompt.empty() && prompt.back() == '\n') prompt.pop_back();
  return prompt;
}

void AddResumeIds(const std::vector<std::string>& texts, const Options& options,
                  v1::GenerateRequest* request) {
  for (const std::string& text : texts) {
    for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id)) {
        options.Fail("--resume takes token ids, such as --resume=310,22172,3186");
      }
      request->add_resume_token_ids(id);
    }
  }
}

nlohmann::json ToJson(const GenerationResult& result) {
  return {{"request_id", result.started.request_id()},
          {"model", result.started.model()},
          {"seed", result.started.seed()},
          {"prompt_tokens", result.started.prompt_tokens()},
          {"cached_prompt_tokens", result.finished.cached_prompt_tokens()},
          {"text", result.text},
          {"token_ids", result.token_ids},
          {"finish_reason", ReasonName(result.finished.reason())},
          {"resumes", result.num_resumes},
          {"time_to_first_token_ms",
           absl::ToDoubleMilliseconds(result.first_token_at - result.sent_at)},
          {"tokens_per_second", result.tokens_per_second()}};
}

void PrintStats(const GenerationResult& result) {
  std::fprintf(stderr,
               "%u prompt tokens, %zu generated (%s), first after %.0f ms, then %.1f tokens/s, "
               "seed %llu\n",
               result.started.prompt_tokens(), result.token_ids.size(),
               ReasonName(result.finished.reason()).c_str(),
               absl::ToDoubleMilliseconds(result.first_token_at - result.sent_at),
               result.tokens_per_second(), static_cast<unsigned long long>(result.started.seed()));
}

absl::Status Generate(const GenerateOptions& flags, const v1::GenerateRequest& request) {
  ShutdownSignal signal;
  GenerationClient client(MakeChannel(ResolveGatewayAddress(flags.request.address)),
                          flags.request.MakeRetry());
  std::thread interrupt([&signal, &client] {
    if (signal.Wait() != 0) client.Cancel();
  });
  bool any_text = false;
  const absl::StatusOr<GenerationResult> result =
      client.Generate(request, [&flags, &any_text](const v1::GenerateResponse& event) {
        if (flags.json || !event.has_tokens()) return true;
        any_text = true;
        return WriteOut(event.tokens().text());
      });
  signal.Trigger();
  interrupt.join();
  if (any_text) WriteOut("\n");
  if (!result.ok()) return result.status();
  if (flags.json) {
    WriteOut(ToJson(*result).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
  if (flags.stats) PrintStats(*result);
  return absl::OkStatus();
}

}  // namespace

int GenerateCommand(const std::vector<std::string>& words) {
  GenerateOptions flags;
  Options options("generate", "[PROMPT]",
                  "Streams a completion of the prompt (an argument, or standard input) from a "
                  "running cluster.\nCtrl-C cancels it.");
  flags.request.AddTo(&options);
  options.Add("resume", &flags.resume,
              "token ids emitted by an earlier request, comma-separated, to go on from; needs "
              "--seed to draw the same");
  options.Add("echo", &flags.echo, "write the prompt before the completion");
  options.Add("json", &flags.json, "write one JSON object at the end in place of the text");
  options.Add("stats", &flags.stats, "write counts and speed to standard error at the end");
  const std::vector<std::string> arguments = options.ParseOrExit(words);
  flags.request.CheckOrExit(options);
  v1::GenerateRequest request = flags.request.MakeRequest();
  absl::StatusOr<std::string> prompt = ReadPrompt(arguments, options);
  if (!prompt.ok()) return Report("generate", prompt.status());
  request.add_prompt()->set_text(*std::move(prompt));
  request.mutable_output()->set_echo_prompt(flags.echo);
  AddResumeIds(flags.resume, options, &request);
  return Report("generate", Generate(flags, request));
}

}  // namespace caravan
