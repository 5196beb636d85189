"""Malformed requests at the gRPC door: never a crash, memory without bound or a stalled neighbour, always an error that
says which tensor. Seeds are fixed; a failure repeats."""

import pathlib
import random
import struct
import threading
import time
from multiprocessing import shared_memory

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
REGION_BYTES = 4096


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


def memory_of(cluster, field):
    status = pathlib.Path(f"/proc/{cluster.gateway.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def resident_bytes(cluster):
    return memory_of(cluster, "VmRSS")


def peak_bytes(cluster):
    return memory_of(cluster, "VmHWM")


def text(value):
    return struct.pack("<I", len(value)) + value


def valid(model, rows=1):
    """(name, datatype, shape, data) of the required inputs."""
    number = struct.pack("<I", 2)
    tensors = {
        "ensemble": [("INPUT_0", "BYTES", [1], text(b"hi")), ("INPUT_1", "UINT32", [1], number),
                     ("INPUT_2", "BYTES", [1], text(b"")), ("INPUT_3", "BYTES", [1], text(b""))],
        "fastertransformer": [("input_ids", "UINT32", [2], struct.pack("<II", 1, 80)),
                              ("input_lengths", "UINT32", [1], number),
                              ("request_output_len", "UINT32", [1], number),
                              ("stop_words_list", "INT32", [2, 1], struct.pack("<ii", 0, -1))],
        "preprocessing": [("QUERY", "BYTES", [1], text(b"hi")), ("STOP_WORDS_DICT", "BYTES", [1], text(b"a,b")),
                          ("REQUEST_OUTPUT_LEN", "UINT32", [1], number)],
        "postprocessing": [("TOKENS_BATCH", "UINT32", [1, 2], struct.pack("<II", 1, 80)),
                           ("sequence_length", "UINT32", [1], number)],
    }[model]
    return [(name, datatype, [rows, *dims], data * rows) for name, datatype, dims, data in tensors]


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


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("model", ["ensemble", "fastertransformer", "preprocessing", "postprocessing"])
def test_one_wrong_tensor_is_named(cluster, stub, model, rows):
    random_ = random.Random(f"{model}{rows}" if rows > 1 else model)
    before = resident_bytes(cluster)
    refused = 0
    for _ in range(ROUNDS // 4 if rows == 1 else ROUNDS // 8):
        tensors = valid(model, rows)
        name = mutate(random_, tensors)
        answer = send(stub, request_of(model, tensors))
        if answer is None:
            continue
        refused += 1
        assert answer[0] in REFUSALS, answer
        # A batch that disagrees may be told of the other tensor.
        assert name in answer[1] or "batch size does not match" in answer[1] or "batch-size" in answer[1] or \
            "sequence" in answer[1] or "input_ids" in answer[1], (name, answer)
    assert refused > ROUNDS // (12 if rows == 1 else 24)
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


def test_a_compressed_bomb_ends_its_call_only(cluster, stub):
    """Half a megabyte on the wire that would be 500: refused once it is larger than a message may be."""
    before = peak_bytes(cluster)
    bomb = request_of("ensemble", [("INPUT_0", "BYTES", [1, 1], text(bytes(500 << 20))), *valid("ensemble")[1:]])
    with grpc.insecure_channel(cluster.gateway.address, compression=grpc.Compression.Gzip, options=[
            ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]) as channel:
        code, _ = send(service_pb2_grpc.GRPCInferenceServiceStub(channel), bomb)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_bytes(cluster) - before < MEMORY_LIMIT_BYTES
    assert send(stub, request_of("ensemble", valid("ensemble"))) is None


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_every_call_takes_compressed_requests(cluster, compression):
    name = "n" * 500  # so that compressing pays
    setting = pb.TraceSettingRequest(model_name=name)
    log = pb.LogSettingsRequest()
    log.settings[name].bool_param = True
    calls = [("ModelReady", pb.ModelReadyRequest(name=name), None),
             ("ModelConfig", pb.ModelConfigRequest(name=name), name),
             ("ModelMetadata", pb.ModelMetadataRequest(name=name), name),
             ("ModelStatistics", pb.ModelStatisticsRequest(name=name), name),
             ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name=name), name),
             ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name), "explicit model load"),
             ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=name), "explicit model load"),
             ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name), name),
             ("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name=name), name),
             ("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name), None),
             ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name=name), None),
             ("TraceSetting", setting, name), ("LogSettings", log, name),
             ("ModelInfer", pb.ModelInferRequest(model_name=name), name)]
    with grpc.insecure_channel(cluster.gateway.address, options=OPTIONS, compression=compression) as channel:
        compressing = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert compressing.ServerLive(pb.ServerLiveRequest(), timeout=30).live
        for method, request, words in calls:
            if words is None:
                getattr(compressing, method)(request, timeout=30)
                continue
            with pytest.raises(grpc.RpcError) as error:
                getattr(compressing, method)(request, timeout=30)
            assert words in error.value.details(), (method, error.value.details())
        big = request_of("ensemble", [("INPUT_0", "BYTES", [1, 1], text(b"hi " * 200)), *valid("ensemble")[1:]])
        answers = list(compressing.ModelStreamInfer(iter([big, big]), timeout=60))
        assert not any(answer.error_message for answer in answers)


