"""What a real cluster on the GPU answers: its most probable tokens after given prompts, and while it decodes."""

import concurrent.futures
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import grpc
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from helpers.cluster import OPTIONS, protos, request  # noqa: E402

TOP = 20  # the most that the native API gives
AT_ONCE = 32
START_LIMIT_S = 120
STOP_LIMIT_S = 30


@dataclasses.dataclass
class Answers:
    """Of some positions, one a row."""

    tokens: np.ndarray  # [rows], drawn greedily
    ids: np.ndarray  # [rows, TOP], most probable first
    logprobs: np.ndarray  # [rows, TOP]


class UpCluster:
    """`caravan up` of the programs in a folder, for a `with`. `gpus` names the GPU of each rank, "0,0,1,1"; empty: one
    each."""

    def __init__(self, programs, model, device="cuda", tensor_parallel=1, gpus="", worker_flags=()):
        self._folder = tempfile.TemporaryDirectory(prefix="caravan_gpu_")
        self._output = pathlib.Path(self._folder.name) / "up.txt"
        command = [pathlib.Path(programs) / "caravan", "up", f"--model={model}", f"--device={device}",
                   f"--tensor_parallel={tensor_parallel}", "--gateway_port=0", "--http_port=0", "--metrics_port=0",
                   f"--worker_flags={' '.join(worker_flags)}"]
        if gpus:
            command.append(f"--gpus={gpus}")
        environment = {**os.environ, "CARAVAN_STATE_FILE": f"{self._folder.name}/state"}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                             env=environment)
        try:
            self.channel = grpc.insecure_channel(self._await_address(), options=OPTIONS)
        except BaseException:
            self.close()
            raise
        self.generation = protos.generation_grpc.GenerationStub(self.channel)

    def _await_address(self):
        give_up = time.monotonic() + START_LIMIT_S
        while True:
            lines = self.output().splitlines()
            for line in lines:  # of what `up` says itself: "  gateway    127.0.0.1:8001 (…"
                if line.startswith("  gateway "):
                    return line.split()[1]
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("the cluster did not start:\n" + "\n".join(lines[-20:]))
            time.sleep(0.02)

    def output(self):
        return self._output.read_text(errors="replace")

    def close(self):
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is not None:
            print("\n".join(self.output().splitlines()[-30:]), flush=True)
        self.channel.close()
        self.close()


def ask(cluster, prompt, max_tokens, **fields):
    """The log probabilities of each sample's tokens, of one request."""
    fields = {"stopping": {"ignore_eos": True}, "output": {"logprobs": TOP, "no_text": True}, **fields}
    samples = {}
    for event in cluster.generation.Generate(request(prompt, max_tokens=max_tokens, **fields), timeout=300):
        if event.HasField("tokens"):
            samples.setdefault(event.tokens.sample_index, []).extend(event.tokens.logprobs)
    return [samples[index] for index in sorted(samples)]


def ask_all(cluster, prompts, max_tokens):
    """Greedy answers to all prompts, `AT_ONCE` of them at a time, in order."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda prompt: ask(cluster, prompt, max_tokens)[0], prompts)
        rows = [entry for answer in answers for entry in answer]
    assert len(rows) == len(prompts) * max_tokens, f"{len(rows)} tokens came"
    return Answers(np.array([row.token_id for row in rows], np.int64),
                   np.array([[top.token_id for top in row.top] for row in rows], np.int64),
                   np.array([[top.logprob for top in row.top] for row in rows], np.float32))


def gpus_of(degree, machine_gpus):
    """The GPU of each rank, "0,0,1,1", where a degree needs more than there are; else "", a GPU each."""
    if not machine_gpus or degree <= machine_gpus:
        return ""
    return ",".join(str(rank * machine_gpus // degree) for rank in range(degree))
