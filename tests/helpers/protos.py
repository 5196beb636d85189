"""Python classes of the wire contract, generated from proto/ when they are first asked for."""

import atexit
import functools
import importlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def load_protos():
    """A namespace with the two modules of each proto/caravan/v1/X.proto: X (messages) and X_grpc (stubs)."""
    folder = tempfile.mkdtemp(prefix="caravan_protos_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    stems = sorted(path.stem for path in (ROOT / "proto" / "caravan" / "v1").glob("*.proto"))
    # A process of its own: the compiler brings a protobuf that aborts now and then beside sentencepiece's.
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={folder}",
         f"--grpc_python_out={folder}", *(f"caravan/v1/{stem}.proto" for stem in stems)], check=True)
    sys.path.insert(0, folder)
    modules = types.SimpleNamespace()
    for stem in stems:
        setattr(modules, stem, importlib.import_module(f"caravan.v1.{stem}_pb2"))
        setattr(modules, f"{stem}_grpc", importlib.import_module(f"caravan.v1.{stem}_pb2_grpc"))
    return modules
