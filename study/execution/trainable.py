"""What Ray ships to a node: it trains one trial after the other and reports each epoch.

Only numbers come back; whether to go on is decided by the driver. A worker process lives on between
trials, so torch is imported once. A report comes every few seconds, also within an epoch, so that the
driver can stop a trial soon and tell a slow one from a dead one.
"""

import dataclasses
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from ray import tune
from torch import Tensor, nn

import search_spaces
from search_spaces import ImageSpec
from study.data.images import Streamed
from study.data.prepare import DataError, Images, split_for
from study.memory import keep_freed, out_of_memory
from study.protocol import validation
from study.protocol.plan import Plan
from study.protocol.question import DataCard, Machine
from study.protocol.records import SCORED_PHASES, Epoch, Trial, setting
from study.protocol.selection import StudyError
from study.protocol.settings import SETTINGS
from study.protocol.text import first_line
from study.storage import objects
from study.training import checkpoint
from study.training.loop import DivergedError, Split, Training, build

LONGEST_SLICE = 8.0
"""Less than half of ``runner.LEAVE_SECONDS``: a study that stops waits for its trials' reports, then for their checkpoints."""
REPORTS_PER_SECOND = 100
"""Of all trials together, of which a driver takes some hundreds at most: each costs it 3 ms."""
RESIDENT_SHARE = 0.1
"""Part of a trial's GPU memory that its images may take: less than ``packing.HEADROOM`` leaves above the peak."""
CHECKPOINT_SHARE = 0.01
"""Part of the training time that checkpoints may take: where writing is slow, they are fewer."""


def device_of(machine: Machine, fraction: float | None = None) -> torch.device:
    """The device of this process, set up as the plan says: CPU threads, and a wall around GPU memory."""
    torch.set_num_threads(machine.threads)
    if machine.resource == "cpu":
        keep_freed()
        return torch.device("cpu")
    # Ray's fractions are bookkeeping; this is the wall between trials
    device = torch.device("cuda", torch.cuda.current_device())
    if machine.gpu and described(device) != machine.gpu:
        raise OtherGpuError(f"this node has {described(device)}, and the study was measured on {machine.gpu}")
    torch.cuda.empty_cache()  # cuDNN picks other kernels where the last trial's blocks leave it no room
    context = machine.context_bytes / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, min(1.0, fraction or machine.fraction) - context))
    return device


def described(device: torch.device) -> str:
    """A GPU by name, multiprocessors and memory: ``NVIDIA H100 80GB HBM3, 132 multiprocessors, 79.6 GiB``."""
    found = torch.cuda.get_device_properties(device)
    return (
        f"{found.name}, {found.multi_processor_count} multiprocessors, {found.total_memory / 2**30:.1f} GiB"
    )


def give_back(device: torch.device) -> None:
    """Give freed memory back to the others that share the device: this process may be idle for long."""
    if device.type == "cuda":
        torch.cuda.synchronize()  # raises where the device is lost to this process, which must then not go on
        torch.cuda.empty_cache()
    else:
        keep_freed()


def slice_seconds(slots: int) -> float:
    """Training between two reports of one of so many trials at a time."""
    return max(SETTINGS.report_seconds, min(LONGEST_SLICE, slots / REPORTS_PER_SECOND))


def image_spec(card: DataCard) -> ImageSpec:
    return ImageSpec(channels=card.channels, size=card.size, classes=len(card.classes))


def placed(images: Images, device: torch.device) -> Tensor | Images:
    """The images on the device, or as they are where that has no room for them: then ``train`` fetches batches."""
    if isinstance(images, Streamed):
        return images
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        own = whole * torch.cuda.get_per_process_memory_fraction(device)
        if images.pixels.nbytes > RESIDENT_SHARE * own:
            return images
    return _tensor(images.pixels).to(device)


