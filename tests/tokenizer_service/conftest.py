import pytest
from model_folders import FOLDERS, ROOT, make_folder
from tokenizer_process import TokenizerProcess


@pytest.fixture
def start_tokenizer(tmp_path):
    """start(folder, *flags) → TokenizerProcess; all are killed at the end."""
    started = []

    def start(folder, *flags):
        work = tmp_path / f"process_{len(started)}"
        work.mkdir()
        started.append(TokenizerProcess(folder, work, *flags))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def all_tokenizers(tmp_path_factory):
    """Name → (folder, TokenizerProcess) of each kind of folder, and of the bundled model."""
    parent = tmp_path_factory.mktemp("folders")
    running = {}
    for name in [*FOLDERS, "demo"]:
        folder = ROOT / "models" / "demo" if name == "demo" else make_folder(name, parent)
        running[name] = (folder, TokenizerProcess(folder, tmp_path_factory.mktemp(name)))
    yield running
    for _, process in running.values():
        process.stop()
