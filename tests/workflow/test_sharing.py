"""Publishing and pulling: every file comes, what cannot come is said, and nobody's work is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ppml.pipeline.dvc_remote import Cache, Remote
from ppml.pipeline.pull import main as pull_main
from tests.workflow.clone import (
    CONFIG,
    FILES,
    Clone,
    apart,
    first,
    published,
    published_once,
    refused,
    run,
    store,
    stored,
    stored_list,
)

# Fixtures, used by their names.
__all__ = ["apart", "first", "published", "published_once", "store"]

# --- everything is there --------------------------------------------------------------------------------------------

PULL = ("-m", "ppml.pipeline.pull")


def test_what_one_clone_publishes_another_has(first: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    first.publish()
    said = capsys.readouterr().out
    assert f"published {len(FILES)} files" in said and str(first.folder.parent / "store") in said
    assert "git add data.dvc artifacts.dvc reports && git commit" in said
    changed = first.git("status", "--porcelain").splitlines()
    assert changed == ["?? artifacts.dvc", "?? data.dvc", "?? reports/provenance.json"]
    first.commit()

    other = first.clone()
    assert other.pull() == 0
    assert other.files() == FILES
    said = capsys.readouterr().out
    assert f"pulled {len(FILES)} files from store" in said
    assert f"all {len(FILES)} published files are here: `make results` now has nothing to do" in said
    assert "up to date" in other.dvc("status")
    assert "up to date" in other.dvc("pull")
    assert other.git("status", "--porcelain") == ""

    # Without the remote: nothing has to come.
    shutil.rmtree(first.folder.parent / "store")
    shutil.rmtree(other.folder / "artifacts")
    assert other.pull() == other.pull() == 0
    assert other.files() == FILES
    said = capsys.readouterr().out
    assert "from the cache" in said and said.count("all ") == 2


def test_publishing_again_sends_only_what_is_new_and_says_when_there_is_nothing_to_commit(
    published: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    published.publish()
    said = capsys.readouterr().out
    assert ": 0 of 17 contents are new" in said and "nothing to commit" in said
    published.write({"artifacts/runs/dp/seed0/model.safetensors": b"new"})
    published.publish()
    assert ": 1 of 18 contents are new" in capsys.readouterr().out


def test_what_the_remote_has_lost_is_sent_again(published: Clone, store: Path) -> None:
    """DVC's own push remembers what it once sent, and sends nothing."""
    stored(store, b"model 3").unlink()
    cut = stored(store, b"model 4")
    cut.chmod(0o644)
    cut.write_bytes(b"mod")
    cut.chmod(0o444)
    published.publish()
    assert cut.read_bytes() == b"model 4"
    other = published.clone()
    assert other.pull() == 0
    assert other.files() == FILES


# --- a part is there ------------------------------------------------------------------------------------------------


