"""Every C++ source is as clang-format 14 with our .clang-format leaves it."""

import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("common", "kernels", "worker", "tokenizer_service", "gateway", "cli", "tests")


def test_sources_are_formatted():
    formatter = shutil.which("clang-format-14")
    assert formatter, "clang-format-14 is missing: deploy/install_dependencies.sh test"
    files = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))
             if path.suffix in (".h", ".cc", ".cu", ".cuh")]
    result = subprocess.run([formatter, "--dry-run", "-Werror", *files], cwd=ROOT, capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 0, result.stderr + "\nrepair: clang-format-14 -i FILE"
