"""Studies kept at a URI: file://, and real S3 (moto) and Google storage servers on loopback.

The driver is killed with -9 and its folder removed; the study resumes elsewhere with the same result.
"""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from faults.ground import ARMS, CLOCKED, LIMIT, Ground, check_same, prepare_ground, run_out
from support.a_ledger import a_trial, an_epoch, an_outcome
from support.edited import chained
from support.folders import data, refused, the_same
from support.pictures import fill
from support.plans import PLAN
from support.synthetic import write_run

from analysis.__main__ import main as analyse
from analysis.report import build
from study.__main__ import main as study_word
from study.cli import parse
from study.data import ahead
from study.protocol.errors import InputError, LedgerError
from study.protocol.ledger import Ledger, read
from study.protocol.plan import Plan
from study.session import open_run, place_of
from study.storage import lease, sync
from study.storage.fetch import fetch, home_of, refresher
from study.storage.objects import Storage, unfinished
from study.storage.sync import Mirror

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-secret"
SYNC = 1.0
"""Seconds between two uploads in the broken studies."""


@dataclasses.dataclass(frozen=True)
class Server:
    """An S3 server with a bucket named ``bucket``."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def uri(self, folder: str) -> str:
        return f"s3://bucket/{folder}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def post(self, path: str, body: str = "", method: str = "POST") -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.url + path, body.encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=20):
            pass


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[Server]:
    """Run a module's server; ``PORT`` in its arguments becomes a free port. There is no bucket yet."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *(str(port) if a == "PORT" else a for a in arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        yield Server(port)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("moto.server", "-H", "127.0.0.1", "-p", "PORT") as made:
        made.post("/bucket", method="PUT")
        yield made


@pytest.fixture(scope="module")
def of_google() -> Iterator[Server]:
    given = ("start", "--host=127.0.0.1", "--port", "PORT", "--in-memory", "--default-bucket=bucket")
    with serving("gcp_storage_emulator", *given) as made:
        yield made


@pytest.fixture(autouse=True)
def _user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user in their own folder, with keys in the environment and short upload rounds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(lease, "SYNC_SECONDS", 0.2)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(sync, "CLOSE_SECONDS", 0.0)