def test_what_a_remote_lacks_is_named_and_the_rest_comes(
    published: Clone, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = stored(store, b"model 11").read_bytes()
    for seed in range(12):
        stored(store, b"model %d" % seed).unlink()
    other = published.clone()
    mine = {"artifacts/runs/mine/seed0/model.safetensors": b"mine", "artifacts/notes.txt": b"mine"}
    other.write(mine)
    assert other.pull() == 0
    there = {name: content for name, content in FILES.items() if not name.endswith("model.safetensors")}
    assert other.files() == {**there, **mine}
    said = capsys.readouterr()
    assert f"pulled {len(there)} files" in said.out
    assert f"warning: 12 of {len(FILES)} files are not in store (" in said.err
    assert said.err.count("model.safetensors\n") == 10 and "  and 2 more\n" in said.err
    assert said.err.endswith("`make results` computes just what is missing\n")
    # DVC takes a folder for whole whose list is in its cache.
    assert not stored_list(other.folder / ".dvc/cache", other, "artifacts").exists()

    stored(store, b"model 11").write_bytes(kept)
    assert other.pull() == 0
    assert other.files()["artifacts/runs/fl/seed11/model.safetensors"] == b"model 11"
    for seed in range(12):
        stored(store, b"model %d" % seed).write_bytes(b"model %d" % seed)
    assert other.pull() == 0
    assert other.files() == {**FILES, **mine}
    assert "all " in capsys.readouterr().out


def test_a_damaged_file_is_not_taken(published: Clone, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored(store, b"model 7")
    path.chmod(0o644)
    path.write_bytes(b"mod_l 7")
    other = published.clone()
    assert other.pull() == 0
    assert "artifacts/runs/fl/seed7/model.safetensors" not in other.files()
    assert "seed7/model.safetensors: damaged in the remote\n" in capsys.readouterr().err


def test_a_file_that_is_damaged_on_its_way_is_fetched_once_more(
    published: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()

    def take_the_second(self: Cache, name: str, write: Callable[[Path], object]) -> bool:
        if name in seen:
            return take(self, name, write)
        seen.add(name)
        return False

    take = Cache.add
    monkeypatch.setattr(Cache, "add", take_the_second)
    other = published.clone()
    assert other.pull() == 0
    assert other.files() == FILES
    assert "damaged" not in capsys.readouterr().err


def test_a_damaged_cache_is_mended(published: Clone) -> None:
    other = published.clone()
    assert other.pull() == 0
    shutil.rmtree(other.folder / "artifacts")
    path = stored(other.folder / ".dvc/cache", b"model 7")
    path.chmod(0o644)
    path.write_bytes(b"mod_l 7")
    path.chmod(0o444)
    assert other.pull() == 0
    assert other.files() == FILES


def test_without_the_list_of_one_folder_the_other_comes(
    published: Clone, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_list(store, published, "artifacts").unlink()
    other = published.clone()
    assert other.pull() == 0
    assert set(other.files()) == {name for name in FILES if name.startswith("data/")}
    assert "warning: nothing of artifacts/ came: the list of its files is not in store (" in capsys.readouterr().err


def test_an_object_that_cannot_be_read_makes_the_pull_fail_after_the_rest_came(
    published: Clone, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(store, b"model 7")
    path.unlink()
    path.symlink_to(path.name)
    other = published.clone()
    assert other.pull() == 1
    assert len(other.files()) == len(FILES) - 1
    said = capsys.readouterr().err
    assert "could not be fetched from store" in said and "`make pull` goes on from here" in said
    assert "seed7/model.safetensors: Too many levels of symbolic links" in said


# --- nothing is there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "/no/such/folder"}, "elsewhere (/no/such/folder): there is no such folder"),
        ({"url": "ssh://alice@127.0.0.1:1/store"}, "Connect call failed"),
        ({"url": "http://127.0.0.1:1/store"}, "Connect call failed"),
        ({"url": "webdav://127.0.0.1:1/store"}, "Connection refused"),
        ({"url": "ssh://no-such-host.invalid/store"}, "(ssh://no-such-host.invalid/store): "),
        ({"url": "ssh://127.0.0.1:1/store", "keyfile": "/no/such/key"}, "its keyfile /no/such/key does not exist"),
        ({"url": "gs://bucket/store"}, "dvc-gs"),
    ],
)
def test_a_remote_that_cannot_be_used_is_named_with_the_way_out(
    published: Clone, settings: dict[str, str], said: str
) -> None:
    other = published.clone()
    other.remote(**settings)
    message = refused(other.pull)
    first, second = message.splitlines()
    assert first.startswith("the DVC remote elsewhere (") and said in first
    assert second == (
        "It is set in .dvc/config.local; to set another one: "
        "`.venv/bin/dvc remote add --local -d NAME URL` (docs/sharing.md)"
    )
    assert other.files() == {}


def test_no_remote_at_all(published: Clone) -> None:
    other = published.clone()
    (other.folder / ".dvc/config").write_text("[core]\n")
    assert refused(other.pull).startswith(
        "no DVC remote is set; to set one: `.venv/bin/dvc remote add --local -d NAME URL`"
    )
    (other.folder / ".dvc/config").write_text("[core]\nremote = gone\n")
    assert refused(other.pull).startswith("the default remote gone is not defined; ")
    (other.folder / ".dvc/config").write_text("['remote \"x\"']\nurl = foo://x\n")
    assert refused(other.pull).startswith(
        ".dvc/config, .dvc/config.local or DVC's settings of the user: config file error"
    )


def test_a_remote_with_nothing_of_this_commit(published: Clone, store: Path) -> None:
    shutil.rmtree(store / "files")
    assert "nothing of this commit is there; who made it must `make publish`" in refused(published.clone().pull)


def test_nothing_was_ever_published(first: Clone) -> None:
    assert refused(first.pull).startswith("nothing is published yet: there is no data.dvc and no artifacts.dvc; ")


def test_a_merge_conflict_is_named(published: Clone) -> None:
    path = published.folder / "data.dvc"
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}=======\n>>>>>>> other\n")
    said = "data.dvc cannot be read; in the middle of a merge, take one side: git checkout --ours data.dvc, or --theirs"
    assert refused(published.pull) == said
    assert refused(published.publish) == said


def test_no_message_holds_a_secret(published: Clone) -> None:
    other = published.clone()
    other.remote(url="webdav://alice:s3cret@127.0.0.1:1/store?sig=t0ken", user="alice", password="pa55", token="t1ken")
    message = refused(other.pull)
    assert "webdav://***@127.0.0.1:1/store?***" in message
    assert not any(secret in message for secret in ("s3cret", "t0ken", "pa55", "t1ken"))


@pytest.mark.parametrize("scheme", ["ssh", "webdav"])
@pytest.mark.parametrize("password", ["p@sswOrd9", "pa/sswOrd9", "pa/s@s:wOrd9"])
def test_a_password_in_an_address_is_not_shown_whatever_it_holds(published: Clone, scheme: str, password: str) -> None:
    other = published.clone()
    other.remote(url=f"{scheme}://alice:{password}@127.0.0.1:1/store")
    message = refused(other.pull)
    assert f"{scheme}://***@127.0.0.1:1/store" in message
    assert "wOrd9" not in message


def test_a_line_of_the_settings_that_cannot_be_read_is_not_shown(published: Clone) -> None:
    (published.folder / ".dvc/config.local").write_text("password hunter2\n")
    for action in (published.pull, published.publish):
        message = refused(action)
        assert ".dvc/config.local" in message and "at line 1" in message and "hunter2" not in message


@pytest.mark.parametrize("place", [".snakemake", ".dvc/config.local", "artifacts/partitions"])
def test_a_place_that_cannot_be_used_is_one_line(published: Clone, place: str) -> None:
    path = published.folder / place
    if path.is_dir():
        shutil.rmtree(path)
    if "config" in place:
        path.mkdir()
    else:
        path.write_text("in the way")
    done = run(published, *PULL)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr


# --- somebody's work ------------------------------------------------------------------------------------------------


def test_work_that_was_never_published_is_never_replaced(published: Clone) -> None:
    other = published.clone()
    mine = {f"artifacts/runs/fl/seed{seed}/model.safetensors": b"mine %d" % seed for seed in range(2)}
    other.write(mine)
    message = refused(other.pull)
    assert message.startswith(
        "2 files here differ from what is published; so that nothing is lost, nothing was pulled:\n"
    )
    assert all(f"  {name}\n" in message for name in mine) and "move them away or delete them" in message
    assert other.files() == mine
    (other.folder / "artifacts").rename(other.folder / "artifacts-mine")
    assert other.pull() == 0
    assert other.files() == FILES


def test_work_that_appears_while_files_come_is_not_replaced(published: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    other = published.clone()
    name = "artifacts/runs/fl/seed0/model.safetensors"

    def fetch_and_work(self: Remote, *arguments: object) -> object:
        reasons = fetch(self, *arguments)
        other.write({name: b"mine"})
        return reasons

    fetch = Remote.fetch
    monkeypatch.setattr(Remote, "fetch", fetch_and_work)
    assert f"  {name}\n" in refused(other.pull)
    assert other.files() == {name: b"mine"}


def test_a_folder_in_the_place_of_a_file_is_kept(published: Clone) -> None:
    other = published.clone()
    other.write({"artifacts/partitions/mnist/iid8/seed0.json/mine": b"mine"})
    assert "  artifacts/partitions/mnist/iid8/seed0.json\n" in refused(other.pull)


def test_an_earlier_version_is_replaced(published: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    other = published.clone()
    assert other.pull() == 0
    published.write({"artifacts/runs/fl/seed0/model.safetensors": b"better"})
    published.publish()
    published.commit()
    other.git("pull", "-q")
    assert other.pull() == 0
    assert other.files() == {**FILES, "artifacts/runs/fl/seed0/model.safetensors": b"better"}
    assert (
        "pulled 1 file from store" in (said := capsys.readouterr().out) and "1 in place of an earlier version" in said
    )


def test_work_that_is_in_the_cache_and_in_no_commit_is_not_replaced(published: Clone) -> None:
    """`dvc pull` would: it takes what is in the cache for saved, though nobody finds it there."""
    published.write({"artifacts/runs/fl/seed0/model.safetensors": b"mine"})
    published.remote(url="ssh://127.0.0.1:1/store")
    refused(published.publish)
    published.dvc("add", "-q", "artifacts")
    published.git("checkout", "-q", "artifacts.dvc")
    assert "  artifacts/runs/fl/seed0/model.safetensors\n" in refused(published.pull)
    assert published.files()["artifacts/runs/fl/seed0/model.safetensors"] == b"mine"


# --- what is not published ------------------------------------------------------------------------------------------


def test_an_unfinished_tree_is_not_published(first: Clone, store: Path) -> None:
    lines = tuple(f"artifacts/runs/fl/seed{seed}/model.safetensors: missing" for seed in range(12))
    message = refused(lambda: first.publish(lines))
    assert message.startswith("12 files missing or stale, so nothing is published; `make results` first:\n")
    assert f"  {lines[0]}\n" in message and message.endswith("  and 2 more")
    assert not (first.folder / "data.dvc").exists() and not store.exists()


def test_a_remote_that_takes_nothing_leaves_nothing_to_commit(first: Clone, store: Path) -> None:
    store.write_text("a file")
    message = refused(first.publish)
    assert message.startswith("the DVC remote store (")
    assert not (first.folder / "data.dvc").exists()
    store.unlink()
    first.publish()
    first.commit()
    before = (first.folder / "artifacts.dvc").read_text()
    first.write({"artifacts/runs/fl/seed0/model.safetensors": b"better"})
    shutil.rmtree(store)
    store.write_text("a file")
    refused(first.publish)
    assert (first.folder / "artifacts.dvc").read_text() == before


@pytest.mark.parametrize(
    "name",
    [
        *("data/raw/hospital/a.gz", "data/raw/a.csv", "data/patients.csv", "data/raw/mnist/patients.csv"),
        *("data/subsets/hospital-100-100-first-test/test.safetensors", "data/subsets/mnist-hospital/test.safetensors"),
        "data/subsets/mnist-100-100-first-test/patients.csv",
        "data/transformed/hospital-100-100-first-test/scattering-9-2024/train.safetensors",
        *("artifacts/key.pem", "artifacts/core.123", "artifacts/runs/fl/seed0/progress.safetensors.bak"),
        *("artifacts/runs/fl/seed0/deep/model.safetensors", "artifacts/partitions/hospital/iid8/seed0.json"),
    ],
)
def test_what_the_workflow_does_not_make_of_public_data_is_not_published(first: Clone, name: str) -> None:
    first.write({name: b"private"})
    message = refused(first.publish)
    assert "only what the workflow makes of the public data sets" in message and message.endswith(f"\n  {name}")
    assert not (first.folder / "data.dvc").exists()
    with (first.folder / ".dvcignore").open("a") as file:
        file.write(f"/{name}\n")
    first.publish()
    first.commit()
    other = first.clone()
    assert other.pull() == 0
    assert other.files() == FILES


@pytest.mark.parametrize("name", ["artifacts/runs/fl/seed0/model.safetensors", "artifacts/runs/dp"])
def test_what_a_link_leads_to_is_not_published(first: Clone, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "diary.txt").write_text("private")
    place = first.folder / name
    place.unlink(missing_ok=True)
    place.symlink_to(outside / "diary.txt" if place.suffix else outside)
    assert refused(first.publish).endswith(f"\n  {name}")


def test_a_damaged_cache_is_not_published(published: Clone, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DVC believes that an object which cannot be written is whole."""
    path = stored(published.folder / ".dvc/cache", b"model 7")
    for content in (b"mod", b"mod_l 7"):
        path.chmod(0o644)
        path.write_bytes(content)
        path.chmod(0o444)
        published.publish()
        assert path.read_bytes() == stored(store, b"model 7").read_bytes() == b"model 7"
    assert ": 0 of 17 contents are new" in capsys.readouterr().out


SENDING = """
import sys, time
from pathlib import Path
from ppml.pipeline.publish import Checks, publish
from ppml.pipeline.dvc_remote import Remote

def send(self, names, cache):
    print("sending", flush=True)
    time.sleep(60)

Remote.send = send
publish(Path.cwd(), ["config/default.yaml"], Checks(lambda _: [], lambda _: None))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_no_commit_can_name_what_was_not_sent_whatever_ends_the_publishing(
    published: Clone, number: signal.Signals
) -> None:
    published.write({"artifacts/runs/dp/seed0/model.safetensors": b"new"})
    with subprocess.Popen(
        [sys.executable, "-c", SENDING],
        cwd=published.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Under nohup it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # type: ignore[arg-type]
    ) as sending:
        assert sending.stdout and any(line == b"sending\n" for line in sending.stdout)
        sending.send_signal(number)
    assert sending.returncode
    assert published.git("status", "--porcelain") == ""


def test_only_what_lies_in_the_published_folders_counts(first: Clone) -> None:
    path = first.folder / "config/default.yaml"
    path.write_text(CONFIG + "folders: {artifacts: build/smoke/artifacts}\n")
    said = "config/default.yaml is not for publishing: folders.artifacts: build/smoke/artifacts; "
    assert refused(first.publish) == said + "what is published lies in artifacts/"


# --- the commands ---------------------------------------------------------------------------------------------------


PUBLISH = """
import sys, types
from pathlib import Path
status = sys.modules["ppml.pipeline.status"] = types.ModuleType("ppml.pipeline.status")
status.unfinished = lambda files: Path("unfinished").read_text().splitlines()
status.save_book = lambda files: Path("reports/provenance.json").write_text(str(files))
from ppml.pipeline import publish
publish.main()
"""


def test_the_commands_as_make_calls_them(first: Clone) -> None:
    (first.folder / "unfinished").write_text(
        "artifacts/runs/fl/seed0/model.safetensors: stale: ppml.learning changed\n"
    )
    done = run(first, "-c", PUBLISH, "--configfile", "config/default.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: 1 file missing or stale, so nothing is published; `make results` first:\n"
        "  artifacts/runs/fl/seed0/model.safetensors: stale: ppml.learning changed\n"
    )
    (first.folder / "unfinished").write_text("")
    done = run(first, "-c", PUBLISH, "--configfile", "config/default.yaml")
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
    error, origin, otherwise = done.stderr.splitlines()
    assert error.startswith("error: the DVC remote store (") and error.endswith("store): there is no such folder.")
    assert origin.startswith("It is set in .dvc/config; ")
    assert otherwise == "Without a remote, `make results` computes everything"


def test_nothing_is_pulled_under_a_run_that_is_at_work(published: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    other = published.clone()
    monkeypatch.chdir(other.folder)
    hold = "import sys; from ppml.pipeline.run_lock import RunLock; RunLock().take()"
    command = [sys.executable, "-c", f"{hold}; print('held', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout and run.stdout.readline() == "held\n"
        with pytest.raises(SystemExit, match=f"another run is at work in this folder: process {run.pid} on "):
            pull_main([])
        assert other.files() == {}
        run.kill()


def test_metrics_params_and_plots_compare_two_commits(published: Clone) -> None:
    path = published.folder / "reports/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["fl"]["accuracy"]["mean"] = 0.5
    path.write_text(json.dumps(metrics))
    config = published.folder / "config/default.yaml"
    config.write_text(config.read_text().replace("0.06", "0.07"))
    published.commit()
    shown = json.loads(published.dvc("metrics", "show", "--json"))[""]["data"]
    assert shown["reports/metrics.json"]["data"]["fl"]["accuracy"] == metrics["fl"]["accuracy"]
    [line] = published.dvc("metrics", "diff", "HEAD^").splitlines()[1:]
    assert line.split()[:2] == ["reports/metrics.json", "fl.accuracy.mean"] and "0.5" in line
    [line] = published.dvc("params", "diff", "HEAD^").splitlines()[1:]
    assert line.split() == ["config/default.yaml", "arms.centralized.training.learning_rate", "0.06", "0.07"]
    published.dvc("plots", "diff", "HEAD^", "-o", "plots")
    page = (published.folder / "plots/index.html").read_text()
    for title in ("Accuracy of every arm", "Accuracy against epsilon", "Accuracy during training"):
        assert f'"text": "{title}' in page
    assert "<DVC_METRIC" not in page


def test_dvc_itself_works_beside_it(published: Clone) -> None:
    published.write({"artifacts/runs/fl/seed0/model.safetensors": b"better"})
    assert "modified" in published.dvc("status")
    published.dvc("add", "-q", "data", "artifacts")
    assert "1 file pushed" in (said := published.dvc("push")) or "2 files pushed" in said
    other = published.clone()
    (other.folder / "artifacts.dvc").write_bytes((published.folder / "artifacts.dvc").read_bytes())
    other.dvc("pull", "-q")
    assert other.files() == {**FILES, "artifacts/runs/fl/seed0/model.safetensors": b"better"}
    assert published.git("diff", "--name-only").split() == ["artifacts.dvc"]
