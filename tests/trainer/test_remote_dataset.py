"""Datasets in an S3 store, over a real server: brought here once, followed when they change, never mixed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from anima.sources.download import Patience
from anima.sources.folders import bring, is_remote, local_folder
from orchestrator.core.errors import DatasetError, MissingError
from tests.infra.servers import Credentials, rclone
from tests.trainer.pocket_trials import TRAIN, make_job, saved
from tests.trainer.small_datasets import TRIGGERS, put
from trainer.config import DatasetConfig, DrawnDataset
from trainer.dataset import bring_dataset, read_dataset
from trainer.drawn import ensure_drawn_dataset
from trainer.study import load_study
from trainer.trial import run_trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the S3 servers of the tests run on Linux only")
QUICK = Patience(attempts=2, back_off_s=0.01)
ADDRESS = "s3://bucket/sets/trio/"


class Store:
    """A bucket of a real server, written to as anybody would."""

    def __init__(self) -> None:
        self._client = boto3.session.Session().client("s3", config=Config(s3={"addressing_style": "path"}))
        self._client.create_bucket(Bucket="bucket")

    def put(self, key: str, content: bytes | str) -> None:
        body = content if isinstance(content, bytes) else content.encode()
        self._client.put_object(Bucket="bucket", Key=key, Body=body)

    def put_folder(self, key: str, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket="bucket", Key=key)

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A bucket of a server that the environment names."""
    credentials = Credentials("account", "tester", "secret-of-the-test")
    with rclone(tmp_path_factory.mktemp("rclone"), credentials) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**credentials.environment, "AWS_ENDPOINT_URL_S3": server.endpoint}.items():
            patch.setenv(name, value)
        with closing(Store()) as store:
            yield store


@pytest.fixture
def remote(bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was put behind ADDRESS: two pictures. This machine's copy is somewhere new."""
    monkeypatch.setenv("EPOCHSWEEP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "here"
    put(folder / "2_kanachan", "a", "kanachan, 1girl")
    put(folder, "b (1)", "koharu, 1girl", colour="red")
    bucket.put_folder("sets/trio", folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_comes_whole_and_only_changes_come_again(bucket: Store, remote: Path) -> None:
    bucket.put_folder("sets/changing", remote)
    address, said = "s3://bucket/sets/changing", list[str]()
    folder = bring(address, tell=said.append, patience=QUICK)
    assert names(folder) == names(remote) == ["2_kanachan/a.png", "2_kanachan/a.txt", "b (1).png", "b (1).txt"]
    assert (folder / "b (1).png").read_bytes() == (remote / "b (1).png").read_bytes()
    bring(address, tell=said.append, patience=QUICK)
    bucket.put("sets/changing/b (1).txt", "koharu, 1girl, smile")
    bucket.put("sets/changing/empty.txt", "")
    bucket.remove("sets/changing/2_kanachan/a.txt")
    (folder / "2_kanachan" / "a.png").unlink()
    assert bring(f"{address}/", tell=said.append, patience=QUICK) == folder
    assert names(folder) == ["2_kanachan/a.png", "b (1).png", "b (1).txt", "empty.txt"]
    assert (folder / "b (1).txt").read_text() == "koharu, 1girl, smile"
    assert said == [f"{address}: fetching 4 of 4 files", f"{address}/: fetching 3 of 4 files"]


def test_a_dataset_is_read_from_a_store_like_from_a_folder(remote: Path) -> None:
    config = DatasetConfig(root=ADDRESS)
    bring_dataset(config)
    found, here = (read_dataset(root, config, TRIGGERS) for root in (local_folder(ADDRESS), remote))
    assert found.sha256 == here.sha256
    assert [item.repeats for item in found.items] == [2, 1]
    mixed = DatasetConfig.model_validate({"folders": [{"path": f"{ADDRESS}2_kanachan", "repeats": 3}]})
    bring_dataset(mixed)
    (item,) = read_dataset(Path(), mixed, TRIGGERS).items
    assert (item.triggers, item.repeats) == (("kanachan",), 3)


def test_a_trial_trains_from_a_store_and_refuses_what_was_edited_there(
    bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EPOCHSWEEP_CACHE", str(tmp_path / "cache"))
    ensure_drawn_dataset(tmp_path / "drawn", DrawnDataset(solo=1, pair=0, trio=0))
    bucket.put_folder("sets/drawn", tmp_path / "drawn")
    job = make_job(tmp_path / "study", Path("nowhere"), TRAIN, root="s3://bucket/sets/drawn")
    assert [c.epoch for c in saved(run_trial(job))] == [1, 2, 3]
    bucket.put("sets/drawn/koharu-001.txt", "koharu, sitting")
    with pytest.raises(DatasetError, match=r"koharu-001\.png has another caption"):
        list(run_trial(replace(job, train=TRAIN.model_copy(update={"epochs": 4}))))


def test_the_command_line_reads_it_too(remote: Path, tmp_path: Path) -> None:
    conf = tmp_path / "study.yaml"
    conf.write_text(f"study: a\nbase: pocket\ncast: {{kanachan: , koharu: }}\ndataset: {{root: '{ADDRESS}'}}\n")
    study = load_study(conf)
    assert len(study.read_dataset()) == 2
    assert remote.name not in str(study.dataset_root())


def test_a_folder_that_is_not_there_is_said_in_one_line(remote: Path) -> None:
    with pytest.raises(MissingError, match=r"s3://bucket/sets/duo: the store has nothing under this name"):
        bring("s3://bucket/sets/duo", patience=QUICK)
    with pytest.raises(MissingError, match="the store has no such object"):
        bring("s3://basket/sets", patience=QUICK)
    assert remote.is_dir()


def test_paths_stay_paths(tmp_path: Path) -> None:
    assert not is_remote(str(tmp_path))
    assert bring(str(tmp_path)) == local_folder(str(tmp_path)) == tmp_path
