"""The search for near-duplicate images: CPU time against the number of hashes, and what it finds
against comparing all.

    python benchmarks/near_duplicates.py [largest number of hashes]

Hashes are random (strangers) with planted pairs at distances from 0 to the threshold, of which the
search must find all; `clustered` adds one scene of many frames, the case that makes buckets
overflow. No images are read.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from engine.datasets.near_duplicates import HASH_BITS, near_links, tables_for

THRESHOLD = 45
SUBSET = 20_000  # hashes that are also compared each with each
ROWS = 256


def planted(n: int, random: np.random.Generator, scene: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32) hashes, of which a hundredth are copies of others with 0 to 45 bits flipped; (m, 2)
    which. `scene`: so many of them are frames of one scene, 0 to 20 bits from its middle.
    """
    hashes = random.integers(0, 256, (n, HASH_BITS // 8), np.uint8)
    pairs = random.permutation(n)[: n // 100 * 2].reshape(-1, 2)
    hashes[pairs[:, 1]] = flipped(
        hashes[pairs[:, 0]], random.integers(0, THRESHOLD + 1, len(pairs)), random
    )
    if scene:
        hashes[:scene] = flipped(
            np.repeat(hashes[:1], scene, 0), random.integers(0, 21, scene), random
        )
        pairs = pairs[(pairs >= scene).all(1)]
    return hashes, pairs


def flipped(hashes: np.ndarray, bits: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rank = random.random((len(hashes), HASH_BITS)).argsort(1)
    return hashes ^ np.packbits(rank < bits[:, None], axis=1)


def components(n: int, links: np.ndarray) -> np.ndarray:
    root = np.arange(n)
    for i, j in links.tolist():
        while root[i] != i:
            i = root[i]
        while root[j] != j:
            j = root[j]
        root[max(i, j)] = min(i, j)
    while not np.array_equal(root, root[root]):
        root = root[root]
    return root


def all_pairs(hashes: np.ndarray) -> np.ndarray:
    """(m, 2): every pair within the threshold, by comparing each with each."""
    words, found = np.ascontiguousarray(hashes).view(np.uint64), []
    for start in range(0, len(words), ROWS):
        distance = sum(
            np.bitwise_count(words[start : start + ROWS, None, k] ^ words[None, :, k]).astype(
                np.int16
            )
            for k in range(4)
        )
        a, b = np.nonzero(distance <= THRESHOLD)
        found.append(np.stack((a + start, b), 1)[a + start < b])
    return np.concatenate(found)


def row(
    name: str, n: int, hashes: np.ndarray, wanted: np.ndarray, brute_s: float | None = None
) -> None:
    started = time.process_time()
    links, _ = near_links(hashes, THRESHOLD)
    seconds = time.process_time() - started
    root = components(n, links)
    together = int((root[wanted[:, 0]] == root[wanted[:, 1]]).sum())
    bits, tables = tables_for(n, THRESHOLD)
    brute = f"{brute_s:9.1f}" if brute_s is not None else f"{'':>9}"
    print(
        f"{name:<12}{n:>9,}{bits:>6}{tables:>8}{seconds:>9.1f}{brute}{len(wanted):>13,}{together / len(wanted):>12.4%}",
        flush=True,
    )


def main() -> None:
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    random = np.random.default_rng(0)
    print(f"threshold {THRESHOLD} of {HASH_BITS} bits\n")
    print(
        f"{'hashes':<12}{'number':>9}{'bits':>6}{'tables':>8}{'CPU s':>9}{'all, s':>9}{'near pairs':>13}{'found':>12}"
    )
    for name, scene in (("random", 0), ("clustered", SUBSET // 20)):
        hashes, _ = planted(SUBSET, random, scene)
        started = time.process_time()
        wanted = all_pairs(hashes)
        row(name, SUBSET, hashes, wanted, time.process_time() - started)
    n = SUBSET * 5 // 2
    while n <= largest:
        hashes, wanted = planted(n, random)
        row("random", n, hashes, wanted)
        n *= 2
    hashes, wanted = planted(largest, random, largest // 20)
    row("clustered", largest, hashes, wanted)


if __name__ == "__main__":
    main()
