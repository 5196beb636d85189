#include "cli/cluster.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "cli/preflight.h"
#include "cli/readiness.h"
#include "common/status.h"

namespace caravan {
namespace {

constexpr char kLoopback[] = "127.0.0.1";
constexpr absl::Duration kListenTimeout = absl::Seconds(60);
constexpr absl::Duration kStopSlack = absl::Seconds(10);  // besides the drain itself

// Where a listener on `host` can be reached from this one.
std::string Reachable(const std::string& host) {
  return host == "0.0.0.0" || host == "[::]" ? kLoopback : host;
}

// Workers of one host share its cores.
std::string ThreadsVariable(int workers) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return absl::StrCat("OMP_NUM_THREADS=", std::max(1, cores / workers));
}

uint64_t ResidentBytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  uint64_t pages = 0;
  file >> pages >> pages;  // the second number
  return file ? pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

// The metrics server has no IPv6 (common/metrics.h).
std::string MetricsHost(const std::string& host) {
  if (host.empty() || host.front() != '[') return host;
  return host == "[::1]" ? kLoopback : "0.0.0.0";
}

}  // namespace

Cluster::Cluster(ClusterOptions options, Supervisor* supervisor)
    : options_(std::move(options)), supervisor_(supervisor) {}

Cluster::~Cluster() {
  if (run_folder_.empty()) return;
  for (const Service* service : Services()) unlink(service->port_file.c_str());
  rmdir(run_folder_.c_str());
}

absl::Status Cluster::Check() const {
  RETURN_IF_ERROR(CheckModelFolder(options_.model));
  RETURN_IF_ERROR(CheckTokenizerFolder(options_.tokenizer, options_.model));
  RETURN_IF_ERROR(CheckPrograms(options_.program_folder));
  RETURN_IF_ERROR(CheckHost(options_.host));
  return CheckPortsAreFree({{"--gateway_port", options_.host, options_.gateway_port},
                            {"--http_port", options_.host, options_.http_port},
                            {"--metrics_port", MetricsHost(options_.host), options_.metrics_port},
                            {"--tokenizer_port", kLoopback, options_.tokenizer_port}});
}

absl::Status Cluster::Start(const std::function<void(const LoadProgress&)>& on_progress) {
  RETURN_IF_ERROR(Check());
  char folder[] = "/tmp/caravan-run-XXXXXX";
  if (mkdtemp(folder) == nullptr) {
    return absl::PermissionDeniedError("can't make a folder for port files in /tmp");
  }
  run_folder_ = folder;
  tokenizer_.name = "tokenizer";
  tokenizer_.host = kLoopback;
  tokenizer_.port = options_.tokenizer_port;
  tokenizer_.arguments = {
      options_.program_folder + "/caravan_tokenizer",
      "--model=" + (options_.tokenizer.empty() ? options_.model : options_.tokenizer)};
  tokenizer_.arguments.insert(tokenizer_.arguments.end(), options_.tokenizer_flags.begin(),
                              options_.tokenizer_flags.end());
  RETURN_IF_ERROR(Launch(&tokenizer_));
  RETURN_IF_ERROR(StartWorkers());
  RETURN_IF_ERROR(StartGateway());
  RETURN_IF_ERROR(AwaitReady(on_progress));
  RETURN_IF_ERROR(CheckVocabularies(tokenizer_.address, gateway_.address));
  supervisor_->KeepAlive();
  return absl::OkStatus();
}

absl::Status Cluster::StartWorkers() {
  std::vector<Service*> awaited = {&tokenizer_};
  for (int replica = 0; replica < options_.replicas; ++replica) {
    workers_.push_back(std::make_unique<Service>(MakeWorker(replica, 0, "")));
    RETURN_IF_ERROR(Launch(workers_.back().get()));
    awaited.push_back(workers_.back().get());
  }
  RETURN_IF_ERROR(AwaitPorts(awaited));
  std::vector<std::unique_ptr<Service>> leaders = std::exchange(workers_, {});
  std::vector<Service*> followers;
  for (int replica = 0; replica < options_.replicas; ++replica) {
    const std::string leader_address = leaders[replica]->address;
    workers_.push_back(std::move(leaders[replica]));
    for (int rank = 1; rank < options_.tensor_parallel; ++rank) {
      workers_.push_back(std::make_unique<Service>(MakeWorker(replica, rank, leader_address)));
      RETURN_IF_ERROR(Launch(workers_.back().get()));
      followers.push_back(workers_.back().get());
    }
  }
  return AwaitPorts(followers);
}

Cluster::Service Cluster::MakeWorker(int replica, int rank,
                                     const std::string& leader_address) const {
  Service worker;
  worker.name = options_.replicas == 1 ? absl::StrCat("worker ", rank)
                                       : absl::StrCat("worker ", replica, ".", rank);
  worker.host = kLoopback;
  worker.arguments = {options_.program_folder + "/caravan_worker",
                      "--model=" + options_.model,
                      "--model_name=" + options_.model_name,
                      absl::StrCat("--rank=", rank),
                      absl::StrCat("--tensor_parallel=", options_.tensor_parallel),
                      absl::StrCat("--gpu=", GpuOf(replica, rank))};
  if (rank > 0) worker.arguments.push_back("--leader_address=" + leader_address);
  worker.arguments.insert(worker.arguments.end(), options_.worker_flags.begin(),
                          options_.worker_flags.end());
  // NCCL takes two ranks on one GPU for a mistake, unless they seem to be on two hosts.
  if (SharesGpu(replica, rank) && std::getenv("NCCL_HOSTID") == nullptr) {
    worker.environment.push_back(absl::StrCat("NCCL_HOSTID=caravan-rank-", rank));
  }
  return worker;
}

