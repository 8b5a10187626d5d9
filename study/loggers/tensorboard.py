"""TensorBoard: writes ``tensorboard/<trial>`` in the run's folder."""

from pathlib import Path
from typing import Any

from study.loggers.base import Tool, measures
from study.protocol.history import History
from study.protocol.plan import Plan
from study.protocol.records import Epoch, Outcome, Record, Trial


class TensorBoard:
    """Scalars per epoch, hyperparameters at the end."""

    def __init__(self, plan: Plan, home: Path) -> None:
        self._plan, self._folder = plan, home / "tensorboard"
        self._writers: dict[str, Any] = {}
        self._again = {path.name for path in self._folder.glob("*")}
        """Trials that an earlier session, or an earlier ``log``, has written: written anew."""

    def take(self, record: Record, history: History) -> None:
        from tensorboardX.summary import hparams

        match record:
            case Trial():
                self._open(record.id)
            case Epoch():
                writer = self._writers[record.trial]
                for name, value in measures(record).items():
                    writer.add_scalar(name, value, record.epoch)
                writer.flush()
            case Outcome():
                writer = self._writers.pop(record.trial)
                trial = history.trials[record.trial]
                writer.add_text("end", f"{record.state}: {record.reason}")
                settings = {"arm": trial.arm, "phase": trial.phase, **trial.config}
                # not add_hparams, whose own file has the same name when it is made in the same second
                shown = "val_accuracy" if self._plan.metric == "accuracy" else "val_score"
                for summary in hparams(settings, [shown]):  # its name: the epochs have the values
                    writer.file_writer.add_summary(summary)
                writer.close()
            case _:
                pass

    def _open(self, trial_id: str) -> None:
        from tensorboardX import SummaryWriter

        folder = self._folder / trial_id
        if trial_id in self._again:
            for old in folder.glob("events.*"):
                old.unlink()
        self._writers[trial_id] = SummaryWriter(str(folder))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


TOOL = Tool(start=TensorBoard, needs="tensorboardX", shown_by="tensorboard --logdir {home}/tensorboard")