def _tensor(array: NDArray[Any]) -> Tensor:
    """The same memory, shared by all trials of a node, which only read it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)


def training(plan: Plan, trial: Trial, pool: Images, device: torch.device) -> Training:
    """The trial's run, at its beginning: all that a rerun needs."""
    arm = search_spaces.load(trial.arm)
    audit = plan.audits[trial.arm]
    net = build(
        arm,
        trial.config,
        image_spec(plan.data),
        seed=trial.seed,
        device=device,
        channels_last=audit.layout(trial.config),
    )
    train, val = split_for(plan, pool.labels, fold=trial.fold)
    data = Split(
        images=placed(pool, device),
        labels=_tensor(pool.labels).to(device),
        train=torch.from_numpy(train).to(device),
        val=torch.from_numpy(val).to(device),
    )
    return Training(net, trial, data, classes=len(plan.data.classes), graphed=audit.graphed)


def start(plan: Plan, trial: Trial, pool: Images, device: torch.device) -> tuple[nn.Module, Iterator[Epoch]]:
    """The trial's net and its epochs, trained as they are drawn."""
    run = training(plan, trial, pool, device)
    return run.net, run.epochs()


class StudyTrial(tune.Trainable):
    """Ray Tune's face of a trial: one ``step`` trains to the epoch's end, or for some seconds.

    The first result has ``process`` (node and process id); any may have ``epoch`` (the record as a dict), ``resumed`` (epochs and seconds that a checkpoint
    had), ``failure`` (why the trial cannot go on), ``memory`` (that it ran out of memory), ``blocked`` (why
    the surroundings do not let it), ``net`` (the trained one, where the nodes share no folder), ``correct`` (what that is
    right on of its validation images, with the last epoch) or ``unsaved`` (why the storage did not take a checkpoint). An error of the arm is a result too, so that the process survives it.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters passes what every trial shares
        self, config: dict[str, Any], plan: dict[str, Any], pool: Images, home: str
    ) -> None:
        self._plan = Plan.from_dict(plan)
        self._pool = pool
        self._home = Path(home)
        # not _storage, which is Tune's own
        self._at_uri = objects.Storage(home) if objects.is_uri(home) else None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run: Training | None = None  # the last trial's memory is free before the device is set up
        self._trial = Trial(**new_config["trial"])
        self._known = int(new_config["epochs"])
        self._again = bool(new_config["again"])
        self._fraction = float(new_config["fraction"])
        self._device: torch.device | None = None
        self._path = checkpoint.path_of(self._home, self._trial.id)
        self._spoke = False
        self._measures: list[dict[str, Any]] = []
        self._aside: dict[str, Any] = {}
        self._startup = self._writing = 0.0
        self._saved, self._pause = time.monotonic(), SETTINGS.checkpoint_seconds
        return True

    def step(self) -> dict[str, Any]:
        self._show_name()
        try:
            result = self._step()
        except DivergedError as error:
            result = {"failure": f"diverged: {error}", "done": True}
        except (DataError, OtherGpuError, _BlockedError) as error:
            result = {"blocked": first_line(error)}
        except Exception as error:  # noqa: BLE001  # an arm's fault is that trial's end, not the study's
            result = {"failure": f"error: {type(error).__name__}: {first_line(error)}", "done": True}
            if out_of_memory(error):
                result |= {"failure": first_line(error), "memory": True}
        if "failure" in result:
            self._let_go()
        aside, self._aside = self._aside, {}
        return {"trial": self._trial.id, **aside, **result}

    def _show_name(self) -> None:
        """Name the trial where processes are listed: Ray's dashboard, ps, nvidia-smi. Ray names it anew for each call."""
        with suppress(AttributeError):  # another version of Ray
            raylet: Any = ray._raylet
            raylet.setproctitle(f"ray::StudyTrial {self._trial.id} {setting(self._trial.config)}")

    def _step(self) -> dict[str, Any]:
        if not self._spoke:  # before any code of the arm runs: a worker that dies now was not its doing
            self._spoke = True
            return {"process": (ray.get_runtime_context().get_node_id(), os.getpid())}
        if self._run is None:
            return self._begin()
        if self._known < len(self._measures):  # the checkpoint knows more than the ledger
            return self._reported(self._measures[self._known])
        if self._run.epoch == self._trial.epochs:
            return {"done": True}
        epoch = self._run.advance(slice_seconds(self._plan.machine.slots))
        if epoch is None:
            if time.monotonic() - self._saved > self._pause:
                self._save()
            return {}
        self._measures.append(dataclasses.asdict(epoch))
        if epoch.epoch == self._trial.epochs and self._trial.phase in SCORED_PHASES:
            self._save(final=True)
        elif time.monotonic() - self._saved > self._pause:
            self._save()
        epoch = dataclasses.replace(epoch, startup_seconds=self._startup, checkpoint_seconds=self._writing)
        self._startup = self._writing = 0.0
        return self._reported(dataclasses.asdict(epoch))

    def _begin(self) -> dict[str, Any]:
        """Build the net, and load what the newest whole checkpoint has."""
        began = time.monotonic()
        self._device = device_of(self._plan.machine, self._fraction)
        self._run = training(self._plan, self._trial, self._pool, self._device)
        state = self._saved_state(self._device) if self._again else None
        if state is not None:
            try:
                self._run.load(state)
                self._measures = state["measures"]
            except (KeyError, RuntimeError, ValueError):  # of other code, whose change was accepted
                self._run = training(self._plan, self._trial, self._pool, self._device)
        self._startup = time.monotonic() - began
        if not self._again:
            return {}
        self._known = min(self._known, self._run.epoch)
        # epochs that the checkpoint has and the ledger has not are told next, and were not trained in vain
        untold = sum(m["train_seconds"] + m["eval_seconds"] for m in self._measures[self._known :])
        return {"resumed": {"epoch": self._known, "seconds": untold + self._run.seconds}}

    def _saved_state(self, device: torch.device) -> dict[str, Any] | None:
        if self._at_uri is None:
            return checkpoint.load(self._path, device)
        try:
            content = self._at_uri.get(objects.unfinished(self._trial))
        except OSError as error:  # the trial begins anew: a storage that fails stops no study
            self._aside["unsaved"] = first_line(error)
            return None
        return None if content is None else checkpoint.unpack(content, device)

    def _reported(self, epoch: dict[str, Any]) -> dict[str, Any]:
        self._known = epoch["epoch"]
        done = self._known == self._trial.epochs
        if done and self._trial.phase in validation.PHASES:
            assert self._run is not None
            self._aside["correct"] = self._run.correct()
        return {"epoch": epoch, "done": done}

    def _save(self, *, final: bool = False) -> None:
        assert self._run is not None
        began = time.monotonic()
        try:
            content = checkpoint.pack({"measures": self._measures, **self._run.state(final=final)})
            if self._at_uri is None:
                checkpoint.save(self._path, content)
                if final:
                    checkpoint.keep_only(self._path)
            elif final:
                self._aside["net"] = content
            else:
                self._at_uri.put(objects.unfinished(self._trial), content)
        except OSError as error:
            if self._at_uri is None:
                raise _BlockedError(f"no checkpoint can be written: {error}") from error
            self._aside["unsaved"] = first_line(error)
        finally:
            self._saved = time.monotonic()
            took = self._saved - began
            self._writing += took
            self._pause = max(SETTINGS.checkpoint_seconds, took / CHECKPOINT_SHARE)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune asks for it when the study stops; it goes to the study's own place, not to Tune's."""
        del checkpoint_dir
        if self._run is not None and self._run.epoch < self._trial.epochs:
            self._save()

    def cleanup(self) -> None:
        self._run = None

    def _let_go(self) -> None:
        """Give back the memory; when the error is gone, which holds the net and what it had computed."""
        self.cleanup()
        give_back(self._device or torch.device("cpu"))


class OtherGpuError(StudyError):
    """This node's GPU is another model than the one that the study was measured on."""


class _BlockedError(Exception):
    """The run directory cannot be written: as with an image that is gone, nothing that a trial could do about it."""
