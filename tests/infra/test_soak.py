"""Volumes for minutes: faults at random moments, large files, many files. `make soak` runs these."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from infra.dialects import MIB
from infra.marker import SMALL_BYTES
from infra.mirror import Recorded, mirror, restore, restored_ledger
from infra.s3 import S3Store
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import AbsentError, VolumeError
from orchestrator.core.layout import Layout
from orchestrator.reconcile import losses
from tests.infra.conftest import HASTY, store_at
from tests.infra.proxy import Fault, Proxy
from tests.infra.servers import Server
from tests.infra.test_mirror import known_of, recorded
from tests.orchestrator.scripted import target
from tests.orchestrator.test_controller import run
from trainer.checkpoints import state_file

pytestmark = pytest.mark.soak

LARGE = 1536 * MIB


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_a_study_comes_through_whole(faulty: tuple[Volume, Proxy], tmp_path: Path, seed: int) -> None:
    """Connections die at random places while a growing study is mirrored and restored, again and again.

    Each restored ledger is a beginning of the study's, and every file it names is there as recorded.
    """
    volume, proxy = faulty
    chance, study = random.Random(seed), Layout(tmp_path / "study")
    run(study.root, target(epochs=5))
    for epoch in range(1, 6):
        state = state_file(study, "main-00000001", epoch)
        state.parent.mkdir(parents=True)
        state.write_bytes(chance.randbytes(SMALL_BYTES + chance.randrange(4 * MIB)))
    whole = study.ledger.read_bytes()
    lines = whole.splitlines(keepends=True)
    known, failures, done = None, 0, 0
    for _ in range(25):
        done = min(len(lines), done + chance.randrange(len(lines) // 4))
        ledger = b"".join(lines[:done])
        kind = chance.choice(["cut", "stall", "trickle"])
        proxy.set(
            Fault(
                kind,  # type: ignore[arg-type]
                towards=chance.choice(["client", "server"]),
                after=int(10 ** chance.uniform(1, 6.5)) if kind != "trickle" else 50_000,
                times=chance.choice([1, 3, 1000]),
                lasting=chance.random() < 0.3,
            )
        )
        try:
            known = mirror(study, volume, recorded(ledger), known=known if chance.random() < 0.5 else None)
        except VolumeError:
            failures += 1
        other = Layout(tmp_path / "other")
        try:
            back = restored_ledger(volume)
            restored = restore(volume, other, recorded(back))
        except AbsentError:
            continue
        except VolumeError:
            failures += 1
            assert not other.ledger.exists()
            if chance.random() < 0.5:
                shutil.rmtree(other.root, ignore_errors=True)
            continue
        assert restored.lacking == {}
        assert whole.startswith(back)
        assert list(losses(known_of(back), LocalVolume(other))) == []
        shutil.rmtree(other.root)
    assert failures > 0
    proxy.set(None)
    assert mirror(study, volume, recorded(whole)).lacking == {}
    assert restored_ledger(volume) == whole
    assert restore(volume, Layout(tmp_path / "last"), recorded(whole)).lacking == {}
    volume.sweep(older_than_s=-2)
    assert {volume.verify(key) for key in volume.keys()} == {"whole"}  # noqa: SIM118 (not a mapping)


def test_uploaders_killed_at_any_moment_publish_all_or_nothing(faulty: tuple[Volume, Proxy], tmp_path: Path) -> None:
    volume, _ = faulty
    chance, source = random.Random(1), tmp_path / "adapter.safetensors"
    source.write_bytes(chance.randbytes(24 * MIB))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "volume = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "volume.find('warm'); print('ready', flush=True)\n"
        "volume.put(sys.argv[3], Path(sys.argv[2]))\n"
    )
    outcomes = []
    for n in range(30):
        command = [sys.executable, "-c", code, pickle.dumps(volume).hex(), str(source), f"k{n}"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        Event().wait(chance.uniform(0, 1.0))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        outcomes.append(volume.verify(f"k{n}"))
    assert set(outcomes) <= {"whole", "absent"}
    assert "absent" in outcomes
    volume.sweep(older_than_s=-2)
    stored = [listed.name for listed in volume.store.listed("files/")]
    assert len(stored) == outcomes.count("whole"), "nothing nobody names is left"


@pytest.mark.parametrize("server", ["strict", "gateway"])
def test_a_very_large_file_in_little_memory(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> None:
    """The peak of a process that puts, checks and fetches a file of 1.5 GB; parts of the size the dialect uses."""
    store = store_at(request.getfixturevalue(server).endpoint, server)
    volume = Volume(S3Store(store.config))
    source = tmp_path / "state.safetensors"
    with source.open("wb") as stream:
        for _ in range(LARGE // (64 * MIB)):
            stream.write(os.urandom(64 * MIB))
    code = (
        "import pickle, resource, sys; from pathlib import Path\n"
        "volume = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "volume.find('warm')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "size = volume.put('state', Path(sys.argv[2])).size\n"
        "volume.get('state', Path(sys.argv[3]))\n"
        "assert volume.verify('state') == 'whole'\n"
        "print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, pickle.dumps(volume).hex(), str(source), str(tmp_path / "back")]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.stderr == ""
    size, grown_kib = map(int, child.stdout.split())
    assert size == LARGE
    assert grown_kib < 64 * 1024
    volume.delete("state")


def test_thousands_of_files_are_mirrored_listed_and_swept(strict: Server, tmp_path: Path) -> None:
    """More than a page of a listing holds."""
    volume = Volume(store_at(strict.endpoint, "strict", patience=replace(HASTY, read_s=20)))
    study = Layout(tmp_path / "study")
    state = run(study.root, target(epochs=8))
    samples = []
    for n, sample in enumerate(list(state.samples.values()) * 40):
        image = (study.root / sample.image).with_name(f"n{n:05d}.png")
        shutil.copy(study.root / sample.image, image)
        shutil.copy((study.root / sample.image).with_suffix(".json"), image.with_suffix(".json"))
        samples.append(replace(sample, image=study.relative(image)))
    now = Recorded(study.ledger.read_bytes(), tuple(state.checkpoints.values()), tuple(samples))
    mirrored = mirror(study, volume, now)
    assert len(mirrored.uploaded) > 2000
    assert set(volume.keys()) == set(mirrored.present) | {s.key for s in mirrored.segments}
    assert restore(volume, Layout(tmp_path / "other"), now).present == mirrored.present
    strays = [volume.put_aside(f"stray{n}.bin", bytes(SMALL_BYTES + 1)).file.content_name for n in range(20)]
    assert volume.sweep(older_than_s=-2).files == len(strays)
