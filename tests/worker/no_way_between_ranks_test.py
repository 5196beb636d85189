"""Ranks that find no way to each other end, all of them, with the reason: nothing waits for ever."""

import contextlib
import os
import subprocess

import pytest

from helpers.cluster import DEMO_MODEL, PROGRAMS, Process

FLAGS = [f"--model={DEMO_MODEL}", "--device=cpu", "--tensor_parallel=2", "--collectives=shared_memory",
         "--listen_address=127.0.0.1:0", "--metrics_address=127.0.0.1:0"]
# Its own /dev/shm, as in a container of its own.
APART = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "sh", "-c",
         'mount -t tmpfs none /dev/shm && exec "$@"', "apart"]


def test_ranks_without_one_shared_memory_end_with_the_reason(tmp_path):
    if subprocess.run([*APART, "true"], timeout=60, capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody have a /dev/shm of their own")
    worker = PROGRAMS / "caravan_worker"
    with contextlib.ExitStack() as stack:
        leader = Process("leader", [worker, *FLAGS, "--rank=0"], tmp_path)
        stack.callback(leader.end)
        leader.await_ports()
        follower = Process("follower", [*APART, worker, *FLAGS, "--rank=1", f"--leader_address={leader.address}"],
                           tmp_path)
        stack.callback(follower.end)
        for rank in (leader, follower):
            assert rank.wait(60) == 1, rank.log
            assert "the ranks could not form a group 3 times in a row, lastly because rank 1 failed: " in rank.log, rank.log
            assert "/caravan-" in rank.log, rank.log  # the name of what it can't open
