"""Publishing and pulling: every file arrives, a message names absent files, and no work is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import snakemake.assets

from ppml.errors import UserError
from ppml.pipeline.dvc_remote import Objects
from ppml.pipeline.published_configs import published_configurations
from ppml.pipeline.pull import main as pull_main
from tests.workflow.clone import CONFIG, FILES, METRIC_FILES, Clone, error_of, run, stored, stored_list
from tests.workflow.project import ROOT

pytestmark = pytest.mark.usefixtures("isolated")

PULL = ("-m", "ppml.pipeline.pull")
MODEL = "artifacts/runs/fl/seed0/model.safetensors"


def damage(path: Path, content: bytes, mode: int = 0o444) -> None:
    """Write other bytes into an object, which DVC has write-protected."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


# --- complete remotes ------------------------------------------------------------------------------------------------


def test_clone_pulls_published_files(first: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    first.publish()
    printed = capsys.readouterr().out
    assert f"published {len(FILES)} files" in printed and str(first.folder.parent / "store") in printed
    assert "git add data.dvc artifacts.dvc reports && git commit" in printed
    changed = first.git("status", "--porcelain").splitlines()
    assert changed == ["?? artifacts.dvc", "?? data.dvc", "?? reports/provenance.json"]
    first.commit()

    other = first.clone()
    other.pull()
    assert other.files() == FILES
    printed = capsys.readouterr().out
    assert f"pulled {len(FILES)} files" in printed and f"all {len(FILES)} published files are in place" in printed
    assert "up to date" in other.dvc("status", "data.dvc", "artifacts.dvc")
    assert "up to date" in other.dvc("pull")
    assert other.git("status", "--porcelain") == ""

    # With all objects in the cache, the remote is not needed.
    shutil.rmtree(first.folder.parent / "store")
    shutil.rmtree(other.folder / "artifacts")
    other.pull()
    other.pull()
    assert other.files() == FILES


def test_second_publishing_sends_new_objects_only(published: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    published.publish()
    printed = capsys.readouterr().out
    assert ": 0 of 17 contents are new" in printed and "nothing to commit" in printed
    published.write({"artifacts/runs/dp/seed0/model.safetensors": b"new"})
    published.publish()
    assert ": 1 of 18 contents are new" in capsys.readouterr().out


def test_metrics_params_and_plots_compare_two_commits(published: Clone) -> None:
    published.write({"reports/metrics/fl.json": b'{"accuracy": {"mean": 0.5, "std": 0.01}, "seeds": 3}'})
    config = published.folder / "config/default.yaml"
    config.write_text(config.read_text().replace("0.06", "0.07"))
    published.commit()
    rows = [line.split() for line in published.dvc("metrics", "show").splitlines()]
    assert rows[0] == ["Path", "accuracy.mean", "accuracy.std", "seeds"]
    values = {path: "0.5" if path == "metrics/fl" else "0.97" for path in METRIC_FILES}
    assert sorted(rows[1:]) == sorted([f"reports/{path}.json", mean, "0.01", "3"] for path, mean in values.items())
    [line] = published.dvc("metrics", "diff", "HEAD^").splitlines()[1:]
    assert line.split()[:2] == ["reports/metrics/fl.json", "accuracy.mean"] and "0.5" in line
    [line] = published.dvc("params", "diff", "HEAD^").splitlines()[1:]
    assert line.split() == ["config/default.yaml", "arms.centralized.training.learning_rate", "0.06", "0.07"]
    published.dvc("plots", "diff", "HEAD^", "-o", "plots")
    page = (published.folder / "plots/index.html").read_text()
    for title in ("Accuracy of every arm", "Accuracy against epsilon", "Accuracy during training"):
        assert f'"text": "{title}' in page
    assert "<DVC_METRIC" not in page
    # Of the network there is only the fallback; the environment has the scripts (test below).
    sources = re.findall(r'<script src="([^"]+)"', page)
    assert sources[:3] == [f"../.venv/share/vega/{name}.js" for name in ("vega", "vega-lite", "vega-embed")]
    assert all("${name}" in source for source in sources[3:]) and "if (!window.vegaEmbed)" in page


def test_snakemake_has_the_scripts_of_plots() -> None:
    data = Path(snakemake.assets.__file__).parent / "data"
    assert {path.name for path in data.glob("vega*/vega*.js")} == {"vega.js", "vega-lite.js", "vega-embed.js"}


def test_dvc_repro_runs_the_workflow_and_keeps_the_lists(other: Clone) -> None:
    (other.folder / "Makefile").write_text("results:\n\techo run >> runs\n")
    for _ in range(2):
        other.dvc("repro")
    assert (other.folder / "runs").read_text() == "run\n" * 2
    assert other.git("status", "--porcelain").splitlines() == ["?? Makefile", "?? runs"]


def test_dvc_push_and_pull_work(published: Clone) -> None:
    published.write({MODEL: b"better"})
    assert "modified" in published.dvc("status")
    published.dvc("add", "-q", "data", "artifacts")
    assert "pushed" in published.dvc("push")
    other = published.clone()
    (other.folder / "artifacts.dvc").write_bytes((published.folder / "artifacts.dvc").read_bytes())
    other.dvc("pull", "-q")
    assert other.files() == {**FILES, MODEL: b"better"}


# --- incomplete remotes ----------------------------------------------------------------------------------------------


def test_pull_names_absent_files_and_places_others(published: Clone, other: Clone, store: Path) -> None:
    objects = {seed: stored(store, b"model %d" % seed) for seed in range(12)}
    objects[0].unlink()
    damage(objects[1], b"mod_l 1")
    damage(objects[2], b"mod_l 2", 0o644)
    damage(objects[3], b"mod")
    own = {"artifacts/runs/own/seed0/model.safetensors": b"own", "artifacts/notes.txt": b"own"}
    other.write(own)
    absent = {f"artifacts/runs/fl/seed{seed}/model.safetensors" for seed in range(4)}
    message = error_of(other.pull)
    assert f"4 of {len(FILES)} files did not come: not in the remote, or damaged" in message
    assert "It is set in .dvc/config" in message and message.splitlines()[-4:] == sorted(f"  {name}" for name in absent)
    available = {name: content for name, content in FILES.items() if name not in absent}
    assert other.files() == {**available, **own}
    published.publish()
    # The size shows the cut object alone: DVC asks for no checksum.
    for seed in (1, 2):
        objects[seed].unlink(missing_ok=True)
    published.publish()
    other.pull()
    assert other.files() == {**FILES, **own}


def test_damaged_object_in_cache_is_fetched_again(other: Clone) -> None:
    other.pull()
    shutil.rmtree(other.folder / "artifacts")
    damage(stored(other.folder / ".dvc/cache", b"model 7"), b"mod_l 7")
    other.pull()
    assert other.files() == FILES


def test_damaged_object_in_cache_is_not_published(published: Clone, store: Path) -> None:
    path = stored(published.folder / ".dvc/cache", b"model 7")
    damage(path, b"mod_l 7")
    stored(store, b"model 7").unlink()
    before = (published.folder / "artifacts.dvc").read_bytes()
    assert "`make publish` again" in error_of(published.publish)
    assert not stored(store, b"model 7").exists() and (published.folder / "artifacts.dvc").read_bytes() == before
    published.publish()
    assert path.read_bytes() == stored(store, b"model 7").read_bytes() == b"model 7"


def test_pull_without_list_changes_nothing(other: Clone, store: Path) -> None:
    stored_list(store, other, "artifacts").unlink()
    assert "the list of artifacts/ did not come: not in the remote" in error_of(other.pull)
    assert other.files() == {}


# --- unusable remotes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"url": "/no/such/folder"}, "there is no such folder"),
        ({"url": "ssh://alice@127.0.0.1:1/store"}, "Connect call failed"),
        ({"url": "http://127.0.0.1:1/store"}, "Connect call failed"),
        ({"url": "webdav://127.0.0.1:1/store"}, "Connection refused"),
        ({"url": "ssh://no-such-host.invalid/store"}, "(ssh://no-such-host.invalid/store): "),
        ({"url": "ssh://127.0.0.1:1/store", "keyfile": "/no/such/key"}, "its keyfile /no/such/key does not exist"),
        ({"url": "gs://bucket/store"}, "dvc-gs"),
    ],
)
def test_unusable_remote_is_named(other: Clone, settings: dict[str, str], reason: str) -> None:
    other.remote(**settings)
    problem, origin = error_of(other.pull).splitlines()
    assert problem.startswith("the DVC remote elsewhere (") and reason in problem
    assert origin.startswith("It is set in .dvc/config.local; ") and "dvc remote add --local -d NAME URL" in origin
    assert other.files() == {}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("[core]\n", "no DVC remote is set: "),
        ("[core]\nremote = gone\n", "the default remote gone is not defined: "),
        ("['remote \"x\"']\nurl = foo://x\n", ".dvc/config, .dvc/config.local or DVC's settings of the user: config "),
    ],
)
def test_missing_remote_is_named(other: Clone, settings: str, reason: str) -> None:
    (other.folder / ".dvc/config").write_text(settings)
    assert error_of(other.pull).startswith(reason)


