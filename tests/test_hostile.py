"""Foreign or edited run directories: refused in one line, and nothing outside is touched."""

import dataclasses
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from support.edited import append, chained, edit
from support.synthetic import write_run

from analysis.__main__ import main
from study.__main__ import main as study_command
from study.protocol.consistency import check, load, plan_hash
from study.protocol.errors import LedgerError, StudyError
from study.protocol.ledger import Ledger, read
from study.protocol.plan import Plan
from study.protocol.records import Cost, Epoch, Manifest, Outcome, Record, Session, Trial, Tuning
from study.protocol.rundir import RunDir
from study.run import main as study_main
from study.signals import SIGNALS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", images=50, runs=2)


def refused(capsys: pytest.CaptureFixture[str], run: Path) -> str:
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "name", ["report.html", "ledger.jsonl", "plan.json", "figures", "predictions/x.npz", ".claimed"]
)
def test_nothing_is_written_or_read_through_a_link(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    assert "is a link" in refused(capsys, run)
    if name == "ledger.jsonl":
        with pytest.raises(LedgerError, match="cannot be written"):
            Ledger(run / name)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["plan.json", "ledger.jsonl", "pictures.npz", ".claimed"])
def test_a_pipe_is_no_file(run: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert "is not a file" in refused(capsys, run)


@pytest.mark.parametrize("name", ["../../../victim", "/victim", "a/b", "", ".hidden", "a\0b", "n" * 300])
def test_a_trial_names_no_file_elsewhere(run: Path, name: str) -> None:
    trial = next(iter(read(run / "ledger.jsonl").trials.values()))
    append(run / "ledger.jsonl", dataclasses.replace(trial, id=name))
    with pytest.raises(LedgerError, match="line .*(cannot name a file|control characters)"):
        read(run / "ledger.jsonl")


EDITS: dict[str, Callable[[Trial], Record]] = {
    "no arm or pair": lambda trial: dataclasses.replace(trial, id="x", arm="other"),
    "is of no arm or pair": lambda trial: dataclasses.replace(trial, id="x", pair=99),
    "another length": lambda trial: dataclasses.replace(trial, id="x", epochs=10**9),
    "a cost of 'other'": lambda _: Cost(arm="other", phase="test", what="scoring", cost=1.0),
    "the tuning share": lambda _: Tuning(per_arm=1.0, slice_runs=1, full_run={"resnet8": 1.0}),
}


@pytest.mark.parametrize("why", EDITS)
def test_a_record_of_no_such_study_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    trial = next(iter(read(run / "ledger.jsonl").trials.values()))
    append(run / "ledger.jsonl", EDITS[why](trial))
    assert why in refused(capsys, run)
    with pytest.raises(LedgerError, match=why):
        check(read(run / "ledger.jsonl"), Plan.load(run / "plan.json"))


def test_a_trial_that_finished_has_all_its_epochs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = read(run / "ledger.jsonl")
    trial = dataclasses.replace(next(iter(history.trials.values())), id="x")
    first = dataclasses.replace(next(iter(history.epochs.values()))[0], trial="x")
    end = Outcome(trial="x", state="finished", reason="full length", epochs=9, cost=first.cost)
    append(run / "ledger.jsonl", trial, first, end)
    assert "trial x is of another length" in refused(capsys, run)


def test_a_bomb_is_not_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An archive that claims more than half of the machine's memory, as 6 MB of zeros can."""
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, labels=np.arange(4), predictions=np.arange(4))
    stated = (2**32 - 2).to_bytes(4, "little")
    packed = bytearray(bomb.read_bytes())
    place = 0
    while (place := packed.find(b"PK\x01\x02", place)) >= 0:
        packed[place + 24 : place + 28] = stated
        place += 4
    directory = packed.find(b"PK\x01\x02")
    entries = bytes(packed[directory : packed.find(b"PK\x05\x06")])
    many = 2 + os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**32
    end = bytearray(packed[packed.find(b"PK\x05\x06") :])
    end[8:12] = (2 * many).to_bytes(2, "little") * 2
    end[12:16] = (many * len(entries)).to_bytes(4, "little")
    bomb.write_bytes(bytes(packed[:directory]) + many * entries + bytes(end))
    assert main(["compare", str(bomb), str(bomb)]) == 2
    assert "too large for this machine's memory" in capsys.readouterr().err


def test_a_tools_own_links_are_allowed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """W&B makes links in its folder."""
    (run / "wandb" / "offline-run-1").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("offline-run-1")
    RunDir(run).check_files()
    (run / "predictions" / "wandb").mkdir()
    (run / "predictions" / "wandb" / "x").symlink_to("/tmp")
    assert "is a link" in refused(capsys, run)


