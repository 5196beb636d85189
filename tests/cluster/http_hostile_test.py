"""Clients of the HTTP door that lie, stall, leave or send bombs: the gateway answers each and serves the others."""

import contextlib
import json
import os
import random
import threading
import time
import zlib

import pytest

from helpers.cluster import Cluster, await_true
from helpers.triton_http import ask, ask_json, connect, ensemble_inputs, events

NEIGHBOUR_LIMIT_S = 2.0  # for an answer that takes milliseconds on an idle host
MEMORY_LIMIT_BYTES = 600 << 20


@pytest.fixture(scope="module")
def cluster():
    flags = ["--http_header_timeout_ms=1000", "--http_body_timeout_ms=1000", "--slow_reader_timeout_ms=2000"]
    with Cluster(gateway_flags=flags) as cluster:
        yield cluster


@pytest.fixture
def address(cluster):
    return cluster.gateway.http_address


@contextlib.contextmanager
def a_neighbour(cluster):
    """Asks for short texts all the time; none may fail or take long, and the gateway's memory stays bounded."""
    stop = threading.Event()
    problems = []
    answers = []

    def ask_on():
        while not stop.is_set():
            start = time.monotonic()
            status, got = ask_json(cluster.gateway.http_address, "POST", "/v2/models/ensemble/infer",
                                   {"inputs": ensemble_inputs("Once", 2), "outputs": [{"name": "OUTPUT_0"}]})
            took = time.monotonic() - start
            if status != 200 or took > NEIGHBOUR_LIMIT_S:
                problems.append((status, took, got))
            answers.append(took)

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not problems
    assert answers
    assert cluster.gateway.popen.poll() is None
    assert resident_bytes(cluster.gateway.pid) < MEMORY_LIMIT_BYTES


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def post(body, headers=b"", length=None):
    return (b"POST /v2/models/ensemble/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (
        len(body) if length is None else length, headers)) + body


def status_of(address, data, limit_s=60):
    with connect(address) as client:
        client.settimeout(limit_s)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        line = b""
        while b"\r\n" not in line:
            piece = client.recv(4096)
            if not piece:
                return None
            line += piece
        return int(line.split()[1])


def test_bombs_are_refused(cluster, address):
    gzip = zlib.compressobj(9, wbits=31)
    bomb = gzip.compress(b"[" * (1 << 29)) + gzip.flush()
    deep = b'{"inputs":' + b"[" * (1 << 20)
    wide = b'{"inputs":[' + b"{}," * (15 << 20) + b"{}]}"
    with a_neighbour(cluster):
        assert status_of(address, post(bomb, b"Content-Encoding: gzip\r\n")) == 413
        assert status_of(address, post(deep)) == 400
        for _ in range(3):
            assert status_of(address, post(wide)) == 400
        assert status_of(address, post(bomb[:100], b"Content-Encoding: gzip\r\n")) == 400
        assert status_of(address, post(b"\0" * 100, b"Content-Encoding: deflate\r\n")) == 400


def test_claims_are_not_believed(cluster, address):
    with a_neighbour(cluster):
        assert status_of(address, post(b"", length=1 << 31)) == 413
        assert status_of(address, post(b"", length=1 << 70)) in (400, 413)
        chunked = b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\nabc"
        assert status_of(address, chunked) == 413
        # Many that announce the most that is allowed and send none of it: no memory is set aside.
        waiting = [connect(address) for _ in range(200)]
        for client in waiting:
            client.sendall(post(b"", length=64 << 20))
        for client in waiting:
            assert client.recv(16).startswith(b"HTTP/1.1 408")
            client.close()


def test_slow_headers_and_bodies_are_ended(cluster, address):
    with a_neighbour(cluster):
        slow = [connect(address) for _ in range(300)]
        for i, client in enumerate(slow):
            client.sendall(b"POST /v2 HTTP/1.1\r\nX-Slow: " if i % 2 else post(b"half", length=100))
        # A byte now and then does not help.
        give_up = time.monotonic() + 20
        open_clients = list(slow)
        while open_clients:
            assert time.monotonic() < give_up, f"{len(open_clients)} slow clients are still served"
            for client in list(open_clients):
                client.settimeout(0.001)
                try:
                    client.sendall(b"x")
                    if client.recv(4096):
                        open_clients.remove(client)
                except TimeoutError:
                    continue
                except OSError:
                    open_clients.remove(client)
        for client in slow:
            client.close()


