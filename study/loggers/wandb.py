"""Weights & Biases: writes offline to ``wandb/`` in the run's folder unless WANDB_MODE says otherwise."""

import os
from pathlib import Path
from typing import Any

from study.loggers.base import Tool, measures
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Outcome, Record, Trial


class WandB:
    """One W&B run per trial, grouped by study."""

    def __init__(self, plan: Plan, home: Path) -> None:
        del plan
        self._home = home
        self._runs: dict[str, Any] = {}

    def take(self, record: Record, history: History) -> None:
        del history
        match record:
            case Trial():
                import wandb

                self._runs[record.id] = wandb.init(
                    project="resnext-study", group=self._home.resolve().name, name=record.id, dir=str(self._home),
                    job_type=record.phase, tags=[record.arm, record.phase], config=dict(record.config),
                    mode=os.environ.get("WANDB_MODE", "offline"), reinit="create_new",
                    settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
                )  # fmt: skip
                self._runs[record.id].define_metric("*", step_metric="epoch")
            case Epoch():
                # not W&B's own step, which never goes back: an epoch may come again after an interruption
                self._runs[record.trial].log({"epoch": record.epoch, **measures(record)})
            case Outcome():
                run = self._runs.pop(record.trial)
                run.summary.update(
                    {"state": record.state, "end": record.reason, "resource_seconds": record.cost}
                )
                run.finish(exit_code=int(record.state == "failed"))
            case _:
                pass

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


TOOL = Tool(start=WandB, needs="wandb", shown_by="wandb sync {home}/wandb/offline-run-*")
