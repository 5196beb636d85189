#!/usr/bin/env python3
"""Runs every test that `./caravan test` has built; the last line is `N passed, N failed`.

GoogleTest programs of all presets, one tiny case of each benchmark, then pytest (layers, format, cluster,
conformance) in a virtual environment under build/venv. Nothing outlives its time limit.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PRESETS = ("release", "asan", "tsan")
# What is built and run under sanitizers. --long takes the rest too: on two cores it costs half an hour of compiling.
SANITIZED = {
    "asan": ["kernels_test", "worker_engine_test", "worker_model_test", "worker_model_files_test",
             "worker_model_loading_test", "worker_model_runner_test", "worker_replica_test", "tokenizer_service_test"],
    "tsan": ["worker_engine_test", "gateway_http_test"],
}
SANITIZED_LONG = {
    "asan": ["common_test", "worker_test", "gateway_test", "gateway_http_test", "gateway_triton_protocol_test",
             "gateway_triton_test", "gateway_triton_http_test", "cli_test"],
    "tsan": [],
}
# GoogleTest's own lines, wherever they stand: a test may have printed before them.
GTEST_BEGIN = re.compile(r"\[ RUN      \] (\S+)")
GTEST_END = re.compile(r"\[ *(OK|FAILED|SKIPPED) *\] (\S+?),? .*\(\d+ ms\)")


class Counts:
    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []

    def add(self, name, result):
        if result == "passed":
            self.passed += 1
        elif result == "skipped":
            self.skipped.append(name)
        else:
            self.failed.append(name)


def run_limited(command, limit_s, environment=None, echo=False):
    """Runs a program in a process group of its own; returns (exit code or None when out of time, output)."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
        env=environment, start_new_session=True, text=True, errors="replace")
    expired = threading.Event()

    def expire():
        expired.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit_s, expire)
    timer.start()
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if echo:
                print(line, end="", flush=True)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()
    return (None if expired.is_set() else code), "".join(lines)


def describe(code, limit_s):
    if code is None:
        return f"still ran after {limit_s} s"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def run_gtest(program, label, options, counts):
    if not program.exists():
        return counts.add(f"{label}: it was not built", "failed")
    limit_s = 7200 if options.long else 600
    command = [str(program), "--gtest_color=no"]
    if options.filter:
        command.append(f"--gtest_filter=*{options.filter}*")
    started = time.monotonic()
    code, output = run_limited(command, limit_s, environment=test_environment(options))
    before = len(counts.failed)
    passed_before = counts.passed
    running = None
    for line in output.splitlines():
        if begin := GTEST_BEGIN.search(line):
            running = begin.group(1)
        elif (end := GTEST_END.search(line)) and running:
            counts.add(f"{label} {running}", {"OK": "passed", "SKIPPED": "skipped"}.get(end.group(1), "failed"))
            running = None
    if running or (code != 0 and len(counts.failed) == before):
        counts.add(f"{label} {running or '(whole program)'}: {describe(code, limit_s)}", "failed")
    if len(counts.failed) > before:
        print(output)
    print(f"{label}: {counts.passed - passed_before} passed, {len(counts.failed) - before} failed "
          f"in {time.monotonic() - started:.1f} s", flush=True)


# Benchmarks with a main of their own, and what makes them small.
OWN_BENCHMARKS = {"gateway_bench": ["--streams=2", "--tokens=4"],
                  "gateway_triton_http_bench": ["--streams=2", "--tokens=4", "--rounds=1"],
                  "gateway_triton_bench": ["--streams=2", "--tokens=4", "--rounds=1"]}