def test_pull_before_publishing_is_refused(first: Clone) -> None:
    assert "no data.dvc and no artifacts.dvc" in error_of(first.pull)


def test_merge_conflict_is_named(published: Clone) -> None:
    path = published.folder / "data.dvc"
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}=======\n>>>>>>> other\n")
    for action in (published.pull, published.publish):
        message = error_of(action)
        assert message.startswith("data.dvc cannot be read; ") and "git checkout --ours data.dvc" in message


def test_message_contains_no_secret(other: Clone) -> None:
    other.remote(url="webdav://alice:s3cret@127.0.0.1:1/store?sig=t0ken", user="alice", password="pa55", token="t1ken")
    message = error_of(other.pull)
    assert "webdav://***@127.0.0.1:1/store?***" in message
    assert not any(secret in message for secret in ("s3cret", "t0ken", "pa55", "t1ken"))


@pytest.mark.parametrize("scheme", ["ssh", "webdav"])
@pytest.mark.parametrize("password", ["p@sswOrd9", "pa/sswOrd9", "pa/s@s:wOrd9"])
def test_message_contains_no_password_of_address(other: Clone, scheme: str, password: str) -> None:
    other.remote(url=f"{scheme}://alice:{password}@127.0.0.1:1/store")
    message = error_of(other.pull)
    assert f"{scheme}://***@127.0.0.1:1/store" in message and "wOrd9" not in message


