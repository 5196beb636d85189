// caravan chat: a conversation. The tokenizer service, the only one that knows chat formats, turns
// it into token ids; the gateway generates the answers.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "caravan/v1/tokenizer.grpc.pb.h"
#include "cli/cluster_state.h"
#include "cli/commands.h"
#include "cli/generation_client.h"
#include "cli/request_options.h"
#include "cli/terminal.h"
#include "common/server.h"
#include "common/shutdown_signal.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(10);

struct ChatOptions {
  RequestOptions request;
  std::string tokenizer;
  std::string system;
  std::string format = "auto";
};

// One conversation; Ctrl-C ends the answer that is being written, or the program between answers.
class Chat {
 public:
  explicit Chat(const ChatOptions& flags)
      : flags_(flags),
        gateway_(MakeChannel(ResolveGatewayAddress(flags.request.address))),
        tokenizer_(v1::Tokenizer::NewStub(MakeChannel(flags.tokenizer))) {
    Reset();
    interrupt_ = std::thread([this] { WatchSignals(); });
    interrupt_.detach();  // lives as long as the process, which nothing else waits for
  }

  void Reset() {
    conversation_.clear_messages();
    if (!flags_.system.empty()) AddMessage("system", flags_.system, &conversation_);
  }

  // Whether answers can come at all, told before the first message is written.
  absl::Status Check() {
    v1::ApplyChatTemplateRequest first = conversation_;
    AddMessage("user", "Hello", &first);
    RETURN_IF_ERROR(FormatPrompt(first).status());
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kTimeout));
    v1::ListModelsResponse models;
    return FromGrpcStatus(v1::Generation::NewStub(gateway_)->ListModels(&context, {}, &models));
  }

  absl::Status Answer(const std::string& text) {
    AddMessage("user", text, &conversation_);
    const absl::Status status = AnswerLast();
    // Formats take turns: a question without an answer is none.
    if (!status.ok()) conversation_.mutable_messages()->RemoveLast();
    return absl::IsCancelled(status) ? absl::OkStatus() : status;
  }

 private:
  absl::Status AnswerLast() {
    ASSIGN_OR_RETURN(const v1::ApplyChatTemplateResponse prompt, FormatPrompt(conversation_));
    v1::GenerateRequest request = flags_.request.MakeRequest();
    *request.add_prompt()->mutable_token_ids()->mutable_ids() = prompt.token_ids();
    for (const std::string& stop : prompt.stop_strings()) {
      request.mutable_stopping()->add_stop_strings(stop);
    }
    GenerationClient client(gateway_, flags_.request.MakeRetry());
    running_ = &client;
    std::string said;
    const auto say = [&said](const v1::GenerateResponse& event) {
      said += event.tokens().text();
      return !event.has_tokens() || WriteOut(event.tokens().text());
    };
    absl::Status status = client.Generate(request, say).status();
    running_ = nullptr;
    WriteOut("\n");
    RETURN_IF_ERROR(OutputStatus());
    // Of an answer that was stopped, what was said of it counts.
    if (!status.ok() && (said.empty() || !absl::IsCancelled(status))) return status;
    AddMessage("assistant", said, &conversation_);
    return absl::OkStatus();
  }

  void AddMessage(const std::string& role, const std::string& content,
                  v1::ApplyChatTemplateRequest* conversation) {
    v1::ChatMessage& message = *conversation->add_messages();
    message.set_role(role);
    message.set_content(content);
    conversation->set_add_generation_prompt(true);
    conversation->set_format(flags_.format);
  }

  absl::StatusOr<v1::ApplyChatTemplateResponse> FormatPrompt(
      const v1::ApplyChatTemplateRequest& conversation) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kTimeout));
    v1::ApplyChatTemplateResponse prompt;
    const grpc::Status status = tokenizer_->ApplyChatTemplate(&context, conversation, &prompt);
    if (status.ok()) return prompt;
    if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
      return absl::UnimplementedError(
          absl::StrCat("what answers at ", flags_.tokenizer,
                       " serves no tokenizer; --tokenizer takes the address of a tokenizer "
                       "service, which `caravan up` prints beside the gateway's"));
    }
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return FromGrpcStatus(status);
    return absl::UnavailableError(
        absl::StrCat("no tokenizer answers at ", flags_.tokenizer,
                     "; start a cluster with `caravan up`, or say where one is with "
                     "--tokenizer=host:port"));
  }

  void WatchSignals() {
    constexpr int kExitInterrupted = 130;
    while (true) {
      signal_.Wait();
      GenerationClient* client = running_;
      if (client == nullptr) {
        WriteOut("\n");
        _exit(kExitInterrupted);
      }
      client->Cancel();
    }
  }

  ChatOptions flags_;
  ShutdownSignal signal_;
  std::shared_ptr<grpc::Channel> gateway_;
  std::unique_ptr<v1::Tokenizer::Stub> tokenizer_;
  v1::ApplyChatTemplateRequest conversation_;
  std::atomic<GenerationClient*> running_ = nullptr;
  std::thread interrupt_;
};

absl::Status RunChat(const ChatOptions& flags) {
  Chat chat(flags);
  RETURN_IF_ERROR(chat.Check());
  const bool is_terminal = isatty(STDIN_FILENO) == 1;
  if (is_terminal) {
    std::fputs("/reset starts anew, /exit or Ctrl-D ends, Ctrl-C stops an answer\n", stderr);
  }
  std::string line;
  while (true) {
    if (is_terminal) std::fputs("you> ", stderr);
    if (!std::getline(std::cin, line)) return InputStatus();
    if (line == "/exit") return absl::OkStatus();
    if (line.empty()) continue;
    if (line == "/reset") {
      chat.Reset();
      continue;
    }
    absl::Status status = chat.Answer(line);
    if (status.ok()) continue;
    // Who types can say it otherwise, and keeps what was said so far.
    if (!is_terminal || !OutputStatus().ok()) return status;
    std::fprintf(stderr, "caravan chat: %s\n(this message does not count; /reset starts anew)\n",
                 std::string(status.message()).c_str());
  }
}

}  // namespace

int ChatCommand(const std::vector<std::string>& words) {
  ChatOptions flags;
  Options options("chat", "",
                  "A conversation on the terminal, or one message a line from standard input.");
  flags.request.AddTo(&options);
  options.Add("tokenizer", &flags.tokenizer,
              "host:port of a tokenizer service; the running cluster's if not given");
  options.Add("system", &flags.system, "a message that says how to answer");
  options.Add("format", &flags.format, "auto (the model's own), llama2, llama3 or plain");
  options.ParseOrExit(words);
  flags.request.CheckOrExit(options);
  options.CheckAddressOrExit("tokenizer", flags.tokenizer);
  if (flags.tokenizer.empty()) {
    const std::optional<ClusterState> state = ReadClusterState();
    if (!state.has_value()) {
      options.Fail(
          "no cluster runs on this host; start one with `caravan up`, or say where one is "
          "with --address and --tokenizer");
    }
    flags.tokenizer = state->tokenizer_address;
  }
  return Report("chat", RunChat(flags));
}

}  // namespace caravan
