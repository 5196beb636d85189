#!/usr/bin/env python3
"""Writes sampling.txt: what kernels/sampling.h promises, computed with NumPy.

    python3 tests/golden/make_sampling_reference.py > tests/golden/sampling.txt

Each case is a block of lines `key values...` that ends with `end`. Logits are not stored: both sides
make them from `logits SEED SCALE DROPPED_BITS` with the integer hash of make_logits. Cases in which
float32 rounding could decide (a border of top_p or min_p, two draws with nearly equal scores) are
left out, so that the comparison of ids is exact.
"""

import itertools
import sys

import numpy as np

F = np.float32
MARGIN = 1e-4


def make_logits(seed, scale, dropped_bits, vocab):
    h = (np.arange(vocab, dtype=np.uint64) * 2654435761 + seed * 0x9E3779B9) % 2**32
    h ^= h >> 15
    h = (h * 0x2C1B3C6D) % 2**32
    h ^= h >> 12
    product = (h & 0xFFF) * ((h >> 12) & 0xFFF)
    product = (product >> dropped_bits) << dropped_bits
    # 24 bits, scaled by powers of two: exact in float32.
    return product.astype(F) * F(2.0**-24) * F(scale) - F(scale / 2)


def philox4x32(key, counter):
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c = list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


assert philox4x32(0, [0] * 4) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def process(case, logits):
    """Biases, penalties, temperature: float32 throughout."""
    l = logits.copy()
    for token, bias in case["bias"]:
        l[token] += F(bias)
    for token, packed in case["counts"]:
        r = F(case["repetition"])
        l[token] = l[token] / r if l[token] > 0 else l[token] * r
        count = packed & 0x7FFFFFFF
        l[token] -= F(case["frequency"]) * F(count)
        if count > 0:
            l[token] -= F(case["presence"])
    return l / F(case["temperature"]) if case["temperature"] > 0 else l


def log_softmax(l):
    l = l.astype(np.float64)
    top = l.max()
    return l - top - np.log(np.exp(l - top).sum())


def keep(case, l):
    """The kept ids, greatest first, with their probabilities among all kept; None near a border."""
    order = np.lexsort((np.arange(len(l)), -l.astype(np.float64)))
    order = [i for i in order if l[i] > -np.inf]
    if 0 < case["top_k"] < len(l):
        order = order[: case["top_k"]]
    weights = np.exp(l[order].astype(np.float64) - float(l[order[0]]))
    if case["top_p"] < 1:
        cumulative = np.cumsum(weights) / weights.sum()
        if np.abs(cumulative - case["top_p"]).min() < MARGIN * weights[-1] / weights.sum():
            return None
        if np.abs(cumulative - case["top_p"]).min() < 1e-7 * len(l):
            return None
        n = max(1, int(np.searchsorted(cumulative, float(F(case["top_p"]))) + 1))
        order, weights = order[:n], weights[:n]
    if case["min_p"] > 0:
        others = weights[weights < 1]  # the greatest one's weight is 1 on both sides
        if len(others) and np.abs(others - case["min_p"]).min() < MARGIN * case["min_p"]:
            return None
        order = [i for i, w in zip(order, weights) if w >= case["min_p"]]
        weights = weights[: len(order)]
    return list(zip(order, weights / weights.sum()))