def test_pipelined_garbage(cluster, address):
    good = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with a_neighbour(cluster), connect(address) as client:
        client.sendall(good * 50 + b"garbage\r\n\r\n" + good)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        assert answer.count(b"HTTP/1.1 200") == 50
        assert answer.count(b"HTTP/1.1 400") == 1


def mutate(body, generator):
    body = bytearray(body)
    for _ in range(generator.randrange(1, 5)):
        at = generator.randrange(len(body))
        kind = generator.randrange(4)
        if kind == 0:
            body[at] = generator.randrange(256)
        elif kind == 1:
            del body[at:at + generator.randrange(1, 6)]
        elif kind == 2:
            body[at:at] = generator.choice([b"[", b"{", b'"', b"-", b"9" * 30, b"null", b"1e999", b"\xff", b"\\u12"])
        else:
            body[at:at] = body[at:at + generator.randrange(1, 40)]
        if not body:
            body = bytearray(b"{}")
    return bytes(body)


def test_mutated_requests_are_answered_with_a_reason(cluster, address):
    generator = random.Random(11)
    blob = (5).to_bytes(4, "little")
    inputs = ensemble_inputs("Once", 2)
    inputs[1] = {"name": "INPUT_1", "datatype": "UINT32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    header = {"Inference-Header-Content-Length": str(len(text))}
    refused = 0
    with a_neighbour(cluster):
        for i in range(600):
            body = mutate(text + blob, generator)
            path = f"/v2/models/ensemble/{'infer' if i % 3 else 'generate'}"
            status, _, answer = ask(address, "POST", path, body, header if i % 2 else {})
            assert status in (200, 400, 404, 500), answer
            if status != 200:
                refused += 1
                assert json.loads(answer)["error"]
                assert status != 500 or "prompt_learning" in answer.decode(), answer
    assert refused > 300


def test_a_client_that_leaves_frees_its_place(cluster, address):
    body = {"INPUT_0": "Once upon a time", "INPUT_1": 1900, "INPUT_2": "", "INPUT_3": "", "end_id": 5}
    cancelled = 'nv_inference_request_failure{model="ensemble",version="1",reason="CANCELED"}'
    for path in ("generate", "generate_stream", "infer"):
        before = cluster.gateway.metrics()[cancelled]
        content = body if path != "infer" else {
            "inputs": ensemble_inputs("Once upon a time", 1900, end_id=("UINT32", 5))}
        text = json.dumps(content).encode()
        client = connect(address)
        client.sendall(b"POST /v2/models/ensemble/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
            path.encode(), len(text)) + text)
        await_true(lambda: cluster.gateway.metrics()["caravan_gateway_inflight_requests"] == 1, "the request to run")
        client.close()
        await_true(lambda: cluster.gateway.metrics()[cancelled] == before + 1, "the request to be cancelled")
        cluster.await_idle()


def test_a_reader_that_stops_is_cut_and_stalls_nobody(cluster, address):
    body = json.dumps({"INPUT_0": "Once " * 300, "INPUT_1": 600, "INPUT_2": "", "INPUT_3": ""}).encode()
    with a_neighbour(cluster):
        readers = []
        for _ in range(4):
            client = connect(address)
            client.sendall(b"POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                           % len(body) + body)
            readers.append(client)
        cluster.await_idle()
    for client in readers:
        client.close()


def test_draining_finishes_streams_and_refuses_new_requests():
    with Cluster() as cluster:
        address = cluster.gateway.http_address
        body = {"INPUT_0": "Once upon a time", "INPUT_1": 400, "INPUT_2": "", "INPUT_3": ""}
        stream = events(address, "/v2/models/ensemble/generate_stream", body)
        first = next(stream)
        cluster.gateway.signal(15)
        await_true(lambda: ask(address, "GET", "/v2/health/ready")[0] == 400, "readiness to end")
        status, got = ask_json(address, "POST", "/v2/models/ensemble/generate", {**body, "INPUT_1": 2})
        assert status == 503, got
        last = first
        for last in stream:
            pass
        assert last["sequence_length"] > first["sequence_length"]
        assert cluster.gateway.wait() == 0
