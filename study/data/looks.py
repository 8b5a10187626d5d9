"""What an image looks like in 64 bits and 64 pixels: finds pictures that were saved again in another size, format or quality.

A difference hash (Krawetz 2013, "Kind of like that") finds candidates; two thumbnails decide. Bits of flat regions would follow
the noise, so a step counts from ``STEP`` levels on.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 8, 8
STEP = 2.0
BITS = 8
"""Of 64, in which two hashes of one picture may differ."""
ALIKE = 0.12
"""Root mean square difference, in standard deviations, of two thumbnails of one picture."""
PLAIN = 6.0
"""Standard deviation of a thumbnail below which it shows too little to be distinguished."""
SMALLEST = 24
"""Pixels per side below which different pictures look alike."""
MANY, PIECE = 2**22, 2**14
"""Hashes, and thumbnails, that are compared at once."""


@dataclass(frozen=True)
class Looks:
    """Of ``n`` images in their order."""

    exact: NDArray[np.uint64]
    """A hash of all pixels."""
    steps: NDArray[np.uint64]
    """The difference hash."""
    thumbs: NDArray[np.uint8]
    """``(n, channels, ROWS, COLUMNS)``."""
    side: int
    """Pixels per side of the images."""
    source: NDArray[np.uint64]
    """A hash of the file, or of the pixels before they were scaled."""

    @classmethod
    def empty(cls, count: int, channels: int, side: int) -> "Looks":
        return cls(
            np.zeros(count, dtype=np.uint64),
            np.zeros(count, dtype=np.uint64),
            np.zeros((count, channels, ROWS, COLUMNS), dtype=np.uint8),
            side,
            np.zeros(count, dtype=np.uint64),
        )

    def see(self, start: int, pixels: NDArray[np.uint8]) -> None:
        """Note the look of ``pixels``, the images from ``start`` on. Threads may note different images."""
        rows = slice(start, start + len(pixels))
        side = self.side
        tall = _shares(ROWS, side) @ pixels.astype(np.float32)  # (n, c, ROWS, side)
        steps = np.diff((tall @ _shares(COLUMNS + 1, side).T).mean(axis=1), axis=2) > STEP
        self.steps[rows] = np.packbits(steps.reshape(len(pixels), -1), axis=1).view(">u8")[:, 0]
        self.thumbs[rows] = (tall @ _shares(COLUMNS, side).T).round().astype(np.uint8)
        self.exact[rows] = [first_bytes(hashlib.sha256(image.tobytes())) for image in pixels]

    def take(self, indices: NDArray[np.int64]) -> "Looks":
        return Looks(
            self.exact[indices], self.steps[indices], self.thumbs[indices], self.side, self.source[indices]
        )

    def and_those(self, other: "Looks") -> "Looks":
        return Looks(
            np.concatenate([self.exact, other.exact]),
            np.concatenate([self.steps, other.steps]),
            np.concatenate([self.thumbs, other.thumbs]),
            self.side,
            np.concatenate([self.source, other.source]),
        )

    def __len__(self) -> int:
        return len(self.exact)


def first_bytes(sha: "hashlib._Hash") -> int:
    """Of a SHA-256, as 64 bits."""
    return int.from_bytes(sha.digest()[:8])


def near(pool: Looks, test: Looks) -> list[tuple[int, int]]:
    """Positions in ``test`` and ``pool`` of one picture with different pixels, one pair for each such image of ``test``."""
    if pool.side < SMALLEST:
        return []
    ours, theirs = _telling(pool), _telling(test)
    known, asked = _standard(pool.thumbs[ours]), _standard(test.thumbs[theirs])
    found: dict[int, int] = {}
    block = max(1, MANY // max(1, len(ours)))
    for start in range(0, len(theirs), block):
        apart = np.bitwise_count(test.steps[theirs[start : start + block], None] ^ pool.steps[ours])
        tests, pools = np.nonzero(apart <= BITS)
        for piece in range(0, len(tests), PIECE):
            i, j = tests[piece : piece + PIECE] + start, pools[piece : piece + PIECE]
            alike = ((asked[i] - known[j]) ** 2).mean(axis=1) < ALIKE**2
            alike &= test.exact[theirs[i]] != pool.exact[ours[j]]
            found.update(zip(theirs[i[alike]].tolist(), ours[j[alike]].tolist(), strict=True))
    return sorted(found.items())


def contradictions(looks: Looks, labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Positions of equal images, pixel for pixel, with different labels: one pair for each such picture."""
    order = np.lexsort((labels, looks.exact))
    first, last = order[:-1], order[1:]
    differ = (looks.exact[first] == looks.exact[last]) & (labels[first] != labels[last])
    pairs = {int(looks.exact[i]): (int(i), int(j)) for i, j in zip(first[differ], last[differ], strict=True)}
    return sorted(pairs.values())


def _telling(looks: Looks) -> NDArray[np.int64]:
    """Positions of the images that show enough to be distinguished."""
    return np.flatnonzero(looks.thumbs.std(axis=(1, 2, 3)) >= PLAIN)


def _standard(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One row per image, of mean 0 and deviation 1: brightness and contrast may differ."""
    flat = thumbs.astype(np.float32).reshape(len(thumbs), int(np.prod(thumbs.shape[1:])))
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= flat.std(axis=1, keepdims=True)
    return flat


@cache
def _shares(parts: int, side: int) -> NDArray[np.float32]:
    """``(parts, side)``: how much each pixel gives to the mean of each part of a line."""
    ends = np.linspace(0, side, parts + 1)
    pixel = np.arange(side)
    overlap = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    shares = overlap.clip(min=0)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)
