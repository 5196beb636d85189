#!/usr/bin/env python3
"""Runs clang-tidy 14 over every C++ source, as `./caravan tidy` does; exits 0 only where nothing is found.

A source that was clean is not examined again until it, a header of ours that it includes, its compile command or
.clang-tidy changes: after an edit a second run takes seconds. (The packages' headers count as unchanging: --all
examines everything anew.) The compile commands and generated headers of build/release are what it needs.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "release"
CLEAN = ROOT / "build" / "tidy"  # compile commands, and for each source that was clean the digest of what it is made of
FOLDERS = ("common", "kernels", "worker", "tokenizer_service", "gateway", "cli", "tests")
INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
FINDING = re.compile(r"^\S+:\d+:\d+: (warning|error): ")


def read_commands():
    """Path of each source below our folders → its entry of compile_commands.json (the first, where it has several)."""
    commands = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.suffix == ".cc" and path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FOLDERS:
            commands.setdefault(path.relative_to(ROOT).as_posix(), entry)
    return commands


@functools.cache
def read_source(path):
    """(digest of the file, its includes of ours) or None where there is no such file of ours."""
    for folder in (ROOT, BUILD / "proto" / "generated"):
        if (folder / path).is_file():
            text = (folder / path).read_bytes()
            return hashlib.sha256(text).hexdigest(), tuple(name.decode() for name in INCLUDE.findall(text))
    return None


def digest(path, entry):
    """Of everything of ours that the examination of a source depends on."""
    parts = {}
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in parts:
            continue
        source = read_source(current)
        parts[current] = source[0] if source else ""
        waiting += source[1] if source else ()
    parts["command"] = entry["command"]
    parts[".clang-tidy"] = [(ROOT / name).read_text() for name in (".clang-tidy", "tests/.clang-tidy")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def stamp_of(path):
    return CLEAN / (path.replace("/", "+") + ".clean")


def examine(path):
    """(exit code, findings without what clang-tidy says about itself)."""
    command = ["clang-tidy-14", "--quiet", "-p", str(CLEAN), path]
    if "_Float16" in (ROOT / path).read_text():
        command.append("--extra-arg=-mavx512fp16")  # without it clang 14 does not know the type, as g++ does
    result = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            stdin=subprocess.DEVNULL)
    # Compile errors are in stdout too; a crash of clang-tidy itself is not.
    return result.returncode, result.stdout if result.stdout.strip() else result.stderr


def run(paths, digests, jobs):
    """Examines the paths; returns the sources with findings, and the first lines of all findings, each once."""
    bad, findings = [], set()
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(examine, path): path for path in paths}
        for number, future in enumerate(concurrent.futures.as_completed(running), 1):
            path = running[future]
            code, output = future.result()
            if code == 0:
                stamp_of(path).write_text(digests[path])
            else:
                bad.append(path)
                print(output, flush=True)
            findings.update(filter(FINDING.match, output.splitlines()))
            left_s = (time.monotonic() - started) / number * (len(paths) - number)
            print(f"[{number}/{len(paths)}] {path}: {'clean' if code == 0 else 'findings'} "
                  f"({left_s / 60:.0f} min left)", flush=True)
    return bad, findings


def main():
    parser = argparse.ArgumentParser(prog="caravan tidy", description=__doc__.split("\n\n")[0],
                                     epilog=__doc__.split("\n\n")[1])
    parser.add_argument("paths", nargs="*", help="only sources whose path contains one of these")
    parser.add_argument("--all", action="store_true", help="also sources that were clean and did not change")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="clang-tidys at once (one a core)")
    options = parser.parse_args()
    commands = read_commands()
    chosen = [path for path in commands if not options.paths or any(part in path for part in options.paths)]
    if not chosen:
        sys.exit(f"caravan tidy: no source's path contains any of: {' '.join(options.paths)}")
    CLEAN.mkdir(parents=True, exist_ok=True)
    # One entry a source: fixtures are compiled into several tests and would be examined for each.
    (CLEAN / "compile_commands.json").write_text(json.dumps(list(commands.values())))
    digests = {path: digest(path, commands[path]) for path in chosen}
    due = [path for path in chosen
           if options.all or not stamp_of(path).is_file() or stamp_of(path).read_text() != digests[path]]
    print(f"clang-tidy: {len(due)} of {len(chosen)} sources to examine; the others were clean and did not change",
          flush=True)
    bad, findings = run(due, digests, options.jobs)
    for line in sorted(findings):
        print(line)
    print(f"{len(chosen) - len(bad)} sources clean, {len(bad)} with findings ({len(findings)})")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
