"""CUDA shared memory through both doors, on a stand-in for NVIDIA's driver whose GPUs are the host's memory.

What real GPUs do with the same requests: tests/gpu/cuda_shared_memory.py.
"""

import base64

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from helpers.cluster import PROGRAMS

FAKE_DRIVER = PROGRAMS.parent / "tests" / "fake_cuda"


@pytest.fixture(scope="module")
def gateway(demo_cluster):
    """A second gateway of the cluster, on a host with GPUs."""
    assert (FAKE_DRIVER / "libcuda.so.1").exists()
    process = demo_cluster.launch(
        "gateway-cuda", "env", f"LD_LIBRARY_PATH={FAKE_DRIVER}", PROGRAMS / "caravan_gateway",
        f"--replicas={demo_cluster.workers[0][0].address}", f"--tokenizers={demo_cluster.tokenizer.address}",
        "--http_address=127.0.0.1:0")
    yield process.await_ports().await_serving()
    process.end()


@pytest.fixture(params=["grpc", "http"])
def door(request, gateway):
    module = {"grpc": triton_grpc, "http": triton_http}[request.param]
    address = gateway.address if module is triton_grpc else gateway.http_address
    with module.InferenceServerClient(address) as client:
        client.module = module
        yield client


class Allocation:
    """A client's memory on a GPU, as the stand-in knows it: the handle is an object's name."""

    def __init__(self, name, byte_size):
        self.region = shm.create_shared_memory_region(name, f"/cuda_{name}", byte_size)
        self.raw_handle = base64.b64encode(f"/cuda_{name}".encode().ljust(64, b"\0"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shm.destroy_shared_memory_region(self.region)


def fastertransformer_inputs(module):
    inputs = []
    for name, values in (("input_ids", [[1, 300, 301, 302]]), ("input_lengths", [[4]]), ("request_output_len", [[6]])):
        array = np.array(values, np.uint32)
        tensor = module.InferInput(name, list(array.shape), "UINT32")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def regions_of(client):
    status = client.get_cuda_shared_memory_status()
    if client.module is triton_http:
        return {region["name"]: (region["device_id"], region["byte_size"]) for region in status}
    return {name: (region.device_id, region.byte_size) for name, region in status.regions.items()}


def failing(words):
    return pytest.raises(InferenceServerException, match=words)


def test_inputs_and_outputs_in_gpu_memory_give_what_a_plain_request_gives(door):
    plain = door.infer("fastertransformer", fastertransformer_inputs(door.module)).as_numpy("output_ids")
    with Allocation("in", 4096) as given, Allocation("out", 4096) as taken:
        door.unregister_cuda_shared_memory()
        door.register_cuda_shared_memory("in", given.raw_handle, 0, 4096)
        door.register_cuda_shared_memory("out", taken.raw_handle, 1, 2048)
        assert regions_of(door) == {"in": (0, 4096), "out": (1, 2048)}
        inputs = fastertransformer_inputs(door.module)
        shm.set_shared_memory_region(given.region, [np.array([[1, 300, 301, 302]], np.uint32)], offset=128)
        inputs[0].set_shared_memory("in", 16, offset=128)
        output = door.module.InferRequestedOutput("output_ids")
        output.set_shared_memory("out", 1024, offset=64)
        door.infer("fastertransformer", inputs, outputs=[output])
        got = shm.get_contents_as_numpy(taken.region, np.uint32, [1, 1, 10], offset=64)
        np.testing.assert_array_equal(got, plain)
        output.set_shared_memory("out", 8)
        with failing("shared memory size specified with the request for output 'output_ids'"):
            door.infer("fastertransformer", inputs, outputs=[output])
        for size, offset in ((16, 4090), (16, 2**62), (2**40, 0)):
            inputs[0].set_shared_memory("in", size, offset=offset)
            with failing("."):
                door.infer("fastertransformer", inputs)
        door.unregister_cuda_shared_memory("in")
        assert regions_of(door) == {"out": (1, 2048)}
        inputs[0].set_shared_memory("in", 16)
        with failing("Unable to find shared memory region: 'in'"):
            door.infer("fastertransformer", inputs)
        door.unregister_system_shared_memory()
        assert regions_of(door) == {"out": (1, 2048)}
        door.unregister_cuda_shared_memory()
        assert regions_of(door) == {}
    assert door.is_server_ready()


def test_wrong_registrations_say_what_is_wrong(door):
    with Allocation("one", 4096) as one:
        for arguments, words in (
                (("x", base64.b64encode(b"short"), 0, 16), "raw_handle has 5 bytes"),
                (("x", base64.b64encode(b"/no_such".ljust(64, b"\0")), 0, 16), "cuIpcOpenMemHandle: invalid argument"),
                (("x", one.raw_handle, 2, 16), "device_id is 2; the gateway has 2 GPUs"),
                (("x", one.raw_handle, 0, 4097), "byte_size is 4097.*has 4096"),
                (("x", one.raw_handle, 0, 0), "byte_size is 0")):
            with failing(words):
                door.register_cuda_shared_memory(*arguments)
        door.register_cuda_shared_memory("x", one.raw_handle, 0, 16)
        with failing("'x' already in manager"):
            door.register_cuda_shared_memory("x", one.raw_handle, 0, 16)
        with failing("Unable to find cuda shared memory region: 'y'"):
            door.get_cuda_shared_memory_status("y")
        door.unregister_cuda_shared_memory("x")
    metadata = door.get_server_metadata()
    extensions = metadata["extensions"] if door.module is triton_http else metadata.extensions
    assert "cuda_shared_memory" in extensions


def test_http_bodies_that_are_no_registration(gateway):
    from helpers.triton_http import ask_json
    for body, words in (({}, "'raw_handle' is missing"), ({"raw_handle": "AAAA"}, "'raw_handle' must be an object"),
                        ({"raw_handle": {"b64": "%"}}, "not Base64"),
                        ({"raw_handle": {"b64": "AAAA"}, "device_id": -1, "byte_size": 1}, "'device_id' must be"),
                        ({"raw_handle": {"b64": "AAAA"}, "device_id": 0}, "'byte_size' is missing")):
        status, answer = ask_json(gateway.http_address, "POST", "/v2/cudasharedmemory/region/r/register", body)
        assert status == 400 and words in answer["error"], answer
