"""Every row of the tables has a test that shows it; a claim without a test, or of a test that asserts nothing, fails."""

import ast
import functools
import re
import subprocess
import sys

import pytest

from conformance.triton_rows import DOCS, ENGINE, MODELS, WIRE
from helpers.cluster import ROOT

TESTS = ROOT / "tests"
GOOGLE_TEST = re.compile(r"^TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)
ROWS = [(*path, row, claims) for group, sections in (("models", MODELS), ("engine", ENGINE), ("wire", WIRE),
                                                    *DOCS.items())
        for path, rows in ((((group, section)), rows) for section, rows in sections.items())
        for row, claims in rows.items()]


@functools.cache
def collected():
    """The ids of all tests here, as pytest finds them."""
    result = subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-q", "conformance", "cluster"], cwd=TESTS,
                            capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stdout
    return [line for line in result.stdout.splitlines() if "::" in line]


@functools.cache
def google_tests():
    """{Suite.Name: the text from there on} of the tests' sources."""
    found = {}
    for path in (TESTS / "gateway").rglob("*_test.cc"):
        text = path.read_text()
        for match in GOOGLE_TEST.finditer(text):
            found[f"{match[1]}.{match[2]}"] = text[match.start():text.index("\n}\n", match.start())]
    return found


@functools.cache
def module_of(file):
    text = (TESTS / file).read_text()
    return text, {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


ASSERTING = ("failing", "failing_with", "raises", "await_true", "await_idle")


def called_in(node):
    return {getattr(part.func, "id", getattr(part.func, "attr", "")) for part in ast.walk(node)
            if isinstance(part, ast.Call)}


def reached(functions, name):
    """A function of the module and what it calls there, and so on."""
    names, new = [], [name]
    while new:
        names.append(new.pop())
        new += [called for called in called_in(functions[names[-1]]) if called in functions and
                called not in (*names, *new)]
    return [functions[one] for one in names]


def asserts(functions, name):
    return any(isinstance(part, ast.Assert) for node in reached(functions, name) for part in ast.walk(node)) or any(
        called in ASSERTING for node in reached(functions, name) for called in called_in(node))


def source_of(claim):
    """The text of the claimed test; fails where there is none, or it asserts nothing."""
    if claim.startswith("cc:"):
        text = google_tests().get(claim.removeprefix("cc:"))
        assert text is not None, f"there is no {claim}"
        assert re.search(r"EXPECT_|ASSERT_|Error", text), f"{claim} asserts nothing"
        return text
    # An id, a test with all its parameters, or those that begin with "[name-" where the claim ends so.
    stem = claim.removesuffix("-]").removesuffix("-")
    ids = [one for one in collected() if one == claim or one.startswith(f"{claim}[") or (
        claim.endswith("-]") and re.match(re.escape(stem) + r"[-\]]", one))]
    assert ids, f"there is no test {claim}"
    file, name = claim.split("[")[0].split("::")
    text, functions = module_of(file)
    assert asserts(functions, name), f"{claim} asserts nothing"
    lines = text.splitlines()
    return "\n".join([*ids, *(line for node in reached(functions, name) for line in lines[
        min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1:node.end_lineno])])


def names_in(row):
    """What a row is about: identifiers, but no words."""
    return [name for name in re.findall(r"[A-Za-z_][A-Za-z0-9_]*", row)
            if re.search(r"[a-z0-9]_[a-z0-9]|_\d|[A-Z]{2,}_|[a-z][A-Z]", name)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "/".join(row[:3]))
def test_row_is_shown(row):
    claims = row[3]
    assert claims, "nobody claims it"
    shown = "\n".join(source_of(claim) for claim in claims)
    missing = [name for name in names_in(row[2]) if name not in shown]
    assert not missing, f"no claimed test knows {missing}"


@pytest.mark.parametrize("document", DOCS)
def test_every_row_of_the_document_is_claimed(document):
    section, rows = "", {}
    for line in (ROOT / "docs" / document).read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("|---"):
            rows[section] = []  # what stood above is the head
        elif line.startswith("|") and section in rows:
            rows[section].append(line.split("|")[1].strip())
        elif not line.startswith("|") and line:
            continue
    assert rows == {section: list(claimed) for section, claimed in DOCS[document].items()}


def test_a_claim_that_is_not_true_fails():
    for claim in ("conformance/triton_tables_test.py::test_nothing", "cc:Tensor.Nothing",
                  "conformance/triton_tensors_test.py::test_input[ensemble-INPUT_9]"):
        with pytest.raises(AssertionError, match="there is no"):
            source_of(claim)
    silent = {node.name: node for node in ast.parse("def test_silent():\n    answer()\n").body}
    assert not asserts(silent, "test_silent")
    assert "INPUT_0" not in source_of("conformance/triton_tensors_test.py::test_input[fastertransformer-input_ids]")
