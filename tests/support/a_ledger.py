"""Records of one trial, for test ledgers."""

from study.protocol.records import (
    Epoch,
    Outcome,
    Trial,
)


def a_trial(number: int = 0) -> Trial:
    return Trial(
        id=f"tiny_resnet-search-{number:04d}",
        arm="tiny_resnet",
        phase="search",
        index=number,
        pair=0,
        config={"lr": 0.1, "augment": "none"},
        seed=1,
        fold=2,
        epochs=3,
    )


def an_epoch(trial: Trial, epoch: int, cost: float) -> Epoch:
    return Epoch(
        trial=trial.id,
        epoch=epoch,
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=1.1,
        val_accuracy=0.4,
        train_seconds=1.0,
        eval_seconds=0.1,
        cost=cost,
    )


def an_outcome(trial: Trial, cost: float) -> Outcome:
    return Outcome(trial=trial.id, state="finished", reason="full length", epochs=3, cost=cost)
