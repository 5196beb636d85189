#include "cli/cluster_flags.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/preflight.h"
#include "cli/terminal.h"
#include "cli/triton_models.h"
#include "cli/triton_repository.h"
#include "common/status.h"

namespace caravan {
namespace {

std::vector<std::string> SplitFlags(const std::string& text) {
  return absl::StrSplit(text, ' ', absl::SkipEmpty());
}

// "/models/llama-7b/" → "llama-7b".
std::string LastPart(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

// "/models/llama/2-gpu" → "llama": FasterTransformer's converter names the folder after the GPUs.
std::string NameOfCheckpoint(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.ends_with("-gpu")) path = path.substr(0, path.rfind('/'));
  return LastPart(path);
}

// A flag of a command line, as abseil reads it: -name or --name, its value behind = or in the next
// word; a boolean may stand alone, and --noname is its opposite.
struct GivenFlag {
  std::string name;
  std::string value;
  std::string text;
};

std::vector<GivenFlag> ParseFlagLine(const std::string& line) {
  std::vector<GivenFlag> flags;
  for (const std::string& word : SplitFlags(line)) {
    if (!absl::StartsWith(word, "-")) {
      if (flags.empty()) continue;  // nobody's: the program says so
      flags.back().value = word;
      absl::StrAppend(&flags.back().text, " ", word);
      continue;
    }
    const size_t equals = std::min(word.find('='), word.size());
    GivenFlag flag = {word.substr(0, equals), "true", word};
    flag.name.erase(0, std::min<size_t>(flag.name.find_first_not_of('-'), 2));
    if (equals < word.size()) flag.value = word.substr(equals + 1);
    flags.push_back(std::move(flag));
  }
  return flags;
}

// The one that counts; nullptr where there is none.
const GivenFlag* FindLast(const std::vector<GivenFlag>& flags, const std::string& name) {
  const auto found = std::find_if(flags.rbegin(), flags.rend(), [&](const GivenFlag& flag) {
    return flag.name == name || flag.name == "no" + name;
  });
  return found == flags.rend() ? nullptr : &*found;
}

bool MeanTheSame(std::string one, std::string other) {
  int64_t number = 0;
  int64_t other_number = 0;
  if (absl::SimpleAtoi(one, &number) && absl::SimpleAtoi(other, &other_number)) {
    return number == other_number;
  }
  bool truth = false;
  bool other_truth = false;
  if (absl::SimpleAtob(one, &truth) && absl::SimpleAtob(other, &other_truth)) {
    return truth == other_truth;
  }
  for (std::string* path : {&one, &other}) {
    while (path->size() > 1 && path->back() == '/') path->pop_back();
  }
  return one == other;
}

// What the repository says, where the flag was not given; else the flag, with a note.
void TakeOrNote(const char* flag, const std::string& repository, std::string* value) {
  if (value->empty()) *value = repository;
  if (MeanTheSame(*value, repository)) return;
  WriteOut(absl::StrCat("note: --", flag, "=", *value, " is used; the repository says ", repository,
                        "\n"));
}

}  // namespace

std::vector<std::string> NotesOfOverrides(const std::string& option, const std::string& flags,
                                          const std::vector<std::string>& from_repository) {
  std::vector<std::string> notes;
  const std::vector<GivenFlag> given = ParseFlagLine(flags);
  for (const std::string& said : from_repository) {
    const GivenFlag repository = ParseFlagLine(said).front();
    const GivenFlag* flag = FindLast(given, repository.name);
    if (flag == nullptr) continue;
    const std::string value = flag->name == repository.name ? flag->value : "false";
    if (MeanTheSame(value, repository.value)) continue;
    notes.push_back(absl::StrCat(flag->text, " of --", option, " is used, in place of ", said));
  }
  return notes;
}

std::string ClusterFlags::ControlMode() const {
  const std::vector<GivenFlag> flags = ParseFlagLine(gateway_flags);
  const GivenFlag* flag = FindLast(flags, "triton_model_control_mode");
  return flag != nullptr ? flag->value : triton_model_control_mode;
}

std::string ClusterFlags::LoadedModels() const {
  const std::vector<GivenFlag> flags = ParseFlagLine(gateway_flags);
  const GivenFlag* flag = FindLast(flags, "triton_load_models");
  return flag != nullptr ? flag->value : triton_load_models;
}

void ClusterFlags::CheckControlOrExit(const Options& options) const {
  const std::string mode = ControlMode();
  const std::string load_models = LoadedModels();
  const bool is_explicit = mode == "explicit";
  if (!is_explicit && !mode.empty() && mode != "none") {
    options.Fail(
        absl::StrCat("--triton_model_control_mode is '", mode, "'; it must be none or explicit"));
  }
  if (load_models.empty()) return;
  if (!is_explicit) {
    options.Fail(
        "--triton_load_models is given, and all models are loaded at the start; it takes "
        "--triton_model_control_mode=explicit");
  }
  const std::vector<std::string> served = ServedTritonModels();
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(load_models, ','))) {
    if (name == "*" || std::find(served.begin(), served.end(), name) != served.end()) continue;
    options.Fail(absl::StrCat("--triton_load_models names '", name, "', which is not served; ",
                              absl::StrJoin(served, ", "), " and * are"));
  }
}