int Cluster::GpuOf(int replica, int rank) const {
  const int worker = replica * options_.tensor_parallel + rank;
  return options_.gpus.empty() ? worker : options_.gpus[static_cast<size_t>(worker)];
}

bool Cluster::SharesGpu(int replica, int rank) const {
  for (int other = 0; other < options_.tensor_parallel; ++other) {
    if (other != rank && GpuOf(replica, other) == GpuOf(replica, rank)) return true;
  }
  return false;
}

absl::Status Cluster::StartGateway() {
  std::vector<std::string> leaders;
  for (size_t i = 0; i < workers_.size(); i += options_.tensor_parallel) {
    leaders.push_back(workers_[i]->address);
  }
  gateway_.name = "gateway";
  gateway_.host = options_.host;
  gateway_.port = options_.gateway_port;
  gateway_.http_port = options_.http_port;
  gateway_.metrics_port = options_.metrics_port;
  gateway_.arguments = {options_.program_folder + "/caravan_gateway",
                        "--replicas=" + absl::StrJoin(leaders, ","),
                        "--tokenizers=" + tokenizer_.address,
                        absl::StrCat("--drain_timeout_ms=", options_.drain_timeout_ms)};
  gateway_.arguments.insert(gateway_.arguments.end(), options_.gateway_flags.begin(),
                            options_.gateway_flags.end());
  RETURN_IF_ERROR(Launch(&gateway_));
  return AwaitPorts({&gateway_});
}

std::vector<std::string> Cluster::CommandOf(const Service& service) {
  std::vector<std::string> command = service.arguments;
  command.push_back(absl::StrCat("--listen_address=", service.host, ":", service.port));
  if (service.http_port >= 0) {
    command.push_back(absl::StrCat("--http_address=", service.host, ":", service.http_port));
  }
  command.push_back(
      absl::StrCat("--metrics_address=", MetricsHost(service.host), ":", service.metrics_port));
  command.push_back("--port_file=" + service.port_file);
  return command;
}

absl::Status Cluster::Launch(Service* service) {
  service->port_file = absl::StrCat(run_folder_, "/", service->name, ".ports");
  ProcessSpec spec;
  spec.name = service->name;
  spec.argv = CommandOf(*service);
  spec.environment = service->environment;
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    spec.environment.push_back(ThreadsVariable(options_.replicas * options_.tensor_parallel));
  }
  ASSIGN_OR_RETURN(service->index, supervisor_->Start(std::move(spec)));
  return absl::OkStatus();
}

absl::Status Cluster::AwaitPorts(const std::vector<Service*>& services) {
  for (Service* service : services) {
    RETURN_IF_ERROR(supervisor_->PollUntil([this, service] { return ReadPorts(service); },
                                           absl::Now() + kListenTimeout,
                                           absl::StrCat(service->name, " to listen")));
    supervisor_->SetArguments(service->index, CommandOf(*service));
  }
  return absl::OkStatus();
}

bool Cluster::ReadPorts(Service* service) {
  std::ifstream file(service->port_file);
  std::string line;
  int grpc = 0;
  int http = 0;
  int metrics = 0;
  while (std::getline(file, line)) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    int port = 0;
    if (!absl::SimpleAtoi(line.substr(equals + 1), &port)) continue;
    if (line.substr(0, equals) == "grpc") grpc = port;
    if (line.substr(0, equals) == "http") http = port;
    if (line.substr(0, equals) == "metrics") metrics = port;
  }
  if (grpc == 0 || metrics == 0) return false;
  if (http != 0) {
    service->http_port = http;
    service->http_address = absl::StrCat(Reachable(service->host), ":", http);
  }
  service->port = grpc;
  service->metrics_port = metrics;
  service->address = absl::StrCat(Reachable(service->host), ":", grpc);
  service->metrics_address = absl::StrCat(Reachable(MetricsHost(service->host)), ":", metrics);
  return true;
}

absl::Status Cluster::AwaitReady(const std::function<void(const LoadProgress&)>& on_progress) {
  std::vector<std::string> leaders;
  for (size_t i = 0; i < workers_.size(); i += options_.tensor_parallel) {
    leaders.push_back(workers_[i]->address);
  }
  ReadinessProbe probe(leaders, gateway_.address, options_.loaded_at_start);
  // No deadline: a large model on a slow disk takes what it takes, and a process that fails ends.
  RETURN_IF_ERROR(supervisor_->PollUntil(
      [&probe, &on_progress] {
        const LoadProgress progress = probe.Ask();
        on_progress(progress);
        return probe.ready() || !probe.failure().ok();
      },
      absl::InfiniteFuture(), "the model"));
  unloaded_ = probe.unloaded();
  return probe.failure();
}

void Cluster::Stop() {
  const absl::Time drained = absl::Now() + absl::Milliseconds(options_.drain_timeout_ms);
  if (gateway_.index >= 0) supervisor_->Stop({gateway_.index}, drained + kStopSlack / 2);
  std::vector<int> others;
  for (const Service* service : Services()) {
    if (service->index >= 0 && service->index != gateway_.index) others.push_back(service->index);
  }
  supervisor_->Stop(others, absl::Now() + kStopSlack);
}

std::vector<const Cluster::Service*> Cluster::Services() const {
  std::vector<const Service*> services = {&gateway_, &tokenizer_};
  for (const auto& worker : workers_) services.push_back(worker.get());
  return services;
}

std::vector<Cluster::Member> Cluster::Members() const {
  std::vector<Member> members;
  for (const Service* service : Services()) {
    if (service->index < 0) continue;
    const pid_t pid = supervisor_->pid(service->index);
    members.push_back(
        {service->name, pid, service->address, service->metrics_address, ResidentBytes(pid)});
  }
  return members;
}

}  // namespace caravan
