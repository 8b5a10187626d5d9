"""Messages between workers and driver arrive intact, end the right trials, and leave no payload behind."""

import pickle

import numpy as np
import pytest
from support.a_ledger import an_epoch
from support.training import a_trial

from study.execution.messages import (
    Alive,
    Assignment,
    Began,
    Blocked,
    Complete,
    Event,
    Failed,
    Message,
    Restored,
    Trained,
)
from study.protocol.validation import Kept

EPOCH = an_epoch(a_trial(epochs=3), 1, 0.0)


@pytest.mark.parametrize(
    ("event", "ends"),
    [
        (Began(node="n", process=1), False),
        (Alive(), False),
        (Restored(epoch=1, seconds=0.5), False),
        (Trained(epoch=EPOCH, last=False), False),
        (Trained(epoch=EPOCH, last=True), True),
        (Complete(), True),
        (Failed(reason="diverged: nan"), True),
        (Blocked(reason="a file is gone"), False),  # the trial waits to resume
    ],
)
def test_only_events_that_end_a_trial_end_it_for_tune(event: Event, ends: bool) -> None:
    result = pickle.loads(pickle.dumps(Message(trial="t", event=event).result()))
    assert result["done"] is ends
    message = Message.of(result)
    assert message is not None
    assert (message.trial, message.event) == ("t", event)


def test_a_payload_is_neither_logged_nor_kept() -> None:
    kept = Kept(np.ones(1000, dtype=np.bool_))
    message = Message(trial="t", event=Complete(), net=b"weights", kept=kept)
    assert "weights" not in repr(message)
    assert "True" not in repr(message)
    assert message.without_payload() == Message(trial="t", event=Complete())


def test_a_result_without_a_message_is_tunes_own() -> None:
    assert Message.of({"done": True}) is None
    assert Message.of(None) is None


def test_every_attempt_has_its_own_name() -> None:
    given = Assignment(trial=a_trial(epochs=3), epochs=0, again=False, fraction=1.0)
    assert Assignment.of(given.config()) == given
    names = [given.name, Assignment(trial=given.trial, epochs=1, again=True, fraction=1.0, attempt=2).name]
    assert names == [given.trial.id, f"{given.trial.id}.2"]