def test_a_plan_that_was_edited_after_the_study_began_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A margin chosen after the result could give any verdict."""
    session = Session(plan=plan_hash(RunDir(run)), code={}, versions={}, accepted="")
    append(run / "ledger.jsonl", session)
    load(RunDir(run))
    dataclasses.replace(Plan.load(run / "plan.json"), rope=0.15).save(run / "plan.json")
    assert "not the one that the study began with" in refused(capsys, run)
    for words in (["status", str(run)], ["export", str(run), "resnet8"], ["log", str(run), "--to", "optuna"]):
        assert study_command(words) == 2
        assert "not the one that the study began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["auto", "h:\N{SUPERSCRIPT TWO}", "n" * 70 + ":80", "127.0.0.1:99999", ":1"]
)
def test_an_invalid_address_is_one_sentence(address: str) -> None:
    from study.execution.cluster import knock

    with pytest.raises(StudyError, match="no HOST:PORT|cannot be reached"):
        knock(address)


@pytest.fixture
def unhandled(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Undo the command's changes to its process."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield monkeypatch
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_ledger_stays_though_the_plan_beside_it_is_gone(run: Path) -> None:
    before = (run / "ledger.jsonl").read_bytes()
    (run / "plan.json").unlink()
    RunDir(run).discard_false_start()
    assert (run / "ledger.jsonl").read_bytes() == before


def test_a_full_disk_is_one_line_and_a_command_to_resume(
    run: Path, unhandled: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device", str(odd / "predictions"))

    odd = run.rename(run.with_name("a run"))
    unhandled.setattr("study.session.open_run", breaks)
    assert study_main(["--resume", str(odd), "--address", "127.0.0.1:6379", "--log", "optuna"]) == 3
    shown = capsys.readouterr()
    assert shown.err == f"error: {odd}/predictions: No space left on device\n"
    _, _, command = shown.out.partition("go on with: python study/run.py ")
    assert shlex.split(command) == [
        "--resume", str(odd), "--address", "127.0.0.1:6379", "--log", "optuna"
    ]  # fmt: skip


def test_control_sequences_are_shown_escaped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = (run / "plan.json").read_text().replace("resnet8", "[/b]")
    (run / "plan.json").write_text(body)
    (run / "ledger.jsonl").write_text("")
    assert study_command(["status", str(run)]) == 0
    assert "[/b]" in capsys.readouterr().out


def test_weights_of_something_else_are_no_traceback(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = (run / "plan.json").read_text().replace("resnet8", "tiny_resnet")
    (run / "plan.json").write_text(body)

    def renamed(record: Record) -> Record | None:
        if isinstance(record, Trial) and record.arm == "resnet8":
            return dataclasses.replace(record, arm="tiny_resnet")
        if isinstance(record, Manifest):
            named = {
                arm.replace("resnet8", "tiny_resnet"): choices for arm, choices in record.choices.items()
            }
            held = {arm.replace("resnet8", "tiny_resnet"): pair for arm, pair in record.in_hand.items()}
            return Manifest.of(named, held, look=record.look)
        return record if isinstance(record, Trial | Epoch | Outcome) else None

    edit(run / "ledger.jsonl", renamed)
    (run / "checkpoints").mkdir()
    for trial in read(run / "ledger.jsonl").full_length("tiny_resnet", "confirm"):
        torch.save({"net": {"odd": torch.zeros(1)}}, run / "checkpoints" / f"{trial.id}.pt")
    assert study_command(["export", str(run), "tiny_resnet"]) == 2
    assert "holds no weights of" in capsys.readouterr().err
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"\x80\x02ccollections\nOrderedDict\n)R.")
    assert study_command(["export", str(run), "tiny_resnet"]) == 2
    assert "there is no whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    "why", ["is being written by process", "line 2: not a record", "of no arm or pair", "other code"]
)
def test_a_study_that_cannot_resume_is_refused_first(
    run: Path, unhandled: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    """No command to resume is shown: it would fail in the same way."""
    unhandled.setattr("study.run._read_data", None)
    ledger, known = run / "ledger.jsonl", read(run / "ledger.jsonl")
    if why == "other code":
        session = Session(
            plan=plan_hash(RunDir(run)), code={"study/training/loop.py": "0"}, versions={}, accepted=""
        )
        ledger.write_text(chained([session]))
    if why == "line 2: not a record":
        ledger.write_text(chained([next(iter(known.trials.values()))]) + "rubbish\n")
    if why == "of no arm or pair":
        trial = dataclasses.replace(next(iter(known.trials.values())), arm="other")
        ledger.write_text(chained([trial]))
    with Ledger(ledger) if "written" in why else nullcontext():
        assert study_main(["--resume", str(run)]) == (2 if why == "other code" else 3)
    shown = capsys.readouterr()
    assert why in shown.err
    assert "go on with: " not in shown.out
