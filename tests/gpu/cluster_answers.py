"""What a real cluster on the GPU answers: its most probable tokens after given prompts, and while it decodes."""

import concurrent.futures
import dataclasses
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from helpers import cluster as clusters  # noqa: E402

TOP = 20  # the most that the native API gives
AT_ONCE = 32


@dataclasses.dataclass
class Answers:
    """Of some positions, one a row."""

    tokens: np.ndarray  # [rows], drawn greedily
    ids: np.ndarray  # [rows, TOP], most probable first
    logprobs: np.ndarray  # [rows, TOP]


def start(programs, device, **settings):
    """A Cluster of the programs in a folder; settings as helpers.cluster.Cluster takes them."""
    clusters.PROGRAMS = pathlib.Path(programs).resolve()
    clusters.DEVICE = device
    return clusters.Cluster(**settings)


def ask(cluster, prompt, max_tokens, **fields):
    """The log probabilities of each sample's tokens, of one request."""
    fields = {"stopping": {"ignore_eos": True}, "output": {"logprobs": TOP, "no_text": True}, **fields}
    samples = {}
    for event in cluster.generation.Generate(clusters.request(prompt, max_tokens=max_tokens, **fields), timeout=120):
        if event.HasField("tokens"):
            samples.setdefault(event.tokens.sample_index, []).extend(event.tokens.logprobs)
    return [samples[index] for index in sorted(samples)]


def ask_all(cluster, prompts, max_tokens):
    """Greedy answers to all prompts, `AT_ONCE` of them at a time, in order."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(lambda prompt: ask(cluster, prompt, max_tokens)[0], prompts)
        rows = [entry for answer in answers for entry in answer]
    assert len(rows) == len(prompts) * max_tokens, f"{len(rows)} tokens came"
    return Answers(np.array([row.token_id for row in rows], np.int64),
                   np.array([[top.token_id for top in row.top] for row in rows], np.int64),
                   np.array([[top.logprob for top in row.top] for row in rows], np.float32))
