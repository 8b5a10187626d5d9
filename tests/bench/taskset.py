"""Recorded learning curves, to search again without training: four text classifiers of TaskSet.

The same 1000 settings of one optimizer for each architecture, 50 checkpoints after the one before training
(Metz et al. 2020, via releaunifreiburg/DyHPO). A loss is clipped at 0.75 (chance is 0.693), NaN is a
diverged run. The curves are means over five seeds, without run-to-run noise.

A replay must never draw the same row twice in one search: a sampler returning to a good place would
get the same number again, where a real study gets a new run (METHOD.md 11).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search_spaces import Choice, Config, Float, Space

Reals = NDArray[np.float64]

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "taskset"
"""Folder of the recorded curves beside the checkout, if any."""
FILES = {
    "GRU128": "patch32_GRU128_bs128.npz",
    "GRU64": "patch32_GRU64_avg_bs128.npz",
    "LSTM128": "patch32_LSTM128_bs128.npz",
    "VRNN64": "patch32_VRNN64_tanh_avg_bs128.npz",
}
WORST = 0.75
"""Losses are clipped here; a diverged run counts as this."""
ADAM = {"learning_rate": 1e-3, "beta1": 0.1, "beta2": 1e-3, "epsilon": 1e-8, "l1": 1e-8, "l2": 1e-8,
        "linear_decay": 1e-7, "exponential_decay": 1e-6}  # fmt: skip
"""The default setting: Adam's usual one. Betas are stored as their distance from 1, as drawn."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One architecture's recorded runs. A diverged run is NaN from that checkpoint on."""

    name: str
    axes: tuple[str, ...]
    settings: Reals
    """(rows, axes), as recorded except for the betas."""
    valid: Reals
    """(rows, 1 + checkpoints): mean validation loss, the first before training."""
    test: Reals

    @property
    def checkpoints(self) -> int:
        return len(self.valid[0]) - 1

    @property
    def space(self) -> Space:
        """The recorded log ranges."""
        low, high = self.settings.min(axis=0), self.settings.max(axis=0)
        return {
            name: Float(
                low=float(a),
                high=float(b),
                default=float(np.clip(ADAM.get(name, np.sqrt(a * b)), a, b)),
                log=True,
            )
            for name, a, b in zip(self.axes, low, high, strict=True)
        }

    @property
    def final_test(self) -> Reals:
        """Test loss of every row at full length."""
        return np.nan_to_num(self.test[:, -1], nan=WORST)

    @property
    def truth(self) -> float:
        """Test loss at full length of the row with the best validation loss, the result of endless tuning."""
        return float(self.final_test[np.nan_to_num(self.valid[:, -1], nan=np.inf).argmin()])

    def expected(self, tries: int) -> float:
        """Expected test loss of the best on validation among ``tries`` random rows, all at full length."""
        order = np.nan_to_num(self.valid[:, -1], nan=np.inf).argsort(kind="stable")
        rows = len(order)
        # P(the best of the drawn has rank i) = C(rows-i, tries-1) / C(rows, tries), as a product of odds
        weight, left = np.zeros(rows), 1.0
        for rank in range(rows - tries + 1):
            weight[rank] = left * tries / (rows - rank)
            left *= 1 - tries / (rows - rank)
        return float(weight @ self.final_test[order])


class Rows:
    """The rows not yet drawn by one search."""

    def __init__(self, curves: Curves) -> None:
        logs = np.log(curves.settings)
        self._low, self._width = logs.min(axis=0), np.ptp(logs, axis=0)
        self._points = (logs - self._low) / self._width
        self._axes = curves.axes
        self._free = np.ones(len(logs), dtype=bool)

    def draw(self, config: Config) -> int:
        """Take the free row nearest to the config, every axis on its log range scaled to 1.

        Raises LookupError if no row is left.
        """
        if not self._free.any():
            raise LookupError(f"all {len(self._free)} recorded rows have been drawn in this search")
        asked = np.log(np.array([float(config[name]) for name in self._axes]))
        apart = np.square(self._points - (asked - self._low) / self._width).sum(axis=1)
        row = int(np.where(self._free, apart, np.inf).argmin())
        self._free[row] = False
        return row


def load(folder: Path = FOLDER) -> dict[str, Curves]:
    """The four architectures, or as many synthetic tables like them if the folder is absent."""
    if not folder.is_dir():
        return {name: made_up(name, seed=seed) for seed, name in enumerate(FILES)}
    return {name: _read(name, folder / file) for name, file in FILES.items()}


def made_up(name: str, *, seed: int, rows: int = 400, checkpoints: int = 50) -> Curves:
    """A table like the recorded ones: few settings learn, many stay at chance, some get worse, some diverge.

    Every ``seed`` has the same settings; the seed stands for the architecture.
    """
    draw, own = np.random.default_rng(2020), np.random.default_rng([seed, 2020])
    settings = np.exp(draw.uniform(np.log(1e-7), np.log(1), (rows, len(ADAM))))
    rate = np.log10(settings[:, 0])
    miss = (rate + 3 + 0.4 * own.standard_normal()) ** 2 + 0.3 * (np.log10(settings[:, 4]) + 7).clip(0) ** 2
    depth = 0.30 * np.exp(-0.15 * miss) * own.uniform(0.5, 1.0, rows) - 0.02 * (rate > -1.5)
    steps = np.linspace(0, 1, checkpoints + 1)
    speed = own.uniform(2, 8, (rows, 1))
    clean = 0.70 - depth[:, None] * (1 - np.exp(-speed * steps))
    valid, test = (clean + own.normal(0, 0.004, clean.shape) - shift for shift in (0.0, 0.02))
    for row in np.flatnonzero(rate > -0.3):
        valid[row, int(own.integers(1, checkpoints)) :] = np.nan
    return Curves(
        name=name, axes=tuple(ADAM), settings=settings, valid=valid.clip(0, WORST), test=test.clip(0, WORST)
    )


def with_arm(space: Space, arms: tuple[str, ...]) -> Space:
    """The joint space: the architecture as one more axis, its default the first of ``arms``."""
    return {"arm": Choice(options=arms, default=arms[0]), **space}


def _read(name: str, path: Path) -> Curves:
    with np.load(path) as arrays:
        axes = tuple(str(axis) for axis in arrays["hp_names"])
        settings = np.array(arrays["hp"], dtype=np.float64)
        valid, test = (np.array(arrays[part], dtype=np.float64).clip(0, WORST) for part in ("valid", "test"))
    for beta in ("beta1", "beta2"):
        settings[:, axes.index(beta)] = 1 - settings[:, axes.index(beta)]
    return Curves(name=name, axes=axes, settings=settings, valid=valid, test=test)