def draw(case, l, kept, position):
    best = []
    for token, _ in kept:
        counter = [position & 0xFFFFFFFF, case["sample_index"], 0, int(token) // 4]
        v = (philox4x32(case["seed"], counter)[token % 4] + 0.5) * 2.0**-32
        best.append((float(l[token]) - np.log(-np.log1p(-v)), token))
    best.sort(reverse=True)
    if len(best) > 1 and best[0][0] - best[1][0] < MARGIN:
        return None
    return best[0][1]


def number(x):
    return repr(float(F(x))) if np.isfinite(x) else ("-inf" if x < 0 else "inf")


def write(case, out):
    """False where a border is too near."""
    logits = make_logits(*case["logits"], case["vocab"])
    processed = process(case, logits)
    lines = [f"vocab {case['vocab']}", "logits " + " ".join(map(str, case["logits"]))]
    for token, bias in case["bias"]:
        lines.append(f"bias {token} {number(bias)}")
    for token, packed in case["counts"]:
        lines.append(f"count {token} {packed}")
    for name in ("repetition", "frequency", "presence", "temperature", "top_p", "min_p"):
        lines.append(f"{name} {number(case[name])}")
    for name in ("top_k", "seed", "sample_index", "position"):
        lines.append(f"{name} {case[name]}")
    if case["temperature"] == 0:
        lines.append(f"drawn {int(np.argmax(processed))}")
    else:
        kept = keep(case, processed)
        if kept is None:
            return False
        lines += [f"kept {token} {p:.9g}" for token, p in kept]
        drawn = [draw(case, processed, kept, case["position"] + i) for i in range(8)]
        if None in drawn:
            return False
        lines.append("drawn " + " ".join(map(str, drawn)))
    for name, values in (("raw", logits), ("processed", processed)):
        log_p = log_softmax(values)
        order = np.lexsort((np.arange(len(values)), -values.astype(np.float64)))
        for token in [i for i in order if values[i] > -np.inf][:4]:
            lines.append(f"{name} {token} {log_p[token]:.9g}")
    print("\n".join([f"case {case['name']}"] + lines + ["end"]), file=out)
    return True


def plain(name, vocab, logits, **parameters):
    case = dict(name=name, vocab=vocab, logits=logits, bias=[], counts=[], repetition=1,
                frequency=0, presence=0, temperature=1, top_k=0, top_p=1, min_p=0,
                seed=0x123456789ABCDEF0 ^ vocab, sample_index=vocab % 3, position=2**33 + vocab)
    case.update(parameters)
    return case


def cases():
    alone = [dict(), dict(temperature=0), dict(temperature=0.3), dict(temperature=1.7),
             dict(top_k=1), dict(top_k=5), dict(top_k=40), dict(top_p=0.05), dict(top_p=0.5),
             dict(top_p=0.9), dict(top_p=0), dict(min_p=0.02), dict(min_p=0.5), dict(min_p=1)]
    mixes = [dict(temperature=0.8, top_k=20, top_p=0.9),
             dict(temperature=1.5, top_p=0.7, min_p=0.1),
             dict(temperature=0.6, top_k=50, top_p=0.95, min_p=0.05),
             dict(temperature=2.5, top_k=3, min_p=0.3)]
    for vocab in (1, 2, 31, 32, 33, 128):
        for i, parameters in enumerate(alone + mixes):
            yield plain(f"vocab_{vocab}_{i}", vocab, (vocab + i, 16, 0), **parameters)
    for i, parameters in enumerate(alone[4:8] + mixes):
        yield plain(f"ties_{i}", 128, (i, 8, 21), **parameters)
        yield plain(f"large_{i}", 32000, (i, 64, 0), **parameters)
    yield plain("large_heap_limit", 4096, (3, 64, 0), top_k=1500, top_p=0.3)
    counts = [(0, 3), (4, 1), (7, 2**31), (9, 2**31 + 2), (30, 40)]
    bias = [(3, 1.5), (4, -2), (3, 0.25), (5, float("-inf")), (29, 100), (29, -98.5)]
    penalties = [dict(repetition=1.3), dict(repetition=0.8), dict(frequency=0.4),
                 dict(presence=1.25), dict(frequency=-0.3, presence=-0.5), dict(bias=bias),
                 dict(repetition=1.2, frequency=0.1, presence=0.3, bias=bias)]
    for i, (penalty, rest) in enumerate(itertools.product(penalties, [alone[0], alone[1]] + mixes)):
        yield plain(f"penalty_{i}", 31, (i, 16, 0), counts=counts, **penalty, **rest)


def main():
    written = skipped = 0
    for case in cases():
        if write(case, sys.stdout):
            written += 1
        else:
            skipped += 1
    print(f"{written} cases, {skipped} left out near a border", file=sys.stderr)


if __name__ == "__main__":
    main()
