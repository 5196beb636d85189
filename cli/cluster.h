// A whole cluster on this host: gateway, tokenizer and the workers of each replica, as children of
// one supervisor.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/supervisor.h"

namespace caravan {

struct ClusterOptions {
  std::string program_folder;  // where caravan_gateway, caravan_tokenizer and caravan_worker lie
  std::string model;           // folder
  std::string tokenizer;       // folder of its files; empty: the model's
  std::string model_name;      // what clients call it; empty: the folder's name
  int tensor_parallel = 1;     // workers of a replica
  int replicas = 1;
  std::vector<int> gpus;           // of each worker, replica by replica; empty: 0, 1, 2, …
  std::string host = "127.0.0.1";  // where the gateway listens; the others stay on loopback
  int gateway_port = 0;            // ports: 0 = a free one
  int http_port = 0;
  int metrics_port = 0;
  int tokenizer_port = 0;
  int drain_timeout_ms = 30000;
  bool loaded_at_start = true;  // false: replicas are up without the model
  std::vector<std::string> gateway_flags;
  std::vector<std::string> tokenizer_flags;
  std::vector<std::string> worker_flags;
};

struct LoadProgress {
  double fraction = 0;          // of the weights, the slowest replica's
  double bytes_per_second = 0;  // of all replicas together
  int ready_replicas = 0;
};

class Cluster {
 public:
  // `supervisor` outlives it.
  Cluster(ClusterOptions options, Supervisor* supervisor);
  ~Cluster();

  // Everything that can be said before a process is started: INVALID_ARGUMENT, NOT_FOUND, or
  // UNAVAILABLE for a port in use.
  absl::Status Check() const;

  // Starts all processes and returns when the gateway serves all replicas; `on_progress` is called
  // several times a second until then. On an error, or CANCELLED by a signal, call Stop.
  absl::Status Start(const std::function<void(const LoadProgress&)>& on_progress);

  // Drains: the gateway first, then workers and tokenizer.
  void Stop();

  // Whether Start has found a replica that is up without its model, as it should be.
  bool unloaded() const { return unloaded_; }
  const std::string& gateway_address() const { return gateway_.address; }
  const std::string& tokenizer_address() const { return tokenizer_.address; }
  const std::string& gateway_http_address() const { return gateway_.http_address; }
  const std::string& gateway_metrics_address() const { return gateway_.metrics_address; }

  // For people: what runs where.
  struct Member {
    std::string name;
    pid_t pid;
    std::string address;
    std::string metrics_address;
    uint64_t memory_bytes;  // resident now
  };
  std::vector<Member> Members() const;

 private:
  struct Service {
    int index = -1;  // of the supervisor
    std::string name;
    std::vector<std::string> arguments;    // without the addresses
    std::vector<std::string> environment;  // "NAME=value", besides ours
    std::string port_file;
    std::string host;
    int port = 0;          // asked for
    int http_port = -1;    // asked for; -1: it has none
    int metrics_port = 0;  // asked for
    std::string address;   // once known, as others reach it
    std::string http_address;
    std::string metrics_address;
  };

  static std::vector<std::string> CommandOf(const Service& service);
  absl::Status Launch(Service* service);
  // Waits until these have written their port files; later lives take the same ports.
  absl::Status AwaitPorts(const std::vector<Service*>& services);
  bool ReadPorts(Service* service);
  Service MakeWorker(int replica, int rank, const std::string& leader_address) const;
  int GpuOf(int replica, int rank) const;
  bool SharesGpu(int replica, int rank) const;  // with another rank of its replica
  absl::Status StartWorkers();
  absl::Status StartGateway();
  absl::Status AwaitReady(const std::function<void(const LoadProgress&)>& on_progress);
  std::vector<const Service*> Services() const;

  ClusterOptions options_;
  Supervisor* supervisor_;
  std::string run_folder_;
  bool unloaded_ = false;
  Service gateway_;
  Service tokenizer_;
  std::vector<std::unique_ptr<Service>> workers_;  // replica by replica, rank 0 first
};

}  // namespace caravan