@pytest.fixture(params=["s3", "gs", "file"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/share/first"
    if request.param == "gs":
        port = request.getfixturevalue("of_google").port
        return f"gs://anonymous@bucket/{tmp_path.name}/first?endpoint_override=127.0.0.1:{port}&scheme=http"
    server: Server = request.getfixturevalue("server")
    return server.uri(f"{tmp_path.name}/first")


def begin(uri: str) -> Path:
    """A run's folder that holds only its plan."""
    home = home_of(uri)
    home.mkdir(parents=True)
    PLAN.save(home / "plan.json")
    return home


def soon(true: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_objects_come_back_whole_and_can_be_listed_and_deleted(uri: str) -> None:
    at, began = Storage(uri), time.time()
    assert at.files() == {}
    assert at.get("plan.json") is None
    big = os.urandom(12 * 2**20)  # a multipart upload
    at.put("nets/one.pt", big)
    at.put("plan.json", b"first")
    at.put("plan.json", b"second")
    assert at.get("nets/one.pt") == big
    assert at.get("plan.json") == b"second"
    listed = at.files()
    assert {name: stored.size for name, stored in listed.items()} == {"nets/one.pt": len(big), "plan.json": 6}
    assert began - 2 <= listed["plan.json"].mtime <= time.time() + 2
    assert at.files("nets").keys() == {"nets/one.pt"}
    at.delete("nets/one.pt")
    at.delete("nets/one.pt")
    assert at.files().keys() == {"plan.json"}


def refusal(capsys: pytest.CaptureFixture[str], flags: list[str]) -> str:
    """The error text for these flags."""
    try:
        request = parse(flags)
    except SystemExit as ended:
        assert ended.code == 2
        return capsys.readouterr().err
    with (
        pytest.raises(InputError) as refused,
        open_run(request, place_of(request), print),
    ):
        pass
    return str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("ftp://host/folder", "ftp:// is no storage; there are s3://BUCKET/FOLDER"),
        ("s3://", "names no folder"),
        ("s3://bucket", "s3://BUCKET/FOLDER"),
        ("s3:///folder", "s3://BUCKET/FOLDER"),
        ("file://folder/run", "file:///FOLDER"),
        (f"s3://me:{SECRET}@bucket/folder", "set AWS_ACCESS_KEY_ID"),
        (f"gs://me:{SECRET}@bucket/folder", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://bucket", "gs://BUCKET/FOLDER"),
        (
            "gs://anonymous@bucket/folder?scheme=http&endpoint_override=127.0.0.1:9&retry_limit_seconds=1",
            "connect",
        ),
        ("s3://bucket/folder?scheme=http&endpoint_override=127.0.0.1:9", "Could not connect"),
        ("s3://bucket/folder?endpoint=127.0.0.1:9", "endpoint"),
    ],
)
def test_a_uri_that_cannot_work_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, given: str, says: str
) -> None:
    for flags in (["--budget", "1cpu-hours", "--data", "digits", "--out", given], ["--resume", given]):
        said = refusal(capsys, flags)
        assert says in said
        assert SECRET not in said
    assert not list(tmp_path.rglob("*"))


def test_a_missing_bucket_or_permission_is_refused_before_measuring(server: Server) -> None:
    missing = server.uri("x").replace("bucket", "nobody")
    with (
        pytest.raises(InputError, match=r"bucket does not exist.*takes a bucket"),
        Mirror(missing, print, goes_on=False),
    ):
        pass
    server.post("/moto-api/reset-auth", "0")  # from now on the server checks keys, and knows none
    try:
        with (
            pytest.raises(InputError, match=r"cannot be used: .*AWS_ACCESS_KEY_ID") as refused,
            Mirror(server.uri("y"), print, goes_on=False),
        ):
            pass
        assert SECRET not in str(refused.value)
    finally:
        server.post("/moto-api/reset-auth", "inf")


def test_existing_objects_are_left_alone(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--budget", "1cpu-hours", "--data", "digits", "--out", uri]
    Storage(uri).put("mine.txt", b"precious")
    for says in ("something else", "python -m analysis"):
        assert says in refusal(capsys, flags)
        Storage(uri).put("plan.json", b"{}")
    assert "no study" in refusal(capsys, ["--resume", uri.replace("first", "of-nobody")])
    assert Storage(uri).files().keys() == {"mine.txt", "plan.json"}


def test_files_are_uploaded_before_the_ledger_names_them(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home, trial, order = begin(uri), a_trial(), list[str]()
    put = Storage.put

    def noted(self: Storage, name: str, content: bytes) -> None:
        order.append(name)
        put(self, name, content)

    monkeypatch.setattr(Storage, "put", noted)
    with Mirror(uri, print, goes_on=False) as kept, Ledger(home / "ledger.jsonl") as ledger:
        kept.follow(ledger)
        ledger.add(trial)
        Storage(uri).put(unfinished(trial), b"a worker wrote it")
        for name in ("checkpoints/x.pt", "predictions/x.npz", "checkpoints/y.pt.1.partial", ".tune/state"):
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_bytes(b"net")
        assert kept.sync()
        assert unfinished(trial) in Storage(uri).files()
        ledger.add(an_epoch(trial, 1, 1.0))
        ledger.add(an_outcome(trial, 2.0))
        (home / "checkpoints" / "x.pt").unlink()
        assert kept.sync()
        assert Storage(uri).files().keys() == {".claimed", "plan.json", "predictions/x.npz", "ledger.jsonl"}
    assert Storage(uri).files().keys() == {"plan.json", "predictions/x.npz", "ledger.jsonl"}
    assert Storage(uri).get("ledger.jsonl") == (home / "ledger.jsonl").read_bytes()
    first = order.index("ledger.jsonl")
    assert {"plan.json", "checkpoints/x.pt", "predictions/x.npz"} <= set(order[:first])
    assert order.count("predictions/x.npz") == 1


def test_a_checkpoint_belongs_to_one_record() -> None:
    trial = a_trial()
    other = dataclasses.replace(trial, config={**trial.config, "lr": 0.2})
    assert unfinished(trial) != unfinished(other)
    assert unfinished(trial) == unfinished(a_trial())


def test_a_second_driver_is_refused_and_a_dead_ones_study_is_taken_over(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(uri)
    said: list[str] = []
    with Mirror(uri, said.append, goes_on=False) as first:
        with (
            pytest.raises(InputError, match=rf"written by process {os.getpid()} on \S+, since 20\d\d-.* UTC"),
            Mirror(uri, said.append, goes_on=True),
        ):
            pass
        assert first.sync()
        monkeypatch.setattr(lease, "SYNC_SECONDS", 1e6)
        first._stop.set()  # as for a frozen process or a cut cable: no heartbeat
        first._thread.join()
        monkeypatch.setattr(lease, "SYNC_SECONDS", 0.2)
        before = Storage(uri).get("ledger.jsonl")
        with Mirror(uri, said.append, goes_on=True) as second:
            (home_of(uri) / "ledger.jsonl").write_text("what the first one wrote meanwhile\n")
            assert not first.sync()
            assert Storage(uri).get("ledger.jsonl") == before
            with pytest.raises(LedgerError, match=f"taken over by process {os.getpid()} on"):
                first.check()
            (home_of(uri) / "ledger.jsonl").unlink()
            assert second.sync()
            second.check()
    assert ".claimed" not in Storage(uri).files()


def lines(count: int) -> list[str]:
    return chained(map(a_trial, range(count))).splitlines(keepends=True)


@pytest.mark.parametrize(
    ("here", "there", "then", "aside"),
    [
        ("", "ab", "ab", False),
        ("a", "ab", "ab", False),
        ("abc", "ab", "abc", False),
        ("abc", "ab-torn", "abc", False),
        ("ab", "ab", "ab", False),
        ("ac", "ab", "ab", True),
    ],
)
def test_the_longer_ledger_wins_and_the_stored_one_where_they_diverge(
    uri: str, here: str, there: str, then: str, aside: bool
) -> None:
    words = {letter: line.encode() for letter, line in zip("abc", lines(3), strict=True)}

    def text(letters: str) -> bytes:
        whole, _, torn = letters.partition("-")
        return b"".join(words[letter] for letter in whole) + torn.encode()

    PLAN.save(Path("plan.json"))
    Storage(uri).put("plan.json", Path("plan.json").read_bytes())
    Storage(uri).put("ledger.jsonl", text(there))
    Storage(uri).put("checkpoints/t.pt", b"net")
    Storage(uri).put("unfinished/u.0.pt", b"only a worker asks for it")
    if here:
        home = begin(uri)
        (home / "ledger.jsonl").write_bytes(text(here))
    said: list[str] = []
    home = fetch(uri, nets=False, say=said.append)
    assert (home / "ledger.jsonl").read_bytes() == text(then)
    assert len(list(home.parent.glob("*.before-*"))) == aside == len(said)
    assert not (home / "checkpoints").exists()
    fetch(uri, nets=True)
    assert (home / "checkpoints" / "t.pt").read_bytes() == b"net"
    assert not (home / "unfinished").exists()


def test_a_name_that_leaves_the_folder_is_refused(server: Server, tmp_path: Path) -> None:
    server.post("/bucket/evil/run/plan.json", "{}", method="PUT")
    server.post("/bucket/evil/run/figures/%2E%2E/%2E%2E/%2E%2E/stolen", "x", method="PUT")
    with pytest.raises(InputError, match="no study wrote"):
        fetch(server.uri("evil/run"))
    assert not list(tmp_path.rglob("stolen"))


def test_a_failing_storage_is_reported_once_and_missing_files_can_be_copied(tmp_path: Path) -> None:
    uri, said = f"file://{tmp_path}/share/first", list[str]()
    home, share = begin(uri), tmp_path / "share"
    with Mirror(uri, said.append, goes_on=False) as kept, Ledger(home / "ledger.jsonl") as ledger:
        assert kept.sync()
        share.rename(tmp_path / "unplugged")
        share.touch()  # blocks the upload
        ledger.add(a_trial())
        soon(lambda: said)
        assert not kept.sync()
        assert len(said) == 1
        assert "cannot be written" in said[0]
        assert f"goes on in {home}" in said[0]
        share.unlink()
        (tmp_path / "unplugged").rename(share)
        soon(lambda: len(said) == 2)
        assert "again" in said[1]
        assert Storage(uri).get("ledger.jsonl") == (home / "ledger.jsonl").read_bytes()
        share.rename(tmp_path / "unplugged")
        share.touch()
        ledger.add(a_trial(1))
        (home / "report.html").write_text("the end")
    assert said[-1].startswith(f"not yet at {uri}: ledger.jsonl, report.html; it is in {home}")
    assert said[-1].endswith(f"python -m study copy {uri}")
    share.unlink()
    (tmp_path / "unplugged").rename(share)
    sync.copy(uri, said.append)
    assert said[-1] == f"all of it is at {uri}"
    assert Storage(uri).get("ledger.jsonl") == (home / "ledger.jsonl").read_bytes()
    assert Storage(uri).get("report.html") == b"the end"
    assert ".claimed" not in Storage(uri).files()


def test_a_finished_run_is_read_from_its_uri(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_run(tmp_path / "made")
    for file in (p for p in made.rglob("*") if p.is_file()):
        Storage(uri).put(file.relative_to(made).as_posix(), file.read_bytes())
    assert analyse([uri]) == 0
    headline, path = capsys.readouterr().out.splitlines()[-2:]
    assert path == str(home_of(uri) / "report.html")
    assert build.write(made).headline == headline
    assert (made / "report.html").read_bytes() == Path(path).read_bytes()
    assert study_word(["status", uri]) == 0
    assert capsys.readouterr().out.startswith(f"{uri}: finished")
    assert analyse([uri.replace("first", "second")]) == 2
    assert "no study" in capsys.readouterr().err
    assert study_word(["copy", uri.replace("first", "second")]) == 2
    assert "this machine has nothing" in capsys.readouterr().err


def test_the_ledger_of_a_fetched_run_is_brought_up_to_date_and_never_back(uri: str, tmp_path: Path) -> None:
    source = write_run(tmp_path / "source")
    whole = (source / "ledger.jsonl").read_bytes()
    there = Storage(uri)
    there.put("plan.json", (source / "plan.json").read_bytes())
    there.put("ledger.jsonl", whole[:3000])
    ours = fetch(uri) / "ledger.jsonl"
    there.put("ledger.jsonl", whole)
    refresh = refresher(uri, every=0.0)
    refresh()
    assert ours.read_bytes() == whole
    there.put("ledger.jsonl", whole[:3000])
    refresh()
    assert ours.read_bytes() == whole


def test_a_study_that_never_began_leaves_nothing_at_its_uri(uri: str, tmp_path: Path) -> None:
    flags = ["--budget", "1cpu-hours", "--data", "folder:nowhere", "--out", uri]
    done = subprocess.run(
        [sys.executable, str(ROOT / "study" / "run.py"), *flags], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "nowhere" in done.stderr
    assert Storage(uri).files() == {}
    assert not list((tmp_path / "runs").iterdir())


# -- real studies


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return prepare_ground(tmp_path_factory.mktemp("user"), budget=110.0, sync_seconds=SYNC)


@pytest.fixture(scope="module")
def undisturbed(ground: Ground) -> Path:
    home = ground.begin("undisturbed", slots=1)
    run_out(ground, home)
    return home


def session(
    ground: Ground, server: Server, uri: str, *flags: str, hidden: str = ""
) -> "subprocess.Popen[str]":
    """Resume the study at ``uri``; ``hidden``: in a folder invisible to other processes of this machine."""
    study = [sys.executable, CLOCKED, "--resume", uri, *flags]
    if hidden:
        script = 'mkdir -p "$0" && mount -t tmpfs none "$0" && exec "$@"'
        study = ["unshare", "--mount", "bash", "-c", script, hidden, *study]
    return subprocess.Popen(
        study, cwd=ground.repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**ground.environment, "AWS_ENDPOINT_URL": server.url},
    )  # fmt: skip


def ends(study: "subprocess.Popen[str]") -> str:
    output, _ = study.communicate(timeout=LIMIT)
    assert study.returncode == 0, output
    assert "Traceback" not in output
    return output


def words(ground: Ground, repo: Path, server: Server, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=repo, env={**ground.environment, "AWS_ENDPOINT_URL": server.url},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_a_study_resumes_from_its_bucket_on_another_machine(
    ground: Ground, undisturbed: Path, server: Server, tmp_path: Path
) -> None:
    uri, at = "s3://bucket/studies/first", Storage(server.uri("studies/first"))
    home = ground.repo / home_of(uri)
    at.put("plan.json", (undisturbed / "plan.json").read_bytes())
    study = session(ground, server, uri)
    epochs = sum(map(len, read(undisturbed / "ledger.jsonl").epochs.values()))
    grown: list[tuple[float, int]] = []
    ledger = home / "ledger.jsonl"

    def half_done() -> bool:
        """Kill the study during a trial with a checkpoint in the bucket."""
        there = ledger.exists() and ledger.read_bytes().count(b'"record":"Epoch"') > epochs // 2
        return there and any(name.startswith("unfinished/") for name in at.files())

    while not half_done():
        assert study.poll() is None and (not grown or time.monotonic() < grown[0][0] + LIMIT), (
            study.communicate()
        )
        grown.append((time.monotonic(), ledger.stat().st_size if ledger.exists() else 0))
        time.sleep(0.05)
    study.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    study.communicate()
    kept = at.get("ledger.jsonl") or b""
    assert ledger.read_bytes().startswith(kept)
    assert len(kept) >= [size for when, size in grown if when < killed - SYNC - 2][-1] > 0
    shutil.rmtree(ground.repo / "runs")
    output = ends(session(ground, server, uri))
    assert "going on" in output
    assert f"all of it is at {uri}" in output
    check_same(home, undisturbed)
    history = read(ledger)
    stored = at.files()
    assert not [name for name in stored if name.startswith((".", "unfinished/"))]
    assert {Path(name).stem for name in stored if name.startswith("checkpoints/")} == set(history.scores)
    assert {Path(name).stem for name in stored if name.startswith("predictions/")} == set(history.scores)
    assert at.get("ledger.jsonl") == ledger.read_bytes()
    assert at.get("report.html") == (home / "report.html").read_bytes()
    for each in (p for p in home.rglob("*") if p.is_file()):
        assert SECRET.encode() not in each.read_bytes(), each
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(ground.repo, elsewhere, ignore=shutil.ignore_patterns("runs", "undisturbed"))
    assert f"{home_of(uri)}/report.html" in words(ground, elsewhere, server, "analysis", uri)
    assert (elsewhere / home_of(uri) / "report.html").read_bytes() == at.get("report.html")
    assert f"{uri}: finished" in words(ground, elsewhere, server, "study", "status", uri)
    assert "weights.safetensors" in words(ground, elsewhere, server, "study", "export", uri, ARMS[0])


@pytest.mark.slow
@pytest.mark.hosts
@pytest.mark.usefixtures("rays_leftovers")
def test_nodes_share_only_the_bucket(
    ground: Ground, undisturbed: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes' processes cannot see the driver's folder."""
    from support.nodes import a_head

    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root, to hide a folder")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)  # the nodes have their own folder and keys
    uri = "s3://bucket/studies/apart"
    at = Storage(server.uri("studies/apart"))
    at.put("plan.json", (undisturbed / "plan.json").read_bytes())
    cluster = a_head(num_cpus=0)
    try:
        cluster.add_node(num_cpus=1)
        output = ends(
            session(ground, server, uri, "--address", cluster.address, hidden=str(ground.repo / "runs"))
        )
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    assert not [line for line in output.splitlines() if "note:" in line and "is left over" not in line]
    here = ground.repo / "apart"
    for name in at.files():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(at.get(name) or b"")
    check_same(here, undisturbed)


@pytest.mark.long
def test_a_study_ends_although_its_bucket_is_gone(ground: Ground, server: Server, tmp_path: Path) -> None:
    share, uri = tmp_path / "share", f"file://{tmp_path}/share/new"
    plan = ground.begin("asked", slots=2) / "plan.json"
    Storage(uri).put("plan.json", plan.read_bytes())
    study = subprocess.Popen(
        [sys.executable, "study/run.py", "--resume", uri],
        cwd=ground.repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + LIMIT
    while b'"Epoch"' not in (Storage(uri).get("ledger.jsonl") or b""):
        assert study.poll() is None and time.monotonic() < until, study.communicate()[0]
        time.sleep(0.2)
    share.rename(tmp_path / "unplugged")
    share.touch()
    output = ends(study)
    assert output.count("cannot be written") == 1
    assert f"python -m study copy {uri}" in output
    share.unlink()
    (tmp_path / "unplugged").rename(share)
    assert f"all of it is at {uri}" in words(ground, ground.repo, server, "study", "copy", uri)
    home = ground.repo / home_of(uri)
    assert (share / "new" / "report.html").read_bytes() == (home / "report.html").read_bytes()
    assert not list((share / "new").glob("unfinished/*"))
    assert Plan.load(share / "new" / "plan.json") == Plan.load(home / "plan.json")
    assert "finished" in words(ground, ground.repo, server, "study", "status", uri)


@pytest.mark.parametrize("uri", ["s3", "gs"], indirect=True)
def test_a_folder_of_a_bucket_is_the_same_study(uri: str, tmp_path: Path) -> None:
    """It is fetched once; one object more is another folder here, to which the others are linked."""
    fill(tmp_path / "images" / "train", {"ant": 9, "cat": 8})
    fill(tmp_path / "images" / "valid", {"ant": 3, "cat": 4})
    storage, images = Storage(uri), sorted((tmp_path / "images").rglob("*.png"))
    for file in images:
        storage.put(f"{file.relative_to(tmp_path / 'images')}", file.read_bytes())
    storage.put(".cache/x.png", b"")
    storage.put("weights.pt", b"large")
    ahead.check(["digits", uri], "")
    assert not (tmp_path / "downloads").exists()
    the_same(data(uri, tmp_path), tmp_path / "images")
    kept = {p: p.stat().st_ino for p in (tmp_path / "downloads").rglob("*.*")}
    assert len([p for p in kept if p.suffix]) == len(images)
    the_same(data(uri, tmp_path), tmp_path / "images")
    assert {p: p.stat().st_ino for p in (tmp_path / "downloads").rglob("*.*")} == kept
    storage.put("valid/cat/new.png", images[0].read_bytes())
    assert data(uri, tmp_path).card.test == 8
    after = [p for p in (tmp_path / "downloads").rglob("*.png") if p not in kept]
    assert len(after) == len(images) + 1
    assert len({p.stat().st_ino for p in after} - set(kept.values())) == 1


def test_a_bucket_that_gives_no_images(server: Server, tmp_path: Path) -> None:
    refused(server.uri("empty"), tmp_path, "holds no images")
    with pytest.raises(InputError, match="holds no images"):
        ahead.check(["digits", server.uri("empty")], "")
    refused("s3://key:secret@bucket/folder", tmp_path, "leave out the part up to the @")
    refused("s3://bucket", tmp_path, "names no folder of its own")
    refused(
        "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http",
        tmp_path,
        "cannot be used: .*credentials come from",
    )