// With other values the processes would not find each other, and `up` would wait for ever; or they
// are overridden, without a word.
void ClusterFlags::CheckPassedFlagsOrExit(const Options& options) const {
  struct OwnFlag {
    const char* name;
    const char* instead;  // the flag of `up` that says it; nullptr: none does
  };
  const struct {
    const char* option;
    const std::string& given;
    std::vector<OwnFlag> own;
  } lines[] = {{"worker_flags",
                worker_flags,
                {{"tensor_parallel", "tensor_parallel"},
                 {"gpu", "gpus"},
                 {"rank", nullptr},
                 {"leader_address", nullptr},
                 {"listen_address", nullptr},
                 {"metrics_address", nullptr},
                 {"port_file", nullptr}}},
               {"gateway_flags",
                gateway_flags,
                {{"listen_address", "gateway_port"},
                 {"http_address", "http_port"},
                 {"metrics_address", "metrics_port"},
                 {"replicas", "replicas"},
                 {"tokenizers", nullptr},
                 {"port_file", nullptr}}},
               {"tokenizer_flags",
                tokenizer_flags,
                {{"listen_address", "tokenizer_port"},
                 {"model", "tokenizer"},
                 {"metrics_address", nullptr},
                 {"port_file", nullptr}}}};
  for (const auto& line : lines) {
    const std::vector<GivenFlag> flags = ParseFlagLine(line.given);
    for (const OwnFlag& own : line.own) {
      const GivenFlag* flag = FindLast(flags, own.name);
      if (flag == nullptr) continue;
      options.Fail(absl::StrCat(
          "--", line.option, " has ", flag->text, ", which each process is given anyway; ",
          own.instead != nullptr ? absl::StrCat("use --", own.instead) : "leave it out"));
    }
  }
}

void ClusterFlags::AddTo(Options* options) {
  options->Add("model", &model,
               "folder of the model: Hugging Face's (safetensors or pytorch_model*.bin), or a "
               "checkpoint of FasterTransformer");
  options->Add("tokenizer", &tokenizer, "folder of the tokenizer's files (default: the model's)");
  options->Add("model_name", &model_name, "what clients call it (default: the folder's name)");
  options->Add("tensor_parallel", &tensor_parallel,
               "workers that share one copy of the model (default: 1)");
  options->Add("replicas", &replicas, "copies of the model");
  options->Add(
      "host", &host,
      "address the gateway listens on; 0.0.0.0 serves other hosts too (metrics: IPv4 alone)");
  options->Add("gateway_port", &gateway_port, "gRPC port of the gateway; 0 = a free one");
  options->Add("http_port", &http_port, "its HTTP port; 0 = a free one");
  options->Add("metrics_port", &metrics_port, "its port for Prometheus; 0 = a free one");
  options->Add("tokenizer_port", &tokenizer_port, "gRPC port of the tokenizer; 0 = a free one");
  options->Add("device", &device,
               "auto, cuda or cpu (default: auto, cuda where a GPU can be used); on CUDA each "
               "worker has a GPU of its own");
  options->Add("gpus", &gpus,
               "the GPU of each worker, replica by replica, such as 0,0,1,1 (default: 0,1,2,...); "
               "workers on one GPU take turns, which is slow");
  options->Add("dtype", &dtype, "auto, float32, bfloat16 or float16 (default: the worker's)");
  options->Add("load_format", &load_format,
               "auto (whatever lies in the folder) or dummy (random weights from its config.json)");
  options->Add("kv_cache_bytes", &kv_cache_bytes, "memory of each worker for keys and values");
  options->Add("max_batch_tokens", &max_batch_tokens, "most tokens in one step");
  options->Add("worker_flags", &worker_flags, "further flags of each worker, separated by spaces");
  options->Add("gateway_flags", &gateway_flags, "the same for the gateway");
  options->Add("tokenizer_flags", &tokenizer_flags, "the same for the tokenizer");
  options->Add("drain_timeout_ms", &drain_timeout_ms,
               "time that requests in flight get at the end");
  options->Add("log_dir", &log_dir, "folder for one log file a process");
}