def test_message_contains_no_line_of_invalid_settings(published: Clone) -> None:
    (published.folder / ".dvc/config.local").write_text("password hunter2\n")
    for action in (published.pull, published.publish):
        message = error_of(action)
        assert ".dvc/config.local" in message and "at line 1" in message and "hunter2" not in message


@pytest.mark.parametrize("place", [".snakemake", ".dvc/config.local", "artifacts/partitions"])
def test_unusable_place_is_one_line(published: Clone, place: str) -> None:
    path = published.folder / place
    if path.is_dir():
        shutil.rmtree(path)
    if "config" in place:
        path.mkdir()
    else:
        path.write_text("a file")
    done = run(published, *PULL)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr


# --- unpublished work ------------------------------------------------------------------------------------------------


def test_unpublished_work_is_not_replaced(published: Clone, other: Clone) -> None:
    own = {f"artifacts/runs/fl/seed{seed}/model.safetensors": b"own %d" % seed for seed in range(2)}
    other.write(own)
    message = error_of(other.pull)
    assert message.startswith("2 files differ from the published files; ")
    assert all(f"  {name}\n" in message for name in own)
    assert other.files() == own
    (other.folder / "artifacts").rename(other.folder / "own-artifacts")
    other.pull()
    assert other.files() == FILES


