"""A made study with real nets in its folder: untrained, but stored, scored and to be loaded as trained ones are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import search_spaces
from study.data.images import Images
from study.data.sealed import Prepared, unseal
from study.data.weights import write_seen
from study.execution.final_test import probabilities_of
from study.protocol import metrics
from study.protocol.ledger import read
from study.protocol.plan import Plan
from study.protocol.records import Record, Scored
from study.protocol.rundir import RunDir
from study.training import checkpoint
from study.training.augment import normalise
from study.training.loop import build
from study.training.trial import image_spec
from support.edited import edit
from support.synthetic import write_run


def with_nets(folder: Path, prepared: Prepared, arms: tuple[str, str]) -> RunDir:
    """``write_run``'s study of these arms and images; its confirmation runs' nets have random weights and statistics."""
    card = prepared.card
    run = RunDir(write_run(folder, arms=arms, images=card.test, classes=len(card.classes), runs=2))
    plan = Plan.load(run.plan)
    plan = replace(plan, data=replace(card, train=plan.data.train))  # as many searches as before
    plan.save(run.plan)
    history = read(run.ledger)
    prepared.seal(run.sealed)
    write_seen(run.images, prepared, [])
    test = unseal(run.sealed, history.manifests[-1])
    scores: dict[str, float] = {}
    run.checkpoints.mkdir()
    for trial in history.trials.values():
        if trial.id not in history.scores:
            continue
        if trial.phase == "confirm":
            content = _weights(plan, trial.arm, test, seed=trial.seed)
            checkpoint.save(run.checkpoint(trial.id), content)
            soft = probabilities_of(plan, trial.arm, trial.config, content, test)
        else:
            soft = np.full((len(test), len(card.classes)), 1 / len(card.classes), dtype=np.float32)
        named = soft.argmax(axis=1)
        np.savez(
            run.prediction(trial.id), labels=test.labels, predictions=named, names=np.array(test.names),
            log_probabilities=metrics.log_probabilities(soft),
        )  # fmt: skip
        scores[trial.id] = float((named == test.labels).mean())

    def rescored(record: Record) -> Record:
        return replace(record, test_accuracy=scores[record.trial]) if isinstance(record, Scored) else record

    edit(run.ledger, rescored)
    return run


def _weights(plan: Plan, arm: str, images: Images, *, seed: int) -> bytes:
    """Random, but with statistics and a last layer that fit the images, so that several classes are named."""
    net = build(
        search_spaces.load(arm, plan.recipe), {}, image_spec(plan.data), seed=seed, device=torch.device("cpu")
    )
    pixels = normalise(torch.from_numpy(images.pixels).float())
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.normal_(generator=torch.Generator().manual_seed(seed))  # some begin at zero
        net.train()(pixels)
        logits = net.eval()(pixels)
        last.weight.mul_(2 / logits.std(dim=0)[:, None])
        last.bias.sub_(net(pixels).mean(dim=0))
    return checkpoint.pack({"net": net.state_dict()})
