"""A worker's build: which sources make it another, and that ranks of different builds are refused."""

import contextlib
import re
import shutil
import subprocess

import pytest

from helpers.cluster import DEMO_MODEL, PROGRAMS, ROOT, Process

FOLDERS = ("worker", "kernels", "common", "proto")
BUILD = re.compile(rb"0\.1\.0\+[0-9a-f]{12}")


def copy_tree(target):
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, copy_function=shutil.copyfile)  # with times of now
    for name in ("CMakeLists.txt", "README.md"):
        shutil.copyfile(ROOT / name, target / name)
    return target


def fingerprint(tree, output):
    """What the build would write into `output`: the version."""
    subprocess.run(["cmake", f"-DROOT={tree}", "-DVERSION=0.1.0", f"-DOUTPUT={output}", "-P",
                    ROOT / "worker" / "build_version.cmake"], check=True, timeout=60)
    found = BUILD.findall(output.read_bytes())
    assert len(found) == 1, output.read_text()
    return found[0].decode()


@pytest.fixture
def tree(tmp_path):
    return copy_tree(tmp_path / "a tree")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "build_version.cc"


def test_equal_trees_have_equal_fingerprints_wherever_they_lie(tree, output):
    assert fingerprint(tree, output) == fingerprint(ROOT, output)


def test_nothing_is_written_where_nothing_has_changed(tree, output):
    fingerprint(tree, output)
    before = output.stat()
    fingerprint(tree, output)
    assert (output.stat().st_mtime_ns, output.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def append(path):
    def change(tree):
        with (tree / path).open("a") as file:
            file.write("\n")
    return change


@pytest.mark.parametrize("change", [
    pytest.param(append(path), id=path) for path in (
        "worker/replica/leader.cc", "worker/engine/CMakeLists.txt", "worker/build_version.cmake", "common/status.h",
        "kernels/rms_norm.cu", "kernels/device/peer.cuh", "kernels/cpu/dot.inc", "kernels/cuda.cmake",
        "proto/caravan/v1/replica.proto", "CMakeLists.txt")
] + [
    pytest.param(lambda tree: (tree / "worker" / "new.cc").touch(), id="an added file"),
    pytest.param(lambda tree: (tree / "kernels" / "rms_norm.cc").unlink(), id="a file that has gone"),
    pytest.param(lambda tree: (tree / "kernels" / "view.h").rename(tree / "kernels" / "views.h"), id="another name"),
])
def test_what_a_worker_is_made_of_changes_it(tree, output, change):
    before = fingerprint(tree, output)
    change(tree)
    assert fingerprint(tree, output) != before


def test_what_a_worker_is_not_made_of_does_not(tree, output):
    before = fingerprint(tree, output)
    append("README.md")(tree)
    for name in ("gateway/gateway.cc", "tests/worker/process_test.cc", "worker/notes.md", "worker/.#leader.cc",
                 "worker/leader.cc~"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("other")
    assert fingerprint(tree, output) == before


def version_of(worker):
    printed = subprocess.run([worker, "--version"], check=True, timeout=60, capture_output=True).stdout
    assert re.fullmatch(rb"caravan_worker " + BUILD.pattern + rb"\n", printed), printed
    return printed.split()[1].decode()


def test_ranks_of_different_builds_are_refused_with_both_named(tmp_path):
    worker = PROGRAMS / "caravan_worker"
    build = version_of(worker)
    other = build[:-12] + ("0" * 12 if build[-12:] != "0" * 12 else "1" * 12)
    other_worker = tmp_path / "caravan_worker"
    other_worker.write_bytes(worker.read_bytes().replace(build.encode(), other.encode()))
    other_worker.chmod(0o700)
    assert version_of(other_worker) == other
    flags = [f"--model={DEMO_MODEL}", "--device=cpu", "--tensor_parallel=2", "--listen_address=127.0.0.1:0",
             "--metrics_address=127.0.0.1:0"]
    with contextlib.ExitStack() as stack:
        leader = Process("leader", [worker, *flags, "--rank=0"], tmp_path)
        stack.callback(leader.end)
        leader.await_ports()
        follower = Process("follower", [other_worker, *flags, "--rank=1", f"--leader_address={leader.address}"],
                           tmp_path)
        stack.callback(follower.end)
        assert follower.wait(60) == 1, follower.log
        reason = f"rank 1 is of build {other}, the leader of {build}: start all ranks from one build"
        assert reason in follower.log, follower.log
        assert reason in leader.log, leader.log
        assert leader.popen.poll() is None, leader.log
        assert f'build="{build}"' in leader.log or f"build={build}" in leader.log, leader.log
