#include "gateway/model_commands.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/server.h"
#include "common/status.h"

namespace caravan {

using Phase = ModelState::Phase;
using Status = v1::WorkerModelStatus;

const char* NameOf(Status::State state) {
  switch (state) {
    case Status::LOADED:
      return "loaded";
    case Status::LOADING:
      return "loading";
    case Status::UNLOADING:
      return "unloading";
    default:
      return "unloaded";
  }
}

// Lives until its answer has come, which may be after its owner.
struct ModelCommands::Call {
  explicit Call(EventLoop* loop) : keep_alive(loop) {}

  ModelCommands* owner = nullptr;
  int session = 0;
  std::string address;
  Wanted wanted;
  std::shared_ptr<Command> command;  // nullptr: nobody waits
  grpc::ClientContext context;
  v1::LoadModelRequest load;
  v1::LoadModelResponse loaded;
  v1::UnloadModelRequest unload;
  v1::UnloadModelResponse unloaded;
  const EventLoop::KeepAlive keep_alive;
};

ModelCommands::ModelCommands(EventLoop* loop,
                             const std::vector<std::unique_ptr<WorkerSession>>* sessions,
                             Options options)
    : loop_(loop), sessions_(sessions), options_(std::move(options)) {}

ModelCommands::~ModelCommands() {
  CancelAll(absl::UnavailableError("the gateway is shutting down"));
  for (const std::shared_ptr<Call>& call : calls_) {
    call->owner = nullptr;
    call->context.TryCancel();
  }
}

void ModelCommands::Load(const std::string& model, Done done) {
  Give(model, /*loaded=*/true, std::move(done));
}

void ModelCommands::Unload(const std::string& model, Done done) {
  Give(model, /*loaded=*/false, std::move(done));
}

void ModelCommands::Give(const std::string& model, bool loaded, Done done) {
  if (!closed_.ok()) return done(closed_);
  const auto now = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  last_number_ = std::max(now, last_number_ + 1);
  wanted_[model] = {loaded, last_number_};
  LogInfo(loaded ? "loading" : "unloading", {{"model", model}, {"command", last_number_}});
  auto command = std::make_shared<Command>();
  command->model = model;
  command->wanted = wanted_[model];
  command->done = std::move(done);
  commands_.push_back(std::move(command));
  SendDue();
}

ModelCommands::Wanted ModelCommands::WantedOf(const std::string& model) const {
  const auto found = wanted_.find(model);
  if (found != wanted_.end()) return found->second;
  return {!options_.load_at_start || options_.load_at_start(model)};
}

bool ModelCommands::IsBusy(const std::string& model) const {
  return options_.is_busy && options_.is_busy(model);
}

void ModelCommands::OnReplicaChanged() {
  if (!closed_.ok()) return;
  Learn();
  SendDue();
  CommandStragglers();
  EndSettled();
}

void ModelCommands::OnRequestEnded(const std::string& model) {
  if (closed_.ok() && !commands_.empty() && !IsBusy(model)) SendDue();
}

// Commands that others gave.
void ModelCommands::Learn() {
  for (const auto& session : *sessions_) {
    const std::string& name = session->model().name();
    const Status& status = session->load().model_status();
    if (!session->connected() || name.empty()) continue;
    if (status.command() < WantedOf(name).number) continue;
    wanted_[name] = {!status.unload_wanted(), status.command()};
    last_number_ = std::max(last_number_, status.command());
  }
}

// Those of a client that need not wait any more.
void ModelCommands::SendDue() {
  const std::vector<std::shared_ptr<Command>> commands = commands_;
  for (const std::shared_ptr<Command>& command : commands) {
    const Wanted& wanted = command->wanted;
    if (command->sent) continue;
    const bool superseded = WantedOf(command->model).number != wanted.number;
    if (!superseded && !wanted.loaded && IsBusy(command->model)) continue;
    command->sent = true;
    if (superseded) {
      command->result = absl::AbortedError(
          absl::StrCat("a later command about model '", command->model, "' came in between"));
      EndCommand(command);
      continue;
    }
    command->unanswered = 1;  // until all are sent
    bool connected = false;
    for (const auto& session : *sessions_) {
      if (!session->connected() || session->model().name() != command->model) continue;
      connected = true;
      Send(session.get(), wanted, command);
    }
    if (!connected && wanted.loaded) {
      command->result = absl::UnavailableError(
          absl::StrCat("no replica of model '", command->model, "' is connected"));
    }
    if (--command->unanswered == 0) OnAllAnswered(command);
  }
}

// Replicas that are not as wanted, and that no call is under way to.
void ModelCommands::CommandStragglers() {
  for (const auto& session : *sessions_) {
    const std::string& name = session->model().name();
    if (!session->connected() || name.empty()) continue;
    const Wanted wanted = WantedOf(name);
    const Status& status = session->load().model_status();
    if (status.unload_wanted() != wanted.loaded || status.command() >= wanted.number) continue;
    const bool called = std::any_of(calls_.begin(), calls_.end(), [&](const auto& call) {
      return call->session == session->id() && call->wanted.number == wanted.number;
    });
    const bool waits = std::any_of(commands_.begin(), commands_.end(), [&](const auto& command) {
      return !command->sent && command->wanted.number == wanted.number;
    });
    if (called || waits || (!wanted.loaded && IsBusy(name))) continue;
    LogInfo(wanted.loaded ? "replica is to load" : "replica is to unload",
            {{"replica", session->address()}, {"model", name}, {"command", wanted.number}});
    Send(session.get(), wanted, nullptr);
  }
}

void ModelCommands::Send(WorkerSession* session, const Wanted& wanted,
                         const std::shared_ptr<Command>& command) {
  const auto call = std::make_shared<Call>(loop_);
  call->owner = this;
  call->session = session->id();
  call->address = session->address();
  call->wanted = wanted;
  call->command = command;
  if (command != nullptr) ++command->unanswered;
  calls_.push_back(call);
  const auto answered = [loop = loop_, call](const grpc::Status& status) {
    loop->Post([call, status = FromGrpcStatus(status)] {
      if (call->owner != nullptr) call->owner->OnAnswer(call, status);
    });
  };
  if (wanted.loaded) {
    call->load.set_command(wanted.number);
    session->stub()->async()->LoadModel(&call->context, &call->load, &call->loaded, answered);
  } else {
    call->unload.set_command(wanted.number);
    session->stub()->async()->UnloadModel(&call->context, &call->unload, &call->unloaded, answered);
  }
}

void ModelCommands::OnAnswer(const std::shared_ptr<Call>& call, const absl::Status& status) {
  std::erase(calls_, call);
  if (!status.ok()) {
    LogWarning(call->wanted.loaded ? "replica can't load" : "replica can't unload",
               {{"replica", call->address}, {"status", ToString(status)}});
  }
  Command* command = call->command.get();
  if (command == nullptr) return;
  if (!status.ok() && command->result.ok()) {
    command->result = absl::Status(status.code(),
                                   absl::StrCat("replica ", call->address, ": ", status.message()));
  }
  if (--command->unanswered == 0) OnAllAnswered(call->command);
}

// What the replicas say on their sessions may still be on its way.
void ModelCommands::OnAllAnswered(const std::shared_ptr<Command>& command) {
  if (IsSettled(*command)) return EndCommand(command);
  command->settle_timer = loop_->RunAfter(kSettleLimit, [this, command] { EndCommand(command); });
}

void ModelCommands::EndSettled() {
  const std::vector<std::shared_ptr<Command>> commands = commands_;
  for (const std::shared_ptr<Command>& command : commands) {
    if (command->sent && command->unanswered == 0 && IsSettled(*command)) EndCommand(command);
  }
}

bool ModelCommands::IsSettled(const Command& command) const {
  return std::all_of(sessions_->begin(), sessions_->end(), [&](const auto& session) {
    if (!session->connected() || session->model().name() != command.model) return true;
    const Status& status = session->load().model_status();
    if (status.command() > command.wanted.number) return true;
    if (status.command() < command.wanted.number) return false;
    if (status.state() == Status::UNLOADED) return true;
    return command.wanted.loaded && session->ready();
  });
}

void ModelCommands::EndCommand(const std::shared_ptr<Command>& command) {
  if (std::erase(commands_, command) == 0) return;  // it was cancelled
  loop_->CancelTimer(&command->settle_timer);
  LogInfo(command->wanted.loaded ? "load ended" : "unload ended",
          {{"model", command->model},
           {"command", command->wanted.number},
           {"status", ToString(command->result)}});
  command->done(command->result);
}

void ModelCommands::CancelAll(const absl::Status& status) {
  closed_ = status;
  const std::vector<std::shared_ptr<Command>> commands = std::exchange(commands_, {});
  for (const std::shared_ptr<Command>& command : commands) {
    loop_->CancelTimer(&command->settle_timer);
    command->done(status);
  }
}

ModelState ModelCommands::StateOf(const std::string& model) const {
  const Wanted wanted = WantedOf(model);
  bool moving = std::any_of(commands_.begin(), commands_.end(), [&](const auto& command) {
    return command->model == model && command->wanted.number == wanted.number && !command->sent;
  });
  std::string reason;
  for (const auto& session : *sessions_) {
    if (session->model().name() != model) continue;
    const Status& status = session->load().model_status();
    if (!wanted.loaded) {
      moving = moving || (session->connected() && status.state() != Status::UNLOADED);
      continue;
    }
    if (status.state() == Status::LOADED) return {Phase::kLoaded, ""};
    const bool gave_up = status.state() == Status::UNLOADED && status.command() >= wanted.number;
    moving = moving || !gave_up;
    if (gave_up) reason = absl::StrCat("replica ", session->address(), ": ", status.reason());
  }
  if (!wanted.loaded) return {moving ? Phase::kUnloading : Phase::kUnloaded, "unloaded"};
  if (moving) return {Phase::kLoading, ""};
  if (!reason.empty()) return {Phase::kUnloaded, reason};
  return {Phase::kLoaded, ""};  // no replica was reached that says otherwise
}

absl::Status ModelCommands::CheckLoaded(const std::string& model) const {
  const ModelState state = StateOf(model);
  if (state.phase == Phase::kLoaded || state.phase == Phase::kLoading) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("model '", model, "' is not loaded: ",
                   state.phase == Phase::kUnloading ? "it is being unloaded" : state.reason));
}

std::vector<std::string> ModelCommands::names() const {
  std::vector<std::string> names;
  for (const auto& session : *sessions_) {
    const std::string& name = session->model().name();
    if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) {
      names.push_back(name);
    }
  }
  return names;
}

}  // namespace caravan
