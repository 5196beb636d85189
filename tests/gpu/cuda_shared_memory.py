#!/usr/bin/env python3
"""CUDA shared memory and unloading on real GPUs, over HTTP with the standard library alone.

usage: cuda_shared_memory.py PROGRAMS [TENSOR_PARALLEL]
Starts `caravan up` on the bundled model under explicit control; allocates with libcudart in this process, registers
the memory's IPC handles, and compares answers with those of plain requests. Then unloads and loads the model and looks
at the GPUs' memory. Prints `ok` lines and ends with 0, or with the first thing that is wrong.
"""

import base64
import ctypes
import glob
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
KV_BYTES = 1 << 30
ALLOCATED = 4 << 20
IDS = [1, 300, 301, 302]


class Cuda:
    """Of the runtime library what is needed; every call is checked."""

    def __init__(self):
        names = ["libcudart.so", "libcudart.so.13", "libcudart.so.12"]
        names += [path for folder in sys.path for path in glob.glob(f"{folder}/nvidia/*/lib/libcudart.so*")]
        for name in names:
            try:
                self.library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise SystemExit(f"no libcudart among {names}")

    def call(self, name, *arguments):
        error = getattr(self.library, name)(*arguments)
        assert error == 0, f"{name} gave {error}"

    def allocate(self, size):
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer

    def handle(self, pointer):
        handle = ctypes.create_string_buffer(64)
        self.call("cudaIpcGetMemHandle", handle, pointer)
        return handle.raw

    def write(self, pointer, offset, data):
        self.call("cudaMemcpy", ctypes.c_void_p(pointer.value + offset), data, ctypes.c_size_t(len(data)), 1)
        self.call("cudaDeviceSynchronize")

    def read(self, pointer, offset, size):
        data = ctypes.create_string_buffer(size)
        self.call("cudaMemcpy", data, ctypes.c_void_p(pointer.value + offset), ctypes.c_size_t(size), 2)
        return data.raw

    def used_bytes(self):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return total.value - free.value


class Door:
    def __init__(self, address):
        self.address = address

    def ask(self, path, body=None, limit_s=60):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}/v2/{path}", data=data)
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def good(self, path, body=None):
        status, answer = self.ask(path, body)
        assert status == 200, (path, status, answer)
        return answer

    def infer(self, ids, output=None, **place):
        inputs = [{"name": "input_ids", "shape": [1, len(IDS)], "datatype": "UINT32"},
                  {"name": "input_lengths", "shape": [1, 1], "datatype": "UINT32", "data": [len(IDS)]},
                  {"name": "request_output_len", "shape": [1, 1], "datatype": "UINT32", "data": [12]}]
        inputs[0].update({"data": ids} if ids else {"parameters": place})
        body = {"inputs": inputs, "outputs": [{"name": "output_ids", "parameters": output or {}}]}
        return self.ask("models/fastertransformer/infer", body)


def register(door, name, handle, size, device=0):
    return door.ask(f"cudasharedmemory/region/{name}/register",
                    {"raw_handle": {"b64": base64.b64encode(handle).decode()}, "device_id": device, "byte_size": size})


