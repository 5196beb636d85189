"""The arrows between the folders: what each may include, of ours and of libraries (docs/architecture.md)."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)

# Folder (or file) → what of ours it may include from. The longest match counts; a folder may always include itself. `proto` stands for generated headers.
BASE = {"common/status.h", "common/log.h", "common/regular_file.h"}  # what has no gRPC
ALLOWED = {
    "common": {"proto/grpc/health"},
    "kernels": set(),
    "worker/engine": BASE,
    "worker/model": BASE | {"worker/engine", "worker/model/files", "kernels"},
    "worker/model/files": BASE | {"kernels"},
    "worker/model/loading": BASE | {"worker/model", "worker/model/files", "kernels"},
    "worker/model/runner": BASE | {"worker/engine", "worker/model", "worker/model/loading", "kernels"},
    "worker/replica": {"common", "proto", "worker/engine", "worker/model/collectives.h", "kernels/device_stream.h",
                       "kernels/view.h", "kernels/device/cuda_stream.h", "kernels/device/device_memory.h",
                       "kernels/device/peer_memory.h", "kernels/device/dynamic_library.h", "kernels/peer_all_reduce.h"},
    "worker": {"common", "proto", "worker/engine", "worker/model", "worker/model/files/mapped_file.h",
               "worker/model/loading", "worker/model/runner", "worker/replica", "kernels/cpu_backend.h", "kernels/device_stream.h",
               "kernels/device/cuda_stream.h", "kernels/device/device_memory.h"},
    "tokenizer_service": {"common", "proto"},
    "gateway": {"common", "proto", "gateway/http/http_options.h", "gateway/http/content_coding.h"},
    "gateway/generation": {"common", "proto", "gateway"},
    "gateway/http": {"common"},  # knows no front door
    "gateway/native": {"common", "proto", "gateway", "gateway/generation"},
    # What Triton's protocol says, as data; the server behind its doors; the doors.
    "gateway/triton/protocol": BASE | {"common/utf8.h", "proto", "gateway", "gateway/generation"},
    "gateway/triton": {"common", "proto", "gateway", "gateway/generation", "gateway/triton/protocol"},
    "gateway/triton/grpc": {"common", "proto", "gateway", "gateway/generation", "gateway/triton",
                            "gateway/triton/protocol"},
    "gateway/triton/http": {"common", "proto", "gateway", "gateway/http", "gateway/triton",
                            "gateway/triton/protocol"},
    "gateway/gateway.h": {"common", "gateway", "gateway/generation", "gateway/http", "gateway/native",
                          "gateway/triton", "gateway/triton/grpc", "gateway/triton/http"},  # the wiring
    "gateway/gateway.cc": {"common", "gateway", "gateway/gateway.h", "gateway/triton"},
    "gateway/main.cc": {"common", "gateway", "gateway/gateway.h"},
    "cli": {"common", "proto"},
}
# Library → the only places that may include it.
LIBRARIES = {
    "spdlog/": {"common/log.cc"},
    "sentencepiece_": set(),  # docs/decisions/0013: its protobuf clashes with gRPC's
    "grpcpp/": {"common", "worker/replica", "worker", "tokenizer_service", "gateway/generation", "gateway/native",
                "gateway/triton/grpc", "gateway", "cli"},
    "google/protobuf/": {"worker/replica", "worker", "tokenizer_service", "gateway/generation", "gateway/native",
                         "gateway/triton/grpc", "gateway/triton/http", "gateway", "cli"},
    "boost/": {"gateway/http"},
    "zlib.h": {"gateway/http/content_coding.cc"},
    "gloo/": {"worker/replica"},
    "prometheus/": {"common", "worker", "tokenizer_service", "gateway", "gateway/triton"},
    "cuda": {"kernels"},  # others reach devices through kernels/device/*.h
    "cublas": {"kernels"},
    "nccl": {"worker/replica"},
}
FOLDERS = sorted({path.split("/")[0] for path in ALLOWED})


def sources():
    return sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*")
                  if path.suffix in (".h", ".cc", ".cu", ".cuh"))


def layer_of(path):
    """The entry of ALLOWED that a path belongs to, or None when it is not ours."""
    folders = [folder for folder in ALLOWED if path == folder or path.startswith(folder + "/")]
    return max(folders, key=len, default=None)


def allows(places, path):
    """Whether `path` lies in one of `places`; a folder stands for its own layer, not for the layers below it."""
    return any(path == place or (path.startswith(place + "/") and layer_of(path) in (place, None))
               for place in places)


def wrong_includes(path, text):
    layer = layer_of(path)
    for included in INCLUDE.findall(text):
        if included.endswith(".pb.h"):
            ours = "proto/" + included
            if not allows(ALLOWED[layer], ours):
                yield f"{path} includes {included}, but {layer}/ may not know this protocol"
        elif layer_of(included):
            if layer_of(included) != layer and not allows(ALLOWED[layer], included):
                yield f"{path} includes {included}, but {layer}/ may not depend on {layer_of(included)}/"
        for library, places in LIBRARIES.items():
            if included.startswith(library) and not allows(places, path):
                yield f"{path} includes {included}, which is kept to {', '.join(sorted(places))}"


def test_there_are_sources():
    assert len(sources()) > 20


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_includes_follow_the_arrows(folder):
    wrong = [problem for path in sources() if layer_of(path) == folder
             for problem in wrong_includes(path, (ROOT / path).read_text())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path,include", [
    ("kernels/matmul.cc", "common/status.h"),
    ("worker/engine/scheduler.cc", "caravan/v1/worker.pb.h"),
    ("worker/engine/scheduler.cc", "worker/model/llama.h"),
    ("worker/model/llama.cc", "worker/replica/leader.h"),
    ("worker/model/llama.cc", "grpcpp/grpcpp.h"),
    ("worker/model/llama.cc", "common/server.h"),
    ("gateway/generation/request.cc", "gateway/native/service.h"),
    ("gateway/triton/protocol/tensor.cc", "gateway/triton/inference_server.h"),
    ("gateway/triton/inference_server.cc", "gateway/triton/grpc/service.h"),
    ("gateway/triton/inference_server.cc", "grpcpp/grpcpp.h"),
    ("gateway/replica_pool.cc", "gateway/generation/generation.h"),
    ("gateway/http/http_server.cc", "gateway/triton/inference_server.h"),
    ("gateway/triton/http/service.cc", "boost/asio.hpp"),
    ("gateway/triton/inference_server.cc", "gateway/http/http_message.h"),
    ("gateway/main.cc", "worker/engine/engine.h"),
    ("common/server.cc", "caravan/v1/worker.pb.h"),
    ("cli/up.cc", "spdlog/spdlog.h"),
])
def test_an_include_against_the_arrows_is_found(path, include):
    assert list(wrong_includes(path, f'#include "{include}"\n'))


def test_files_stay_readable():
    """Headers of at most 150 lines, sources of at most 600."""
    limits = {".h": 150, ".cuh": 600, ".cc": 600, ".cu": 600}
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in sources()}
    long = [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > limits[pathlib.Path(path).suffix]]
    assert not long, "\n".join(long)