absl::Status ClusterFlags::TakeTritonRepository() {
  if (triton_model_repository.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const TritonRepository repository,
                   ReadTritonRepository(triton_model_repository));
  for (const std::string& note : repository.notes) WriteOut(absl::StrCat("note: ", note, "\n"));
  for (const std::string& warning : repository.warnings) {
    WriteOut(absl::StrCat("warning: ", warning, "\n"));
  }
  TakeOrNote("model", repository.checkpoint, &model);
  TakeOrNote("dtype", repository.dtype(), &dtype);
  if (model_name.empty()) model_name = NameOfCheckpoint(model);
  const std::string ranks = absl::StrCat(repository.tensor_parallel);
  std::string given = tensor_parallel.has_value() ? absl::StrCat(*tensor_parallel) : ranks;
  TakeOrNote("tensor_parallel", ranks, &given);
  tensor_parallel = tensor_parallel.value_or(repository.tensor_parallel);
  triton_flags = {absl::StrCat("--triton_decoupled=", repository.decoupled ? "true" : "false"),
                  absl::StrCat("--triton_max_batch_size=", repository.max_batch_size),
                  absl::StrCat("--triton_tensor_parallel=", *tensor_parallel),
                  absl::StrCat("--triton_data_type=", repository.data_type),
                  absl::StrCat("--triton_checkpoint_path=", repository.checkpoint)};
  const std::vector<std::string> of_workers = {"--dtype=" + dtype, "--model=" + model};
  for (const auto& notes : {NotesOfOverrides("gateway_flags", gateway_flags, triton_flags),
                            NotesOfOverrides("worker_flags", worker_flags, of_workers)}) {
    for (const std::string& note : notes) WriteOut(absl::StrCat("note: ", note, "\n"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int>> ParseGpus(const std::string& text, int workers) {
  constexpr int kMostGpus = 1024;
  std::vector<int> gpus;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int gpu = 0;
    if (!absl::SimpleAtoi(part, &gpu) || gpu < 0 || gpu >= kMostGpus) {
      return absl::InvalidArgumentError(absl::StrCat("--gpus is '", text, "'; '", part,
                                                     "' is not the number of a GPU, from 0 to ",
                                                     kMostGpus - 1));
    }
    gpus.push_back(gpu);
  }
  if (static_cast<int>(gpus.size()) != workers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--gpus names ", gpus.size(), " GPUs for --replicas x --tensor_parallel = ", workers,
        " workers; name one for each"));
  }
  return gpus;
}

std::vector<int> ClusterFlags::GpusOrExit(const Options& options, int workers) const {
  if (gpus.empty()) return {};
  if (device == "cpu") options.Fail("--gpus is given, and --device=cpu uses none");
  const absl::StatusOr<std::vector<int>> parsed = ParseGpus(gpus, workers);
  if (!parsed.ok()) options.Fail(std::string(parsed.status().message()));
  const bool share = std::set<int>(parsed->begin(), parsed->end()).size() < parsed->size();
  if (share && kv_cache_bytes.empty() && !absl::StrContains(worker_flags, "kv_cache_bytes")) {
    options.Fail(
        "--gpus puts several workers on one GPU, of which the first would take all that "
        "--gpu_memory_fraction allows; say with --kv_cache_bytes how much memory each of them "
        "has for keys and values");
  }
  return *parsed;
}

void ClusterFlags::StartUnloadedIfExplicit(ClusterOptions* cluster) const {
  if (ControlMode() != "explicit") return;
  // The gateway says when; a worker that is restarted while the model is unloaded stays without it.
  cluster->worker_flags.emplace_back("--load_at_start=false");
  cluster->loaded_at_start = false;
  const std::string load_models = LoadedModels();
  for (const absl::string_view name : absl::StrSplit(load_models, ',')) {
    if (name == "*" || name == "fastertransformer" || name == "ensemble") {
      cluster->loaded_at_start = true;
    }
  }
}

ClusterOptions ClusterFlags::MakeOrExit(const Options& options) const {
  const struct {
    const char* name;
    int64_t value;
    int64_t least;
    int64_t most;
  } numbers[] = {{"tensor_parallel", tensor_parallel.value_or(1), 1, 64},
                 {"replicas", replicas, 1, 64},
                 {"gateway_port", gateway_port, 0, 65535},
                 {"http_port", http_port, 0, 65535},
                 {"metrics_port", metrics_port, 0, 65535},
                 {"tokenizer_port", tokenizer_port, 0, 65535},
                 {"drain_timeout_ms", drain_timeout_ms, 0, std::numeric_limits<int>::max()}};
  for (const auto& number : numbers) {
    if (number.value < number.least || number.value > number.most) {
      options.Fail(absl::StrCat("--", number.name, " is ", number.value, "; it must be from ",
                                number.least, " to ", number.most));
    }
  }
  CheckControlOrExit(options);
  CheckPassedFlagsOrExit(options);
  ClusterOptions cluster;
  cluster.program_folder = OwnProgramFolder();
  cluster.model = model;
  cluster.tokenizer = tokenizer;
  cluster.model_name = model_name.empty() ? NameOfCheckpoint(model) : model_name;
  cluster.tensor_parallel = static_cast<int>(tensor_parallel.value_or(1));
  cluster.replicas = static_cast<int>(replicas);
  cluster.gpus = GpusOrExit(options, cluster.replicas * cluster.tensor_parallel);
  cluster.host = host;
  cluster.gateway_port = static_cast<int>(gateway_port);
  cluster.http_port = static_cast<int>(http_port);
  cluster.metrics_port = static_cast<int>(metrics_port);
  cluster.tokenizer_port = static_cast<int>(tokenizer_port);
  cluster.drain_timeout_ms = static_cast<int>(drain_timeout_ms);
  for (const auto& [name, value] : {std::pair{"device", &device},
                                    {"dtype", &dtype},
                                    {"load_format", &load_format},
                                    {"kv_cache_bytes", &kv_cache_bytes},
                                    {"max_batch_tokens", &max_batch_tokens}}) {
    if (!value->empty()) cluster.worker_flags.push_back(absl::StrCat("--", name, "=", *value));
  }
  StartUnloadedIfExplicit(&cluster);
  for (const std::string& flag : SplitFlags(worker_flags)) cluster.worker_flags.push_back(flag);
  cluster.gateway_flags = triton_flags;
  if (!triton_model_control_mode.empty()) {
    cluster.gateway_flags.push_back("--triton_model_control_mode=" + triton_model_control_mode);
  }
  if (!triton_load_models.empty()) {
    cluster.gateway_flags.push_back("--triton_load_models=" + triton_load_models);
  }
  // Behind what the repository says: the last of equal flags wins.
  for (const std::string& flag : SplitFlags(gateway_flags)) cluster.gateway_flags.push_back(flag);
  cluster.tokenizer_flags = SplitFlags(tokenizer_flags);
  return cluster;
}

std::string RepositoryFolder() {
  std::string folder = OwnProgramFolder();  // REPOSITORY/build/PRESET/bin
  for (int i = 0; i < 3; ++i) folder = folder.substr(0, folder.rfind('/'));
  return folder;
}

}  // namespace caravan