def check_regions(door, cuda):
    _, plain = door.infer(IDS)
    expected = plain["outputs"][0]["data"]
    given, taken = cuda.allocate(ALLOCATED), cuda.allocate(ALLOCATED)
    before = cuda.used_bytes()
    cuda.write(given, 4096, struct.pack(f"<{len(IDS)}I", *IDS))
    for name, pointer, size in (("in", given, ALLOCATED), ("out", taken, 65536)):
        status, answer = register(door, name, cuda.handle(pointer), size)
        assert status == 200, answer
    assert {region["name"]: (region["device_id"], region["byte_size"])
            for region in door.good("cudasharedmemory/status")} == {"in": (0, ALLOCATED), "out": (0, 65536)}
    print(f"ok   registered two regions; the gateway's context takes {(cuda.used_bytes() - before) >> 20} MiB")
    place = {"shared_memory_region": "in", "shared_memory_byte_size": 4 * len(IDS), "shared_memory_offset": 4096}
    size = 4 * len(expected)
    target = {"shared_memory_region": "out", "shared_memory_byte_size": size, "shared_memory_offset": 128}
    for _ in range(20):
        cuda.write(taken, 0, b"\xff" * 4096)
        status, answer = door.infer(None, target, **place)
        assert status == 200, answer
        got = list(struct.unpack(f"<{len(expected)}I", cuda.read(taken, 128, size)))
        assert got == expected, (got, expected)
        assert cuda.read(taken, 128 + size, 64) == b"\xff" * 64
    print("ok   20 answers from and into GPU memory equal the plain one")
    for wrong in ({"shared_memory_offset": ALLOCATED - 8}, {"shared_memory_byte_size": 1 << 40},
                  {"shared_memory_offset": (1 << 63) - 1}):
        status, answer = door.infer(None, None, **{**place, **wrong})
        assert status == 400, answer
    status, answer = register(door, "long", cuda.handle(given), 1 << 40)
    assert status == 400 and "byte_size is" in answer["error"], answer
    print("     ", answer["error"])
    status, answer = register(door, "bad", b"\x01" * 64, 64)
    assert status == 400 and "cuIpcOpenMemHandle" in answer["error"], answer
    print("     ", answer["error"])
    status, answer = register(door, "far", cuda.handle(given), 64, device=99)
    assert status == 400 and "device_id is 99" in answer["error"], answer
    assert door.infer(None, target, **place)[0] == 200
    print("ok   wrong ranges, sizes, handles and devices are errors, and the regions still work")
    door.good("cudasharedmemory/unregister", {})
    assert door.good("cudasharedmemory/status") == []
    deadline = time.monotonic() + 10
    while cuda.used_bytes() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cuda.used_bytes() <= before, "the gateway keeps its context"
    print("ok   unregistering frees the gateway's context")


def memory_of_ranks(programs, environment):
    status = subprocess.run([f"{programs}/caravan", "status", "--json"], env=environment, check=True,
                            capture_output=True, text=True).stdout
    [replica] = json.loads(status)["models"][0]["replicas"]
    return replica["state"], [int(rank["device_memory_bytes"]) for rank in replica["ranks"]]


def check_unload(door, programs, environment):
    _, before = door.infer(IDS)
    for _ in range(3):
        time.sleep(1.2)  # what ranks say of their GPUs may be a second old
        _, loaded = memory_of_ranks(programs, environment)
        start = time.monotonic()
        door.good("repository/models/fastertransformer/unload", {})
        unload_s = time.monotonic() - start
        time.sleep(1.2)
        state, unloaded = memory_of_ranks(programs, environment)
        assert state == "unloaded", state
        freed = [had - has for had, has in zip(loaded, unloaded)]
        assert all(bytes_ >= KV_BYTES for bytes_ in freed), (loaded, unloaded)
        assert door.infer(IDS)[0] in (404, 503)
        start = time.monotonic()
        door.good("repository/models/fastertransformer/load", {})
        print(f"ok   unloaded in {unload_s:.2f} s, freed {[bytes_ >> 20 for bytes_ in freed]} MiB of "
              f"{[bytes_ >> 20 for bytes_ in loaded]}, loaded in {time.monotonic() - start:.2f} s")
        _, after = door.infer(IDS)
        assert after["outputs"][0]["data"] == before["outputs"][0]["data"]


def main():
    programs = sys.argv[1]
    tensor_parallel = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        state = pathlib.Path(folder) / "state.json"
        environment = dict(os.environ, CARAVAN_STATE_FILE=str(state))
        with open(f"{folder}/up.log", "wb") as log:
            up = subprocess.Popen([f"{programs}/caravan", "up", f"--model={ROOT}/models/demo", "--device=cuda",
                                   f"--tensor_parallel={tensor_parallel}", f"--kv_cache_bytes={KV_BYTES}",
                                   "--triton_model_control_mode=explicit", "--triton_load_models=*",
                                   "--gateway_port=0", "--http_port=0", "--metrics_port=0"],
                                  env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not state.exists():
                assert up.poll() is None and time.monotonic() < deadline, pathlib.Path(f"{folder}/up.log").read_text()
                time.sleep(0.1)
            door = Door(json.loads(state.read_text())["gateway_http"])
            check_regions(door, Cuda())
            check_unload(door, programs, environment)
            print("all ok")
        except BaseException:
            print(pathlib.Path(f"{folder}/up.log").read_text()[-8000:])
            raise
        finally:
            up.terminate()
            up.wait()


if __name__ == "__main__":
    main()
