"""Starts the real tokenizer service on a free port of the loopback."""

import os
import pathlib
import subprocess
import sys
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.protos import load_protos  # noqa: E402

PROGRAM = ROOT / os.environ.get("CARAVAN_BUILD_DIR", "build/release") / "bin" / "caravan_tokenizer"
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def connect(port):
    """A stub of the service at a port of the loopback."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)
    return load_protos().tokenizer_grpc.TokenizerStub(channel)


class TokenizerProcess:
    """A running service; `log` holds what it wrote to standard error."""

    def __init__(self, model, work, *flags):
        self.log = pathlib.Path(work) / "tokenizer.log"
        port_file = pathlib.Path(work) / "ports"
        port_file.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(PROGRAM), f"--model={model}", "--listen_address=127.0.0.1:0",
                 f"--port_file={port_file}", *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up = time.monotonic() + 30
        while not port_file.exists():
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RuntimeError(f"the tokenizer did not start:\n{self.log.read_text()}")
            time.sleep(0.01)
        lines = port_file.read_text().splitlines()
        self.ports = {name: int(port) for name, port in (line.split("=") for line in lines)}
        self.port = self.ports["grpc"]
        self.stub = connect(self.port)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