def wrong_place(random_, parameters):
    """Parameters of shared memory with at least one thing wrong."""
    parameters["shared_memory_region"].string_param = random_.choice(["fuzz", "fuzz", "fuzz", "none", ""])
    parameters["shared_memory_byte_size"].int64_param = random_.choice(HUGE + [0, 3, REGION_BYTES + 1])
    if random_.randrange(2):
        parameters["shared_memory_offset"].int64_param = random_.choice(HUGE + [0, REGION_BYTES])
    if random_.randrange(3) == 0:
        name = random_.choice(["shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"])
        kind = random_.choice(["bool_param", "double_param", "string_param", "int64_param", "uint64_param"])
        value = {"bool_param": True, "double_param": 1e300, "string_param": "x", "int64_param": -1,
                 "uint64_param": 2 ** 64 - 1}[kind]
        setattr(parameters[name], kind, value)
    if random_.randrange(5) == 0:
        del parameters[random_.choice(["shared_memory_region", "shared_memory_byte_size"])]


def test_wrong_places_in_shared_memory(cluster, stub):
    """Of inputs and outputs: refused with the tensor's name, or (small answers fit somewhere) served."""
    random_ = random.Random(6)
    before = resident_bytes(cluster)
    region = shared_memory.SharedMemory(create=True, size=REGION_BYTES)
    try:
        stub.SystemSharedMemoryRegister(
            pb.SystemSharedMemoryRegisterRequest(name="fuzz", key="/" + region.name, byte_size=REGION_BYTES))
        refused = 0
        for _ in range(300):
            request = request_of("ensemble", valid("ensemble"))
            name = "OUTPUT_0"
            if random_.randrange(2):
                wrong_place(random_, request.outputs.add(name=name).parameters)
            else:
                index = random_.randrange(len(request.inputs))
                name = request.inputs[index].name
                wrong_place(random_, request.inputs[index].parameters)
                del request.raw_input_contents[index]
            answer = send(stub, request)
            if answer is None:
                continue
            refused += 1
            assert answer[0] in REFUSALS, answer
            # Without a region the input that comes last has no data.
            assert name in answer[1] or "shared memory region" in answer[1] or "unable to find data" in answer[1], (
                name, answer)
        assert refused > 200
    finally:
        stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="fuzz"))
        region.close()
        region.unlink()
    assert send(stub, request_of("ensemble", valid("ensemble"))) is None
    assert resident_bytes(cluster) - before < MEMORY_LIMIT_BYTES


def test_wrong_registrations(cluster, stub):
    random_ = random.Random(7)
    region = shared_memory.SharedMemory(create=True, size=REGION_BYTES)
    try:
        for index in range(200):
            key = random_.choice(["/" + region.name, "/" + region.name, "", "/", "..", "/../x", "/caravan_x",
                                  "x" * 5000])
            request = pb.SystemSharedMemoryRegisterRequest(
                name=f"wrong_{index}", key=key, offset=random_.choice([0, 1, REGION_BYTES, 2 ** 63, 2 ** 64 - 1]),
                byte_size=random_.choice([0, REGION_BYTES + 1, 2 ** 63, 2 ** 64 - 1]))
            with pytest.raises(grpc.RpcError) as error:
                stub.SystemSharedMemoryRegister(request, timeout=30)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, (request, error.value.details())
            assert f"wrong_{index}" in error.value.details()
    finally:
        region.close()
        region.unlink()
    assert not stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions


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
