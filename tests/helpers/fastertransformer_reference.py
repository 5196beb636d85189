"""What FasterTransformer's LLaMA computes for a request, step by step in NumPy: greedy and drawn tokens, beams,
penalties, word lists, log probabilities. Slow and plain: its only purpose is to be compared with."""

import copy
import dataclasses

import numpy as np

from helpers.numpy_llama import NumpyLlama


class Model:
    """`logits(ids)` are those after the last of `ids`; each sequence is computed once."""

    def __init__(self, folder):
        self.llama = NumpyLlama(folder)
        self.states = {}  # ids → (cache, logits)

    def logits(self, ids):
        key = tuple(ids)
        if key not in self.states:
            parent = self.states.get(key[:-1])
            cache = self.llama.new_cache() if parent is None else copy.copy(parent[0])
            cache.layers = list(cache.layers)
            new = key if parent is None else key[-1:]
            self.states[key] = (cache, self.llama.forward([new], cache)[0])
        return self.states[key][1].copy()


@dataclasses.dataclass
class Parameters:
    output_len: int
    end_id: int = 2
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    min_length: int = 0
    top_k: int = 0
    top_p: float = 0.0
    beam_width: int = 1
    len_penalty: float = 0.0
    diversity: float = 0.0
    bad_words: tuple = ()
    stop_words: tuple = ()


def ends_with(ids, word):
    return len(ids) >= len(word) and list(ids[len(ids) - len(word):]) == list(word)


def processed_logits(model, prompt, generated, p):
    """Steps (1) to (4) of a FasterTransformer decode step."""
    ids = [*prompt, *generated]
    logits = model.logits(ids)
    for word in p.bad_words:
        if ends_with(ids, word[:-1]):
            logits[word[-1]] = -np.inf
    logits /= p.temperature
    seen = sorted(set(ids))
    if p.repetition_penalty != 1:
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * p.repetition_penalty,
                                logits[seen] / p.repetition_penalty)
    logits[seen] -= p.presence_penalty
    if len(generated) < p.min_length:
        logits[p.end_id] = -np.inf
    return logits


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def kept(log_probs, p):
    """Ids that step (5) draws from, most probable first, and their probabilities."""
    order = np.argsort(-log_probs, kind="stable")
    if p.top_k > 0:
        order = order[:p.top_k]
    probabilities = np.exp(log_probs[order])
    probabilities /= probabilities.sum()
    top_p = p.top_p if p.top_p > 0 else 1.0
    if top_p < 1:
        count = int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1
        order, probabilities = order[:count], probabilities[:count] / probabilities[:count].sum()
    return order, probabilities


def stops(prompt, generated, p):
    return generated[-1] == p.end_id or any(ends_with([*prompt, *generated], word) for word in p.stop_words)


def greedy(model, prompt, p):
    """ids, log probabilities over the whole vocabulary."""
    generated, log_probs = [], []
    while len(generated) < p.output_len:
        step = log_softmax(processed_logits(model, prompt, generated, p))
        generated.append(int(step.argmax()))
        log_probs.append(step[generated[-1]])
        if stops(prompt, generated, p):
            break
    return generated, log_probs


def beams(model, prompt, p):
    """The online beam search: (ids, log probabilities, cumulative log probability) of each beam, in order."""
    live = [([], [], 0.0, False)]
    while not all(done for *_, done in live):
        offers = []
        for beam, (ids, log_probs, total, done) in enumerate(live):
            if done:
                length = len(prompt) + len(ids)
                offers.append((total / length ** p.len_penalty, beam, 0, None))
                continue
            step = log_softmax(processed_logits(model, prompt, ids, p))
            length = len(prompt) + len(ids) + 1
            for place, token in enumerate(np.argsort(-step, kind="stable")[:p.beam_width]):
                score = (total + step[token]) / length ** p.len_penalty + p.diversity * place
                offers.append((score, beam, place, (int(token), step[token])))
        offers.sort(key=lambda offer: (-offer[0], offer[1], offer[2]))
        following = []
        for _, beam, _, offer in offers[:p.beam_width]:
            ids, log_probs, total, done = live[beam]
            if offer is not None:
                ids, log_probs, total = [*ids, offer[0]], [*log_probs, offer[1]], total + offer[1]
                done = stops(prompt, ids, p) or len(ids) == p.output_len
            following.append((ids, log_probs, total, done))
        live = following
    return [(ids, log_probs, total) for ids, log_probs, total, _ in live]
