"""The only place that opens the sealed test set: once per look, after its manifest, for all its arms together."""

import io
import itertools
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import search_spaces
from study.data import pictures
from study.data.images import Images
from study.data.sealed import unseal
from study.data.weights import Content
from study.execution.tasks import run_tasks
from study.protocol import examples
from study.protocol.ledger import Ledger
from study.protocol.metrics import ACCURACY, Metric, log_probabilities
from study.protocol.plan import Plan
from study.protocol.records import Config, Cost, Scored, TestOpened, Trial, asdict
from study.protocol.rundir import RunDir, replacing
from study.protocol.selection import to_be_scored
from study.training.checkpoint import is_trained, keep_only, pack, remove, save
from study.training.device import device_of, give_back
from study.training.evaluation import predict
from study.training.loop import build
from study.training.trial import image_spec, placed, training


def open_test(
    plan: Plan,
    ledger: Ledger,
    pool: Images,
    run: RunDir,
    weights: Mapping[str, Content],
    *,
    keep_pictures: bool,
) -> None:
    """Score every kept net on the test set and store its predictions, ``predictions/<trial>.npz``.

    Each file has ``labels`` and ``predictions`` (images,) int64, ``log_probabilities`` (images, classes) float32, as ``metrics``
    clips them, and where the images are files their ``names`` (images,). The workers need not see the folder. The cost is booked
    per arm. After an interruption only the rest is scored: the ledger has the set of
    nets from the moment the test set was opened. A net whose file is gone, torn or older is trained again first, on ``pool``.
    ``keep_pictures``: small pictures of the images that the report shows are kept beside the predictions. With the last score
    the study is over, so all files are on disk before it.
    Raises InputError if the sealed file has changed, StudyError if a net cannot be scored.
    """
    manifest = ledger.manifests[-1]
    opened = next((o for o in ledger.opened if o.manifest == manifest.sha256), None)
    if opened is None:
        # arms in turn, so that each pays for as many starting processes as the others
        nets = [to_be_scored(ledger, arm) for arm in plan.arms]
        trials = [t for turn in itertools.zip_longest(*nets) for t in turn if t is not None]
    else:
        trials = [ledger.trials[t] for t in opened.trials]
    left = [t for t in trials if t.id not in ledger.scores]
    _tidy(ledger, run, {*ledger.scores, *(t.id for t in trials)})
    gone = [t for t in left if not is_trained(run.checkpoint(t.id), t.epochs)]
    _replace(plan, ledger, pool, run, weights, gone)
    test = unseal(run.sealed, manifest)
    if opened is None:
        ledger.add(TestOpened(manifest=manifest.sha256, trials=tuple(t.id for t in trials)))
    run.predictions.mkdir(exist_ok=True)
    images = ray.put(test)
    jobs = ((t.id, (plan, t.arm, t.config, run.checkpoint(t.id).read_bytes(), images)) for t in left)
    found = run_tasks(probabilities_of, jobs, plan.machine)
    for count, (trial_id, probabilities, held) in enumerate(found, start=1):
        predictions, logs = probabilities.argmax(1), log_probabilities(probabilities)
        _write(run.prediction(trial_id), test, predictions, logs)
        if count == len(left) and keep_pictures:
            scored = {*ledger.scores, trial_id}
            pictures.save(run.pictures, test, _to_show(plan, ledger, run, test, scored))
        elif count == len(left):
            run.pictures.unlink(missing_ok=True)
        ledger.add(Cost(arm=ledger.trials[trial_id].arm, phase="test", what=trial_id, cost=held))
        accuracy = float((predictions == test.labels).mean())
        ledger.add(
            Scored(trial=trial_id, test_accuracy=accuracy, score=_score(plan.judged, logs, test.labels))
        )


def _tidy(ledger: Ledger, run: RunDir, scored: Container[str]) -> None:
    """Leave no checkpoint but the final ones of nets that meet the test set, or met it at an earlier look."""
    for trial_id in ledger.trials:
        (keep_only if trial_id in scored else remove)(run.checkpoint(trial_id))


def _to_show(
    plan: Plan, ledger: Ledger, run: RunDir, test: Images, scored: Container[str]
) -> tuple[int, ...]:
    """Positions of the test images that the report shows."""
    named = {}
    for arm in plan.arms:
        if nets := examples.nets_to_show(ledger, arm, scored):
            named[arm] = np.stack([np.load(run.prediction(net))["predictions"] for net in nets])
    chosen = examples.choose(test.labels, named)
    return tuple(sorted({*chosen.differ, *chosen.missed}))


def _replace(
    plan: Plan,
    ledger: Ledger,
    pool: Images,
    run: RunDir,
    weights: Mapping[str, Content],
    gone: Sequence[Trial],
) -> None:
    """Train these nets again from their records, to the last digit; the cost is booked as lost."""
    if not gone:
        return
    run.checkpoints.mkdir(exist_ok=True)
    shared, begun = ray.put(pool), ray.put(dict(weights))
    holding: defaultdict[float, list[Trial]] = defaultdict(list)
    for trial in gone:
        holding[ledger.fraction(trial.id, plan)].append(trial)
    for fraction, trials in holding.items():
        jobs = [(t.id, (plan, t, shared, fraction, begun)) for t in trials]
        slots = plan.machine.slots // plan.machine.slots_of(fraction)
        machine = replace(plan.machine, fraction=fraction, slots=slots)
        for trial_id, net, held in run_tasks(train_again, jobs, machine):
            save(run.checkpoint(trial_id), net)
            what = f"{trial_id} trained again: its weights were gone"
            ledger.add(Cost(arm=ledger.trials[trial_id].arm, phase="lost", what=what, cost=held))


def train_again(
    plan: Plan, trial: Trial, pool: Images, fraction: float, weights: Mapping[str, Content]
) -> bytes:
    """The checkpoint of a finished trial, trained on the ``fraction`` that it held at the end."""
    device = device_of(plan.machine, fraction)
    run = training(plan, trial, pool, device, weights)
    measures = [asdict(epoch) for epoch in run.epochs()]
    packed = pack({"measures": measures, **run.state(final=True)})
    del run
    give_back(device)
    return packed


def probabilities_of(
    plan: Plan, arm: str, config: Config, weights: bytes, test: Images
) -> "np.ndarray[Any, Any]":
    """Class probabilities, float32 (images, classes), of the net whose checkpoint is ``weights``."""
    device = device_of(plan.machine)
    layout = plan.audits[arm].layout(config)
    net = build(
        search_spaces.load(arm, plan.recipe),
        config,
        image_spec(plan.data),
        seed=0,
        device=device,
        channels_last=layout,
    )
    net.load_state_dict(torch.load(io.BytesIO(weights), map_location=device, weights_only=True)["net"])
    found = predict(net, placed(test, device), torch.arange(len(test), device=device)).cpu().numpy()
    del net
    give_back(device)
    return found


def _score(metric: Metric, logs: Any, labels: Any) -> float | None:
    """None where the metric is accuracy, which has its own field."""
    if metric is ACCURACY:
        return None
    return float(metric.sampling(labels).mean(metric.scores(logs, labels)))


def _write(path: Path, test: Images, predictions: Any, logs: Any) -> None:
    """Write the file, whole or not at all."""
    arrays: dict[str, Any] = {"names": np.array(test.names)} if test.names else {}
    arrays |= {} if test.groups is None else {"groups": test.groups}
    arrays |= {"labels": test.labels, "predictions": predictions}
    with replacing(path) as file:
        np.savez_compressed(file, **arrays, log_probabilities=logs)
