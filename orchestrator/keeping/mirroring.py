"""Keep a running study on its volume, in the background.

The ledger is the queue. What follows its sealed part is what the volume lacks: the files those facts name are
published, then the facts themselves are sealed as the next segment, so that no segment names a file which was not there
before it. Nothing is held in memory but one segment's facts, however long an outage lasts; the study goes on meanwhile,
and what is superseded before it could be sent, such as an old training state, is never sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from infra.mirror import File, Outcome, publish, replace
from infra.progress import Progress
from infra.segments import SEGMENT_BYTES, Sealed, next_lines, seal
from infra.volume import Volume
from orchestrator.core.errors import BusyError, StudyError, VolumeError
from orchestrator.core.layout import Layout
from orchestrator.keeping.outgoing import files_after, sealed_epochs, states_to_keep
from orchestrator.keeping.packs import Packs
from orchestrator.keeping.uploads import Uploads, write_uploads
from orchestrator.record.ledger import Event
from orchestrator.record.state import StudyState
from trainer.facts import StepLogged

LONGEST_PAUSE_S = 60.0
IDLE_S = 30.0
"""Training states within an epoch come without a fact: looked for this often."""
FIRST_S = 30.0
TELL_S = 30.0
SHOW_S = 5.0
STRAY_S = 24 * 3600.0
"""An upload that was begun so long ago and is not complete was left by a process that died: it costs money."""


class Mirroring:
    """A thread that sends. It watches the controller to hear that there is something."""

    def __init__(
        self,
        layout: Layout,
        volume: Volume,
        sealed: Sealed,
        *,
        holds: Callable[[], None] = lambda: None,
        lost: Callable[[BusyError], None] = lambda _: None,
        every_s: float = 10.0,
        tell: Callable[[str], None] = lambda _: None,
        packs: Packs | None = None,
    ) -> None:
        """`sealed` is how much of the ledger the volume has; `holds` raises BusyError when the study is another's.

        `lost` hears when that is found out here. `packs` are sent when a trial's caches are complete, and at the end.
        """
        self.layout, self.volume, self.sealed = Layout(layout.root.resolve()), volume, sealed
        self.uploads = Uploads(place=volume.store.place, sealed_bytes=sealed.size, moved_at=round(time.time(), 3))
        self._holds, self._lost, self._every_s, self._tell = holds, lost, every_s, tell
        self._epochs = sealed_epochs(self.layout.ledger, sealed.size)
        """Recorded epochs by trial, as far as the ledger is sealed."""
        self._recorded = self._size()
        self._progress = Progress(self._moved_on)
        self._shown_at, self._showing = 0.0, threading.Lock()
        self._derived: dict[Path, int] = {}
        self._sent_states: set[str] = set()
        self._packs, self._packs_due, self._training = packs, threading.Event(), set[str]()
        self._fault: BaseException | None = None
        """What ended the thread before its time."""
        self._woken, self._ending, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._send, name="mirror", daemon=True)

    def start(self) -> Mirroring:
        self._write_progress()
        self._thread.start()
        return self

    def event(self, event: Event, state: StudyState) -> None:  # noqa: ARG002 (a watcher's signature)
        """What is recorded by now may be sealed; what is just being written may still come to nothing.

        A study's first fact is on the volume before anything is done: whoever takes over this study goes on from it,
        and does not begin another one of the same name. An outage is not waited for.
        """
        self._recorded = self._size()
        self._woken.set()
        if not self.sealed.size:
            with self._moved:
                self._moved.wait_for(self._begun, FIRST_S)

    def _begun(self) -> bool:
        """Whether a fact of the study is on the volume, or will not be for a while."""
        return bool(self.sealed.size or self.uploads.outage or self._fault or self._closed.is_set())

    def step(self, step: StepLogged) -> None:
        """Steps go with the epoch they lead to. A trial's first one says that its caches are complete."""
        if step.trial not in self._training:
            self._training.add(step.trial)
            self._packs_due.set()
            self._woken.set()

    def note(self, sentence: str) -> None:
        """Not a fact."""

    def finish(self, wait_s: float, say: Callable[[str], None]) -> None:
        """Wait until everything is on the volume. Raises VolumeError when not a byte gets through for `wait_s` s."""
        self._recorded = self._size()
        self._packs_due.set()
        self._ending.set()
        self._woken.set()
        at, since = -1, time.monotonic()
        tell_at = since + 1
        while self._thread.is_alive():
            now = time.monotonic()
            if self.uploads.moves != at:
                at, since = self.uploads.moves, now
            if now - since > wait_s:
                raise VolumeError(
                    f"{self._waiting()}; {self.uploads.outage or f'nothing got through for {wait_s:.0f} s'}",
                    where=self.volume.store.place,
                    fix="everything is in the study's folder; the same command sends the rest",
                )
            if now > tell_at:
                say(f"waiting for uploads | {self.volume.store.place} | {self._waiting()}{self._why()}")
                tell_at = now + TELL_S
            with self._moved:
                self._moved.wait(0.2)
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Stop, whatever is still to send."""
        self._ending.set()
        self._closed.set()
        self._woken.set()
        self._write_progress()

    def _send(self) -> None:
        pause_s = 1.0
        with suppress(StudyError):
            self.volume.store.abort_uploads(time.time() - STRAY_S)
        try:
            while not self._closed.is_set():
                self._woken.clear()
                try:
                    moved = self._one_segment()
                    self._healthy()
                    pause_s = 1.0
                except BusyError as error:
                    self._lost(error)
                    raise
                except StudyError as error:
                    self._unwell(error)
                    self._closed.wait(pause_s)
                    pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                    continue
                if self._send_pack():
                    continue
                if not moved:
                    if self._ending.is_set() and not self._woken.is_set() and not self._packs_due.is_set():
                        return
                    self._woken.wait(IDLE_S)
                if moved < SEGMENT_BYTES // 2 and self.sealed.size:
                    # Facts that come meanwhile share the next segment.
                    self._ending.wait(self._every_s)
        except BaseException as error:
            self._fault = error
            self._tell(f"uploads stopped | {error if isinstance(error, StudyError) else repr(error)}")
        finally:
            with self._moved:
                self._moved.notify_all()

    def _one_segment(self) -> int:
        """Send what the next lines of the ledger name, then those lines; returns how many bytes of them."""
        lines = next_lines(self.layout.ledger, self.sealed.size, self._recorded)
        events = [Event.from_line(line) for line in lines.decode().splitlines()]
        epochs = {trial: set(known) for trial, known in self._epochs.items()}
        groups = files_after(self.layout, events, epochs)
        outcome = publish(self.layout, self.volume, groups, self._count, self._progress)
        states = states_to_keep(self.layout, epochs)
        kept = [(File(key),) for keys in states.values() for key in keys if key not in self._sent_states]
        outcome.add(publish(self.layout, self.volume, kept, self._count, self._progress))
        self._sent_states.update(key for keys in states.values() for key in keys if key not in outcome.lacking)
        if lines:
            self._holds()
            self.sealed = seal(self.volume, lines, self.sealed)
            self._epochs.update(epochs)
        self._drop_older(states, outcome.sent)
        self._send_derived()
        return len(lines)

    def _send_pack(self) -> bool:
        """Send one pack of the caches, if any waits: facts come first. Whether more packs wait."""
        due = self._packs_due.is_set()
        self._packs_due.clear()
        if not due or self._packs is None or not self._packs.send(self._count, self._progress):
            return False
        self._packs_due.set()
        return True

    def _count(self, outcome: Outcome) -> None:
        self.uploads.add(len(outcome.sent), outcome.size, outcome.lacking)
        self._show()

    def _moved_on(self) -> None:
        """A larger file has come further than ever."""
        self.uploads.move()
        self._show()

    def _show(self) -> None:
        """Write down now and then how far it is; threads that come together do it once."""
        if time.monotonic() - self._shown_at > SHOW_S and self._showing.acquire(blocking=False):
            try:
                self._write_progress()
            finally:
                self._showing.release()

    def _drop_older(self, states: dict[str, list[str]], sent: list[str]) -> None:
        """Retention on the volume is that of the folder's newest: what was just sent replaces what was before it."""
        for trial, keys in states.items():
            if set(keys) & set(sent):
                newest = max(keys)
                for key in list(self.volume.keys(f"trials/{trial}/state/")):
                    if key not in keys and key < newest:
                        self.volume.delete(key)

    def _send_derived(self) -> None:
        """What is made from the ledger and may be made again: configuration, choice, report."""
        exposures = (self.layout.trial(trial) / "exposures.json" for trial in list(self._epochs))
        for path in (self.layout.config, self.layout.choice, self.layout.report, *exposures):
            with suppress(FileNotFoundError):
                changed = path.stat().st_mtime_ns
                if self._derived.get(path) != changed:
                    replace(self.volume, self.layout.relative(path), path, self._progress)
                    self._derived[path] = changed

    def _healthy(self) -> None:
        if self.uploads.outage:
            self._tell(f"uploads go on | {self.volume.store.place}")
        self.uploads.outage, self.uploads.outage_since = "", None
        self._write_progress()

    def _unwell(self, error: StudyError) -> None:
        if not self.uploads.outage:
            self._tell(f"uploads wait, the study goes on | {error}")
            self.uploads.outage_since = round(time.time(), 3)
        self.uploads.outage = str(error)
        self._write_progress()
        with suppress(VolumeError):
            # What was refused may have been refused because another machine writes by now.
            self._holds()

    def _write_progress(self) -> None:
        self.uploads.waiting_bytes = max(0, self._size() - self.sealed.size)
        self.uploads.sealed_bytes, self.uploads.under_way = self.sealed.size, self._progress.size
        self._shown_at = time.monotonic()
        with suppress(VolumeError):
            write_uploads(self.layout, self.uploads)
        with self._moved:
            self._moved.notify_all()

    def _waiting(self) -> str:
        lines = next_lines(self.layout.ledger, self.sealed.size, self._size())
        more = self._size() - self.sealed.size > len(lines)
        gone = f" ({self._progress.size / 1e6:.1f} MB of unfinished ones have gone)" if self._progress.size else ""
        return f"{'over ' if more else ''}{len(lines.splitlines())} facts and their files to go{gone}"

    def _size(self) -> int:
        try:
            return self.layout.ledger.stat().st_size
        except FileNotFoundError:
            return 0

    def _why(self) -> str:
        return f" | {self.uploads.outage}" if self.uploads.outage else ""