def test_work_during_transfer_is_not_replaced(other: Clone, monkeypatch: pytest.MonkeyPatch) -> None:

    def fetch_and_work(self: Objects, names: Iterable[str]) -> str:
        reason = fetch(self, names)
        other.write({MODEL: b"own"})
        return reason

    fetch = Objects.fetch
    monkeypatch.setattr(Objects, "fetch", fetch_and_work)
    assert f"  {MODEL}\n" in error_of(other.pull)
    assert other.files() == {MODEL: b"own"}


def test_folder_in_place_of_file_is_kept(other: Clone) -> None:
    other.write({f"{MODEL}/own": b"own"})
    assert f"  {MODEL}\n" in error_of(other.pull)
    assert other.files() == {f"{MODEL}/own": b"own"}


def test_earlier_version_is_replaced(published: Clone, other: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    other.pull()
    published.write({MODEL: b"better"})
    published.publish()
    published.commit()
    other.git("pull", "-q")
    other.pull()
    assert other.files() == {**FILES, MODEL: b"better"}
    assert "pulled 1 file, 1 in place of an earlier version" in capsys.readouterr().out


def test_uncommitted_work_in_cache_is_not_replaced(published: Clone) -> None:
    """`dvc pull` replaces such work: its object is in the cache."""
    published.write({MODEL: b"own"})
    published.remote(url="ssh://127.0.0.1:1/store")
    error_of(published.publish)
    published.dvc("add", "-q", "artifacts")
    published.git("checkout", "-q", "artifacts.dvc")
    assert f"  {MODEL}\n" in error_of(published.pull)
    assert published.files()[MODEL] == b"own"


# --- refused publishing ----------------------------------------------------------------------------------------------


def test_unfinished_tree_is_not_published(first: Clone, store: Path) -> None:
    lines = tuple(f"artifacts/runs/fl/seed{seed}/model.safetensors: missing" for seed in range(12))
    message = error_of(lambda: first.publish(lines))
    assert message.startswith("12 files missing or stale") and "`make results CONFIG=config/default.yaml`:\n" in message
    assert f"  {lines[0]}\n" in message and message.endswith("  and 2 more")
    assert not (first.folder / "data.dvc").exists() and not store.exists()


def test_failed_transfer_changes_no_dvc_file(first: Clone, store: Path) -> None:
    store.write_text("a file")
    assert error_of(first.publish).startswith("the DVC remote store (")
    assert not (first.folder / "data.dvc").exists()
    store.unlink()
    first.publish()
    first.commit()
    before = (first.folder / "artifacts.dvc").read_text()
    first.write({MODEL: b"better"})
    shutil.rmtree(store)
    store.write_text("a file")
    error_of(first.publish)
    assert (first.folder / "artifacts.dvc").read_text() == before


@pytest.mark.parametrize(
    "name",
    [
        *("data/raw/hospital/a.gz", "data/raw/a.csv", "data/patients.csv", "data/raw/mnist/patients.csv"),
        *("data/subsets/hospital-100-100-first-test/test.safetensors", "data/subsets/mnist-hospital/test.safetensors"),
        "data/subsets/mnist-100-100-first-test/patients.csv",
        "data/transformed/hospital-100-100-first-test/scattering-9-2024/train.safetensors",
        *("artifacts/key.pem", "artifacts/core.123", "artifacts/runs/fl/seed0/checkpoint.safetensors.bak"),
        *("artifacts/runs/fl/seed0/deep/model.safetensors", "artifacts/partitions/hospital/iid8/seed0.json"),
    ],
)
def test_other_files_are_not_published(first: Clone, name: str) -> None:
    first.write({name: b"private"})
    assert error_of(first.publish).endswith(f"\n  {name}")
    assert not (first.folder / "data.dvc").exists()
    with (first.folder / ".dvcignore").open("a") as file:
        file.write(f"/{name}\n")
    first.publish()
    first.commit()
    other = first.clone()
    other.pull()
    assert other.files() == FILES


def test_results_on_pictures_that_may_not_be_passed_on_are_published_alone(first: Clone) -> None:
    subset = "cifar10_jpeg-100-100-first-test"
    pictures = {
        "data/raw/cifar10_jpeg/cifar10-jpeg.tar.xz": b"pictures",
        "data/decoded/cifar10_jpeg/pictures.safetensors": b"decoded",
        f"data/subsets/{subset}/test.safetensors": b"subset",
        f"data/transformed/{subset}/patches-1/test.safetensors": b"features",
    }
    results = {
        "artifacts/cifar/partitions/cifar10_jpeg/iid8/seed0.json": b"{}",
        "artifacts/cifar/runs/linear/seed0/config.json": b'{"data": {"contract": {"public": true}}}',
        "artifacts/cifar/runs/linear/seed0/model.safetensors": b"linear",
    }
    first.write({**pictures, **results})
    first.publish()
    first.commit()
    other = first.clone()
    other.pull()
    assert other.files() == {**FILES, **results}
    ignored = first.folder / ".dvcignore"
    ignored.write_text(ignored.read_text().replace("/data/*/cifar10*/", ""))
    assert sorted(error_of(first.publish).splitlines()[1:]) == [f"  {name}" for name in sorted(pictures)]


def test_run_on_private_data_is_not_published(first: Clone) -> None:
    """The configuration of the run is outside the project, and has the default folders."""
    about = b'{"data": {"contract": {"public": false}, "duplicates_across_split": 3, "largest_unit": 7}}'
    first.write({"artifacts/runs/clinic/seed0/config.json": about})
    message = error_of(first.publish)
    assert message.startswith("results on data that are not public are not published; move these runs")
    assert message.splitlines()[1:] == ["  artifacts/runs/clinic/seed0"]
    with (first.folder / ".dvcignore").open("a") as file:
        file.write("/artifacts/runs/clinic\n")
    first.publish()


@pytest.mark.parametrize("name", [MODEL, "artifacts/runs/dp"])
def test_target_of_link_is_not_published(first: Clone, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "diary.txt").write_text("private")
    place = first.folder / name
    place.unlink(missing_ok=True)
    place.symlink_to(outside / "diary.txt" if place.suffix else outside)
    assert error_of(first.publish).endswith(f"\n  {name}")


BEST = CONFIG + "folders: {artifacts: artifacts/best, reports: reports/best, logs: logs/best}\n"


def test_every_published_configuration_is_published(first: Clone) -> None:
    own = {
        "artifacts/best/runs/fl/seed0/model.safetensors": b"best",
        "artifacts/best/partitions/mnist/a/seed0.json": b"{}",
    }
    first.write({**own, "config/best.yaml": BEST.encode()})
    read: list[str] = []
    first.publish(read=read)
    assert read == ["config/default.yaml", "config/best.yaml"]
    first.commit()
    other = first.clone()
    other.pull()
    assert other.files() == {**FILES, **own}


@pytest.mark.parametrize(
    ("name", "before", "after", "key"),
    [
        ("mine", "artifacts/best", "artifacts", "folders.artifacts"),
        ("mine", "artifacts/best", "artifacts/best/more", "folders.artifacts"),
        ("best", "artifacts/best", "artifacts/runs", "folders.artifacts"),
        ("best", "reports/best", "reports", "folders.reports"),
        ("best", "logs/best", "logs/mine", "folders.logs"),
        ("best", "{artifacts", "{data: build/data, artifacts", "folders.data"),
        ("runs", "best", "runs", "config/runs.yaml"),
        ("best", "artifacts: artifacts/best", "artifacts: 7", "folders.artifacts"),
    ],
)
def test_published_configurations_share_no_folder(first: Clone, name: str, before: str, after: str, key: str) -> None:
    first.write({f"config/{name}.yaml": BEST.replace(before, after).encode()})
    message = error_of(first.publish)
    assert key in message and f"config/{name}.yaml" in message and "\n" not in message
    assert not (first.folder / "data.dvc").exists()


def test_shipped_configurations_are_published() -> None:
    found = published_configurations(ROOT)
    assert found[0] == "config/default.yaml"
    assert {"config/best.yaml", "config/clients.yaml", "config/inference.yaml"} < set(found)


SENDING = """
import time
from pathlib import Path
from types import SimpleNamespace
from ppml.pipeline.dvc_remote import Objects
from ppml.pipeline import publish

def send(self, names):
    print("sending", flush=True)
    time.sleep(60)

Objects.send = send
publish.job_records = lambda plan: SimpleNamespace(save_book=lambda: None)
publish.unfinished = lambda records: []
publish.publish(Path.cwd())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_interrupted_publishing_changes_no_dvc_file(published: Clone, number: signal.Signals) -> None:
    published.write({"artifacts/runs/dp/seed0/model.safetensors": b"new"})
    with subprocess.Popen(
        [sys.executable, "-c", SENDING],
        cwd=published.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Under nohup the signal is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # type: ignore[arg-type]
    ) as sending:
        assert sending.stdout and any(line == b"sending\n" for line in sending.stdout)
        sending.send_signal(number)
    assert sending.returncode
    assert published.git("status", "--porcelain") == ""


# --- the commands ----------------------------------------------------------------------------------------------------


PUBLISH = """
from pathlib import Path
from types import SimpleNamespace
from ppml.jobs.runner import run
from ppml.pipeline import publish
read_plan, read = publish.read_plan, []
publish.read_plan = lambda files: read.append(files) or read_plan(files)
publish.unfinished = lambda records: Path("unfinished").read_text().splitlines()
publish.job_records = lambda plan: SimpleNamespace(
    save_book=lambda: Path("reports/provenance.json").write_text(str(*read))
)
run(publish.main)
"""


def test_commands_of_makefile(first: Clone) -> None:
    (first.folder / "unfinished").write_text(f"{MODEL}: stale: ppml.learning changed\n")
    done = run(first, "-c", PUBLISH)
    assert (done.returncode, done.stdout) == (1, "")
    summary, command, line = done.stderr.splitlines()
    assert summary.startswith("error: 1 file missing or stale") and "CONFIG=config/default.yaml" in command
    assert line == f"  {MODEL}: stale: ppml.learning changed"
    (first.folder / "unfinished").write_text("")
    done = run(first, "-c", PUBLISH)
    assert (done.returncode, done.stderr) == (0, "")
    assert (first.folder / "reports/provenance.json").read_text() == "['config/default.yaml']"
    first.commit()
    other = first.clone()
    done = run(other, *PULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert other.files() == FILES
    shutil.rmtree(other.folder / ".dvc/cache")
    shutil.rmtree(other.folder / "data")
    shutil.rmtree(first.folder.parent / "store")
    done = run(other, *PULL)
    assert (done.returncode, done.stdout) == (1, "")
    problem, origin, alternative = done.stderr.splitlines()
    assert problem.startswith("error: the DVC remote store (") and problem.endswith(": there is no such folder.")
    assert origin.startswith("It is set in .dvc/config; ")
    assert "`make results` computes everything" in alternative


def test_pull_during_run_is_refused(other: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(other.folder)
    hold = "import sys; from ppml.pipeline.workflow_lock import WorkflowLock; WorkflowLock().take()"
    command = [sys.executable, "-c", f"{hold}; print('held', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on "):
            pull_main([])
        assert other.files() == {}
        holder.kill()