def run_benchmark(program, options, counts):
    """One tiny case, so that a benchmark that is broken is seen."""
    label = f"release/{program.name}"
    if options.filter and options.filter not in label:
        return
    if small := OWN_BENCHMARKS.get(program.name):
        code, output = run_limited([str(program), *small], 120)
        if code != 0:
            print(output)
        counts.add(label if code == 0 else f"{label}: {describe(code, 120)}", "passed" if code == 0 else "failed")
        return
    code, listed = run_limited([str(program), "--benchmark_list_tests"], 60)
    names = listed.split()
    if code == 0 and names:
        code, listed = run_limited(
            [str(program), f"--benchmark_filter=^{re.escape(names[0])}$", "--benchmark_min_time=0.001"], 120)
    if code != 0 or not names or "ERROR" in listed:
        print(listed)
        counts.add(f"{label}: {describe(code, 120)}", "failed")
    else:
        counts.add(label, "passed")


def test_environment(options):
    environment = dict(os.environ)
    environment.setdefault("ASAN_OPTIONS", "detect_leaks=1")
    environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    environment.setdefault("TSAN_OPTIONS", "halt_on_error=1")
    if options.long:
        environment["CARAVAN_LONG_TESTS"] = "1"
    return environment


def prepare_python():
    """The interpreter of build/venv with tests/requirements.txt installed, or None with the reason printed."""
    requirements = ROOT / "tests" / "requirements.txt"
    venv = BUILD / "venv"
    stamp = venv / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python = venv / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    print("installing the Python packages of tests/requirements.txt into build/venv (once)", flush=True)
    for command in ([sys.executable, "-m", "venv", str(venv)],
                    [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check",
                     "-r", str(requirements)]):
        code, output = run_limited(command, 900)
        if code != 0:
            print(output)
            return None
    stamp.write_text(digest)
    return python


def run_pytest(options, counts):
    python = prepare_python()
    if python is None:
        counts.add("pytest: its packages could not be installed", "failed")
        return
    report = BUILD / "pytest.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "--color=no", f"--junitxml={report}", "tests"]
    if options.filter:
        command += ["-k", options.filter]
    limit_s = 7200 if options.long else 2400
    before = len(counts.failed)
    code, _ = run_limited(command, limit_s, environment=test_environment(options), echo=True)
    if report.exists():
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                counts.add(name, "failed")
            else:
                counts.add(name, "skipped" if case.find("skipped") is not None else "passed")
    no_tests_collected = 5
    if code not in (0, no_tests_collected) and len(counts.failed) == before:
        counts.add(f"pytest: {describe(code, limit_s)}", "failed")


def group_skipped(names):
    """(name, number of cases) with the cases of one parametrised test together: each operator has many for a GPU."""
    return sorted(collections.Counter(re.sub(r"(/[\w.]+|\[.*\])$", "", name) for name in names).items())


def sanitized(preset, options):
    return SANITIZED[preset] + (SANITIZED_LONG[preset] if options.long else [])


def programs_of(preset, options):
    """The test programs of a preset; those of an earlier --long run may be there too, and old."""
    if preset in SANITIZED:
        return [BUILD / preset / "bin" / name for name in sanitized(preset, options)]
    return sorted((BUILD / preset / "bin").glob("*_test"))


def main():
    parser = argparse.ArgumentParser(prog="caravan test", description="Builds and runs every test.")
    parser.add_argument("--long", action="store_true", help="also the long ones: some minutes of tests, and all programs under AddressSanitizer")
    parser.add_argument("--filter", default="", help="only tests whose name contains this")
    parser.add_argument("--list", choices=SANITIZED, help="only print the programs that this preset must have")
    options = parser.parse_args()
    if options.list:
        return print(*sanitized(options.list, options))
    counts = Counts()
    for preset in PRESETS:
        for program in programs_of(preset, options):
            run_gtest(program, f"{preset}/{program.name}", options, counts)
    for program in sorted((BUILD / "release" / "bin").glob("*_bench")):
        run_benchmark(program, options, counts)
    run_pytest(options, counts)
    for name, number in group_skipped(counts.skipped):
        print(f"skipped: {name}" + (f" ({number} cases)" if number > 1 else ""))
    for name in counts.failed:
        print(f"failed: {name}")
    print(f"{counts.passed} passed, {len(counts.failed)} failed", flush=True)
    sys.exit(1 if counts.failed or not counts.passed else 0)


if __name__ == "__main__":
    main()
