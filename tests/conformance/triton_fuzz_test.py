"""Malformed requests at the gRPC door: never a crash, memory without bound or a stalled neighbour, always an error that
says which tensor. Seeds are fixed; a failure repeats."""

import pathlib
import random
import struct
import threading
import time

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from helpers.cluster import OPTIONS, Cluster

REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
HUGE = [2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 62, 2 ** 63 - 1, -1, -2 ** 63]
ROUNDS = 1500
# 2 GB claims must not become memory: what the gateway may grow by in all of these tests.
MEMORY_LIMIT_BYTES = 400 << 20


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster
        assert cluster.gateway.popen.poll() is None
        cluster.await_idle()


@pytest.fixture(scope="module")
def stub(cluster):
    with grpc.insecure_channel(cluster.gateway.address, options=OPTIONS) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def resident_bytes(cluster):
    status = pathlib.Path(f"/proc/{cluster.gateway.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def text(value):
    return struct.pack("<I", len(value)) + value


def valid(model):
    """(name, datatype, shape, data) of the required inputs."""
    number = struct.pack("<I", 2)
    return {
        "ensemble": [("INPUT_0", "BYTES", [1, 1], text(b"hi")), ("INPUT_1", "UINT32", [1, 1], number),
                     ("INPUT_2", "BYTES", [1, 1], text(b"")), ("INPUT_3", "BYTES", [1, 1], text(b""))],
        "fastertransformer": [("input_ids", "UINT32", [1, 2], struct.pack("<II", 1, 80)),
                              ("input_lengths", "UINT32", [1, 1], number),
                              ("request_output_len", "UINT32", [1, 1], number),
                              ("stop_words_list", "INT32", [1, 2, 1], struct.pack("<ii", 0, -1))],
        "preprocessing": [("QUERY", "BYTES", [1, 1], text(b"hi")), ("STOP_WORDS_DICT", "BYTES", [1, 1], text(b"a,b")),
                          ("REQUEST_OUTPUT_LEN", "UINT32", [1, 1], number)],
        "postprocessing": [("TOKENS_BATCH", "UINT32", [1, 1, 2], struct.pack("<II", 1, 80)),
                           ("sequence_length", "UINT32", [1, 1], number)],
    }[model]


def request_of(model, tensors):
    request = pb.ModelInferRequest(model_name=model, id="fuzz")
    for name, datatype, shape, data in tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    return request


def mutate(random_, tensors):
    """One thing wrong with one tensor; returns its name."""
    index = random_.randrange(len(tensors))
    name, datatype, shape, data = tensors[index]
    kind = random_.randrange(8)
    shape, data = list(shape), bytearray(data)
    if kind == 0:
        shape[random_.randrange(len(shape))] = random_.choice(HUGE)
    elif kind == 1:
        shape = [random_.choice(HUGE + [0, 1, 2]) for _ in range(random_.randrange(6))]
    elif kind == 2:
        datatype = random_.choice(["BOOL", "FP32", "INT8", "BYTES", "BF16", "", "STRING", "x" * 10000])
    elif kind == 3:
        data = data[:random_.randrange(len(data) + 1)]
    elif kind == 4:
        data += random_.randbytes(random_.randrange(1, 100))
    elif kind == 5 and datatype == "BYTES":
        data = struct.pack("<I", random_.choice([2 ** 31, 2 ** 32 - 1, len(data)])) + data[4:]
    elif kind == 6 and data:
        position = random_.randrange(len(data))
        data[position] ^= 1 << random_.randrange(8)
    else:
        data = bytearray(random_.randbytes(len(data)))
    tensors[index] = (name, datatype, shape, bytes(data))
    return name


def send(stub, request):
    """None, or the error's code and sentence."""
    try:
        stub.ModelInfer(request, timeout=30)
        return None
    except grpc.RpcError as error:
        return error.code(), error.details()


@pytest.mark.parametrize("model", ["ensemble", "fastertransformer", "preprocessing", "postprocessing"])
def test_one_wrong_tensor_is_named(cluster, stub, model):
    random_ = random.Random(model)
    before = resident_bytes(cluster)
    refused = 0
    for _ in range(ROUNDS // 4):
        tensors = valid(model)
        name = mutate(random_, tensors)
        answer = send(stub, request_of(model, tensors))
        if answer is None:
            continue
        refused += 1
        assert answer[0] in REFUSALS, answer
        # A batch that disagrees may be told of the other tensor.
        assert name in answer[1] or "batch size does not match" in answer[1] or "batch-size" in answer[1] or \
            "sequence" in answer[1] or "input_ids" in answer[1], (name, answer)
    assert refused > ROUNDS // 12
    assert resident_bytes(cluster) - before < MEMORY_LIMIT_BYTES


def test_random_bytes_as_messages(cluster):
    random_ = random.Random(3)
    with grpc.insecure_channel(cluster.gateway.address, options=OPTIONS) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for round_ in range(ROUNDS // 3):
            message = bytearray(request_of("ensemble", valid("ensemble")).SerializeToString())
            for _ in range(random_.randrange(1, 20)):
                message[random_.randrange(len(message))] = random_.randrange(256)
            if round_ % 5 == 0:
                message = random_.randbytes(random_.randrange(300))
            try:
                infer(bytes(message), timeout=30)
            except grpc.RpcError as error:
                assert error.code() in REFUSALS, error.details()


def test_a_stream_survives_every_wrong_message(cluster, stub):
    random_ = random.Random(4)
    requests = []
    for index in range(300):
        model = random_.choice(["ensemble", "fastertransformer", "preprocessing", "postprocessing"])
        tensors = valid(model)
        mutate(random_, tensors)
        requests.append(request_of(model, tensors))
        requests[-1].id = str(index)
    finals = set()
    for answer in stub.ModelStreamInfer(iter(requests), timeout=60):
        if answer.infer_response.parameters["triton_final_response"].bool_param:
            assert answer.infer_response.id not in finals
            finals.add(answer.infer_response.id)
    assert finals == {str(index) for index in range(300)}


def test_text_that_is_no_utf8_is_refused_alone(cluster, stub):
    bad = request_of("ensemble", [("INPUT_0", "BYTES", [1, 1], text(b"\xff\xfe")), *valid("ensemble")[1:]])
    code, sentence = send(stub, bad)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "INPUT_0 of row 0 is not UTF-8" in sentence
    # A name that is no UTF-8 makes the whole message unreadable for gRPC's own parser.
    message = request_of("ensemble", valid("ensemble")).SerializeToString().replace(b"INPUT_3", b"INPUT_\xff")
    good = request_of("ensemble", valid("ensemble"))
    with grpc.insecure_channel(cluster.gateway.address, options=OPTIONS) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer",
                                     response_deserializer=pb.ModelStreamInferResponse.FromString)
        answers = list(call(iter([message, good.SerializeToString()]), timeout=60))
    assert any("not UTF-8" in answer.error_message for answer in answers)
    assert sum(not answer.error_message for answer in answers) >= 1


def test_deep_and_wide_requests(cluster, stub):
    before = resident_bytes(cluster)
    many = request_of("ensemble", valid("ensemble"))
    for index in range(20000):
        many.outputs.add(name=f"output_{index}")
        many.parameters[f"parameter_{index}"].int64_param = index
    assert send(stub, many)[0] == grpc.StatusCode.INVALID_ARGUMENT
    strings = 4 << 20
    wide = request_of("ensemble", [("INPUT_0", "BYTES", [1, strings], bytes(4 * strings)), *valid("ensemble")[1:]])
    assert "INPUT_0" in send(stub, wide)[1]
    assert resident_bytes(cluster) - before < MEMORY_LIMIT_BYTES


def test_a_message_above_the_limit_ends_its_call_only(cluster, stub):
    big = request_of("ensemble", [("INPUT_0", "BYTES", [1, 1], text(bytes(70 << 20))), *valid("ensemble")[1:]])
    with grpc.insecure_channel(cluster.gateway.address, options=[
            ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]) as channel:
        code, _ = send(service_pb2_grpc.GRPCInferenceServiceStub(channel), big)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert send(stub, request_of("ensemble", valid("ensemble"))) is None


def test_a_neighbour_is_not_stalled(cluster, stub):
    """Good requests go on while another client sends nothing but rubbish."""
    stop = threading.Event()

    def rubbish():
        random_ = random.Random(5)
        with grpc.insecure_channel(cluster.gateway.address, options=OPTIONS) as channel:
            own = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not stop.is_set():
                tensors = valid("ensemble")
                mutate(random_, tensors)
                send(own, request_of("ensemble", tensors))

    thread = threading.Thread(target=rubbish)
    thread.start()
    try:
        slowest = 0
        for _ in range(30):
            begin = time.monotonic()
            assert send(stub, request_of("ensemble", valid("ensemble"))) is None
            slowest = max(slowest, time.monotonic() - begin)
        assert slowest < 5
    finally:
        stop.set()
        thread.join()


def test_a_client_that_does_not_read_stalls_nobody(cluster, stub):
    """Its cumulative responses are made only as it takes them; others are served meanwhile."""
    before = resident_bytes(cluster)
    slow = request_of("fastertransformer", [
        ("input_ids", "UINT32", [64, 2], struct.pack("<II", 1, 80) * 64),
        ("input_lengths", "UINT32", [64, 1], struct.pack("<I", 2) * 64),
        ("request_output_len", "UINT32", [64, 1], struct.pack("<I", 400) * 64)])
    slow.inputs.add(name="end_id", datatype="UINT32", shape=[64, 1])
    slow.raw_input_contents.append(struct.pack("<I", 5000) * 64)
    slow.parameters["stream_interval"].int64_param = 1
    with grpc.insecure_channel(cluster.gateway.address, options=[("grpc.http2.lookahead_bytes", 8192),
                                                                 ("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([slow]), timeout=60)
        next(iter(call))
        for _ in range(10):
            assert send(stub, request_of("ensemble", valid("ensemble"))) is None
        cluster.await_idle()
        assert resident_bytes(cluster) - before < MEMORY_LIMIT_BYTES
        assert sum(1 for _ in call) >= 100, "and what it did not read is still there for it"
