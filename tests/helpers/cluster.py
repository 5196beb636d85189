"""A real cluster on free loopback ports: the programs of build/release, started and ended by the test."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import types
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from helpers.protos import load_protos

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / os.environ.get("CARAVAN_BUILD_DIR", "build/release") / "bin"
DEMO_MODEL = ROOT / "models" / "demo"
DEVICE = os.environ.get("CARAVAN_TEST_DEVICE", "cpu")  # of the workers; with "cuda" each rank needs a GPU, or its
GPUS = os.environ.get("CARAVAN_TEST_GPUS", "")  # number here: "0,1,0,1"
WORKER_FLAGS = os.environ.get("CARAVAN_TEST_WORKER_FLAGS", "").split()  # of all, before a test's own
START_LIMIT_S = 60
STOP_LIMIT_S = 20
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20),
           ("grpc.use_local_subchannel_pool", 1)]
protos = load_protos()
pb = protos.generation


class Process:
    """One program with its log and ports. The kernel kills it when the test process dies."""

    def __init__(self, name, arguments, folder, ports=True):
        self.name = name
        self.log_path = folder / f"{name}.log"
        self.port_file = folder / f"{name}.ports"
        self.port_file.unlink(missing_ok=True)
        command = ["setpriv", "--pdeathsig", "KILL", *map(str, arguments)]
        if ports:
            command.append(f"--port_file={self.port_file}")
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.ports = {}

    @property
    def pid(self):
        return self.popen.pid

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    @property
    def address(self):
        return f"127.0.0.1:{self.ports['grpc']}"

    @property
    def http_address(self):
        return f"127.0.0.1:{self.ports['http']}"

    def await_ports(self):
        def read():
            assert self.popen.poll() is None, f"{self.name} ended with {self.popen.returncode}:\n{self.log}"
            return self.port_file.exists()

        await_true(read, f"{self.name} to listen")
        self.ports = dict((line.split("=")[0], int(line.split("=")[1]))
                          for line in self.port_file.read_text().split())
        return self

    def await_serving(self, wanted=health_pb2.HealthCheckResponse.SERVING, limit_s=START_LIMIT_S):
        """Returns when the health service tells `wanted`, which it does on a stream: no polling."""
        with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=limit_s, wait_for_ready=True)
            for response in watch:
                if response.status == wanted:
                    watch.cancel()
                    return self
        raise AssertionError(f"{self.name} ended its health stream:\n{self.log}")

    def metrics(self):
        """Metric lines by name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines
                if line and not line.startswith("#")}

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, limit_s=STOP_LIMIT_S):
        return self.popen.wait(timeout=limit_s)

    def end(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait()


def await_true(condition, what, limit_s=START_LIMIT_S):
    """For what no stream tells of: looks often, and not for ever."""
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {limit_s} s for {what}"
        time.sleep(0.01)


class Cluster:
    """gateway + tokenizer + replicas x tensor_parallel workers; use it in a `with`, or call close()."""

    def __init__(self, model=DEMO_MODEL, tensor_parallel=1, replicas=1, worker_flags=(), gateway_flags=(),
                 tokenizer_flags=(), tokenizer=None, loaded=True):
        """`loaded`: the replicas have the model at the start."""
        self.model = pathlib.Path(model)
        self.tokenizer_folder = pathlib.Path(tokenizer or model)
        self.tensor_parallel = tensor_parallel
        self.worker_flags = list(worker_flags)
        self._folder = tempfile.TemporaryDirectory(prefix="caravan_test_")
        self.folder = pathlib.Path(self._folder.name)
        self._processes = []
        self._channels = []
        try:
            self._start(replicas, list(gateway_flags), list(tokenizer_flags), loaded)
        except BaseException:
            self.close()
            raise

    def _start(self, replicas, gateway_flags, tokenizer_flags, loaded):
        self.tokenizer = self.launch("tokenizer", PROGRAMS / "caravan_tokenizer", f"--model={self.tokenizer_folder}",
                                     *tokenizer_flags)
        leaders = [self.launch_worker(replica, 0) for replica in range(replicas)]
        for process in [self.tokenizer, *leaders]:
            process.await_ports()
        self.workers = [[leader] for leader in leaders]
        for replica in range(replicas):
            for rank in range(1, self.tensor_parallel):
                self.workers[replica].append(self.launch_worker(replica, rank))
        self.gateway = self.launch(
            "gateway", PROGRAMS / "caravan_gateway", f"--tokenizers={self.tokenizer.address}",
            "--replicas=" + ",".join(leader.address for leader in leaders), *gateway_flags)
        for process in [self.gateway, *(worker for group in self.workers for worker in group[1:])]:
            process.await_ports()
        self.tokenizer.await_serving()
        for leader in leaders if loaded else ():
            leader.await_serving()
        self.gateway.await_serving()
        self.channel = self.connect(self.gateway.address)
        self.generation = protos.generation_grpc.GenerationStub(self.channel)
        if loaded:
            self.await_replicas(replicas)

    def launch(self, name, *arguments):
        flags = [] if any(str(flag).startswith("--listen_address") for flag in arguments) else [
            "--listen_address=127.0.0.1:0", "--metrics_address=127.0.0.1:0"]
        if name == "gateway" and not any(str(flag).startswith("--http_address") for flag in arguments):
            flags.append("--http_address=127.0.0.1:0")
        process = Process(name, [*arguments, *flags], self.folder)
        self._processes.append(process)
        return process

    def launch_worker(self, replica, rank, listen=None):
        """Starts a rank; `listen` is the gRPC port of an earlier life, which others know."""
        flags = [f"--model={self.model}", f"--model_name={self.model.name}", f"--rank={rank}",
                 f"--tensor_parallel={self.tensor_parallel}", f"--device={DEVICE}", *WORKER_FLAGS, *self.worker_flags]
        if DEVICE == "cuda" and GPUS:
            flags.append(f"--gpu={GPUS.split(',')[rank]}")
        if rank > 0:
            flags.append(f"--leader_address={self.workers[replica][0].address}")
        if listen is not None:
            flags += [f"--listen_address=127.0.0.1:{listen}", "--metrics_address=127.0.0.1:0"]
        return self.launch(f"worker-{replica}-{rank}", PROGRAMS / "caravan_worker", *flags)

    def restart_worker(self, replica, rank):
        """What a supervisor does once the rank has died."""
        port = self.workers[replica][rank].ports["grpc"]
        self.workers[replica][rank].end()
        self.workers[replica][rank] = self.launch_worker(replica, rank, listen=port)
        return self.workers[replica][rank].await_ports()

    def connect(self, address):
        channel = grpc.insecure_channel(address, options=OPTIONS)
        self._channels.append(channel)
        return channel

    def worker_stub(self, replica=0):
        return protos.worker_grpc.WorkerStub(self.connect(self.workers[replica][0].address))

    def tokenizer_stub(self):
        return protos.tokenizer_grpc.TokenizerStub(self.connect(self.tokenizer.address))

    def replica_infos(self):
        models = self.generation.ListModels(pb.ListModelsRequest(), timeout=10).models
        return [replica for model in models for replica in model.replicas]

    def await_replicas(self, count, limit_s=START_LIMIT_S):
        await_true(lambda: sum(replica.ready for replica in self.replica_infos()) == count,
                   f"{count} ready replicas", limit_s)

    def await_idle(self, limit_s=START_LIMIT_S):
        """Until no request is left anywhere and no KV block is held."""
        await_true(lambda: all(replica.waiting_requests == replica.running_sequences == replica.used_blocks == 0
                               for replica in self.replica_infos()), "an idle cluster", limit_s)

    def generate(self, prompt, timeout=60, **fields):
        return collect(self.generation.Generate(request(prompt, **fields), timeout=timeout))

    def close(self):
        for channel in self._channels:
            channel.close()
        for process in self._processes:
            process.end()
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is not None:
            for process in self._processes:
                print(f"---- {process.name} ----\n{process.log[-4000:]}")
        self.close()


def request(prompt, max_tokens=16, temperature=0.0, sampling=None, stopping=None, output=None, **fields):
    """A GenerateRequest; `prompt` is a text or a list of token ids."""
    if isinstance(prompt, str):
        part = pb.PromptPart(text=prompt.encode())
    elif isinstance(prompt, bytes):
        part = pb.PromptPart(text=prompt)
    else:
        part = pb.PromptPart(token_ids=pb.TokenIds(ids=prompt))
    return pb.GenerateRequest(
        prompt=[part], sampling=pb.SamplingParams(**{"temperature": temperature, **(sampling or {})}),
        stopping=pb.StoppingParams(**{"max_tokens": max_tokens, **(stopping or {})}),
        output=pb.OutputOptions(**{"token_ids": True, **(output or {})}), **fields)


def add_event(result, event):
    kind = event.WhichOneof("event")
    if kind == "started":
        result.started = event.started
    elif kind == "tokens" and event.tokens.sample_index == 0:
        assert event.tokens.first_position == len(result.token_ids), "a token was lost or repeated"
        result.text += event.tokens.text
        result.token_ids += event.tokens.token_ids
    elif kind == "finished":
        result.finished = event.finished


def collect(events):
    """Reads a whole Generate stream: started, text (bytes), token_ids, finished of sample 0."""
    result = types.SimpleNamespace(started=None, text=b"", token_ids=[], finished=None)
    for event in events:
        add_event(result, event)
    return result


class SessionStream:
    """One Session of the native API; requests are sent when the test says so."""

    def __init__(self, stub, timeout=60):
        self._outgoing = []
        self._wake = threading.Condition()
        self._closed = False
        self.call = stub.Session(self._messages(), timeout=timeout)

    def _messages(self):
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._outgoing or self._closed)
                if not self._outgoing:
                    return
                message = self._outgoing.pop(0)
            yield message

    def send(self, **message):
        with self._wake:
            self._outgoing.append(pb.SessionRequest(**message))
            self._wake.notify()

    def start(self, request_id, prompt, **fields):
        self.send(start=request(prompt, request_id=request_id, **fields))

    def cancel(self, request_id):
        self.send(cancel=pb.Cancel(request_id=request_id))

    def half_close(self):
        with self._wake:
            self._closed = True
            self._wake.notify()

    def collect(self, count):
        """Reads until `count` requests have finished; their results by request id."""
        results = {}
        finished = 0
        for message in self.call:
            if message.WhichOneof("message") != "event":
                continue
            result = results.setdefault(message.event.request_id, types.SimpleNamespace(
                started=None, text=b"", token_ids=[], finished=None))
            add_event(result, message.event.event)
            finished += message.event.event.HasField("finished")
            if finished == count:
                break
        return results


@contextlib.contextmanager
def failing_with(code, *words):
    """The block must end in an RpcError of this code whose sentence has these words."""
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        for word in words:
            assert word in error.details(), f"{error.details()!r} does not say {word!r}"
        return
    raise AssertionError(f"no error; expected {code}")
