"""Volumes for minutes: faults at random moments, large files, many files. `make soak` runs these."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from infra.dialects import MIB
from infra.marker import SMALL_BYTES
from infra.mirror import fetch, publish, sample_group
from infra.s3 import S3Store
from infra.segments import Sealed, agreed, next_lines, seal, sealed_pieces
from infra.volume import LocalVolume, Volume
from orchestrator.core.errors import VolumeError
from orchestrator.core.layout import Layout
from orchestrator.record.ledger import Event
from orchestrator.record.reconcile import losses
from orchestrator.record.state import replay
from tests.infra.conftest import STEADY, impatient, store_at
from tests.infra.proxy import Fault, Proxy
from tests.infra.servers import Server
from tests.infra.test_mirror import groups, state_of
from tests.orchestrator.scripted import target
from tests.orchestrator.test_controller import run
from tests.soaking import seeds

pytestmark = pytest.mark.soak

LARGE = 1536 * MIB


@pytest.mark.parametrize("seed", seeds(0, 2))
def test_whatever_happens_a_study_comes_through_whole(faulty: tuple[Volume, Proxy], tmp_path: Path, seed: int) -> None:
    """Connections die at random places while a growing ledger is sealed with its files and restored, again and again.

    Each restored ledger is a beginning of the study's, and every file it names is there as recorded.
    """
    volume, proxy = faulty
    volume = impatient(volume)
    chance, study = random.Random(seed), Layout(tmp_path / "study")
    run(study.root, target(epochs=5))
    whole, sealed, failures = study.ledger.read_bytes(), Sealed(), 0
    for _ in range(10):
        kind = chance.choice(["cut", "stall", "trickle"])
        proxy.set(
            Fault(
                kind,  # type: ignore[arg-type]
                towards=chance.choice(["client", "server"]),
                after=int(10 ** chance.uniform(1, 4.5)),
                times=chance.choice([1, 3, 1000]),
                lasting=chance.random() < 0.3,
            )
        )
        lines = next_lines(study.ledger, sealed.size, min(len(whole), sealed.size + chance.randrange(2, 60_000)))
        state = replay(Event.from_line(line) for line in lines.decode().splitlines() if named(line))
        try:
            assert publish(study, volume, groups(study, state)).lacking == {}
            if lines:
                sealed = seal(volume, lines, sealed)
        except VolumeError:
            failures += 1
            proxy.set(None)
            # The answer to sealing may have been lost: then the next lines begin after it.
            sealed = agreed(volume_without_haste(volume), study.ledger)[0]
        other = Layout(tmp_path / "other")
        try:
            back = b"".join(sealed_pieces(volume))
            assert whole.startswith(back)
            known = replay(Event.from_line(line) for line in back.decode().splitlines())
            assert fetch(other, volume, groups(other, known)).lacking == {}
            assert list(losses(known, LocalVolume(other))) == []
        except VolumeError:
            failures += 1
        shutil.rmtree(other.root, ignore_errors=True)
    assert failures > 0
    proxy.set(None)
    steady = volume_without_haste(volume)
    assert publish(study, steady, groups(study, state_of(study))).lacking == {}
    while lines := next_lines(study.ledger, sealed.size, len(whole)):
        sealed = seal(steady, lines, sealed)
    assert b"".join(sealed_pieces(steady)) == whole
    steady.sweep(older_than_s=-2)
    assert {steady.verify(key) for key in steady.keys()} == {"whole"}  # noqa: SIM118 (not a mapping)


def named(line: str) -> bool:
    """Facts that name files."""
    return '"checkpoint_saved"' in line or '"sample_drawn"' in line


def volume_without_haste(volume: Volume) -> Volume:
    assert isinstance(volume.store, S3Store)
    return Volume(S3Store(volume.store.config, replace(volume.store.dialect, patience=STEADY)))


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
        threading.Event().wait(chance.uniform(0, 1.0))
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
    volume = Volume(store_at(strict.endpoint, "strict", patience=STEADY))
    study = Layout(tmp_path / "study")
    state = run(study.root, target(epochs=8))
    samples = []
    for n, sample in enumerate(list(state.samples.values()) * 40):
        image = (study.root / sample.image).with_name(f"n{n:05d}.png")
        shutil.copy(study.root / sample.image, image)
        shutil.copy((study.root / sample.image).with_suffix(".json"), image.with_suffix(".json"))
        samples.append(replace(sample, image=study.relative(image)))
    sent = publish(study, volume, (sample_group(study, sample) for sample in samples))
    assert len(sent.sent) > 2000
    assert set(volume.keys()) == set(sent.sent)
    other = Layout(tmp_path / "other")
    assert set(fetch(other, volume, (sample_group(other, sample) for sample in samples)).sent) == set(sent.sent)
    strays = [volume.put_aside(f"stray{n}.bin", bytes(SMALL_BYTES + 1)).file.content_name for n in range(20)]
    assert volume.sweep(older_than_s=-2).files == len(strays)
