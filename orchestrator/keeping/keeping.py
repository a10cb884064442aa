"""A study's place on its volume while a run lasts: take the lease, join the ledgers, fetch, mirror, let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from infra.dialects import Patience
from infra.lease import SILENCE_S, Beating, acquire
from infra.open import open_volume
from infra.segments import Sealed
from infra.volume import Volume
from orchestrator.core.errors import BusyError, VolumeError
from orchestrator.core.layout import Layout
from orchestrator.keeping.mirroring import Mirroring
from orchestrator.keeping.packs import Packs
from orchestrator.keeping.restoring import fetch_lacking, heal, join
from orchestrator.keeping.uploads import read_uploads
from orchestrator.planning.config import StudyConfig, parse_config
from orchestrator.planning.wanted import Target
from orchestrator.record.ledger import read_lines
from orchestrator.record.reconcile import Loss
from orchestrator.record.state import StudyState

STOPPED_WAIT_S = 30.0
"""A run that was stopped, or failed, sends for so long what is recorded; the next run sends the rest."""
Tell = Callable[[str], None]


class Keeping:
    """A study on a volume of which this process holds the lease."""

    def __init__(self, config: StudyConfig, volume: Volume, lease: Beating, tell: Tell) -> None:
        self.volume, self._config, self._lease, self._tell = volume, config, lease, tell
        self._layout = Layout(config.layout().root.resolve())
        self._packs = Packs(self._layout, volume, tell)
        self._sealed = Sealed()
        self._mirroring: Mirroring | None = None
        self._told_lost = False

    def join(self) -> None:
        """Make this machine's ledger go on from the volume's. Raises VolumeError."""
        self._sealed = join(self._layout, self.volume, self._tell)

    def fetch(self, state: StudyState, target: Target) -> None:
        """Fetch what is recorded and not here, and the caches if something is to be trained. Raises VolumeError."""
        newest = {t.trial: max((e for n, e in state.checkpoints if n == t.trial), default=0) for t in target.trials}
        untrained = [t.trial for t in target.trials if newest[t.trial] < t.epochs]
        fetch_lacking(self._layout, self.volume, state, untrained=untrained, tell=self._tell)
        if untrained:
            self._packs.fetch()

    def heal(self, loss: Loss) -> bool:
        """Whether what is damaged here could be replaced from the volume."""
        return heal(self._layout, self.volume, loss)

    def mirror(self, *, stop: Callable[[], None], note: Tell = lambda _: None) -> Mirroring:
        """Send in the background from now on; `stop` is called when another machine takes the study over.

        What happens is told aloud, and noted.
        """

        def both(line: str) -> None:
            self._tell(line)
            # Whoever sends may outlive the run's log by a moment.
            with suppress(ValueError):
                note(line)

        def lost(error: BusyError) -> None:
            if not self._told_lost:
                self._told_lost = True
                both(f"stopping | {error}")
            stop()

        self._lease.when_lost = lost
        self._mirroring = Mirroring(
            self._layout,
            self.volume,
            self._sealed,
            holds=self._lease.check,
            lost=lost,
            every_s=self._config.volume.seal_every_s,
            tell=both,
            packs=self._packs,
        ).start()
        return self._mirroring

    def finish(self) -> None:
        """Wait for the uploads. Raises VolumeError when they do not get through, BusyError after a takeover."""
        if self._mirroring is not None:
            self._mirroring.finish(self._config.volume.wait_s, self._tell)
            self._tell(f"kept     {self._mirroring.uploads.line()}")

    def stopped(self) -> None:
        """Send what can be sent in a short while. Raises BusyError when the study was taken over."""
        if self._lease.lost is not None:
            raise self._lease.lost
        if self._mirroring is not None:
            try:
                self._mirroring.finish(STOPPED_WAIT_S, self._tell)
            except VolumeError as error:
                self._tell(str(error))

    def close(self) -> None:
        """Stop sending and let go of the lease."""
        if self._mirroring is not None:
            self._mirroring.close()
        self._lease.close()


def volume_of(layout: Layout) -> Volume | None:
    """The volume a study was last run with, as its ledger says; None when its folder is all there is."""
    events = (line.event for line in read_lines(layout.ledger) if line.event is not None)
    configs = [event.data["config"] for event in events if event.kind == "study_opened"]
    if not configs or not configs[-1]:
        return None
    config = parse_config(configs[-1])
    place = config.volume.kept_at(config.study)
    return None if place is None else open_volume(place)


def _or_alone(error: VolumeError, config: StudyConfig, volume: Volume) -> VolumeError:
    """Why a run cannot start while its volume is out of reach, and what this machine may do meanwhile.

    Without the lease nobody knows whether another machine writes by now, so nothing may be published. What a folder
    records alone can still join the volume later, when its ledger begins as the volume's does.
    """
    folder, uploads = config.volume.folder, read_uploads(config.layout())
    if uploads is None or uploads.place != volume.store.place or not uploads.sealed_bytes:
        return error
    alone = f"volume={folder}: what it makes is sent when this command runs again"
    return VolumeError(error.what, where=error.where, fix=f"{error.fix}; or go on in this folder alone with {alone}")


@contextmanager
def kept(
    config: StudyConfig,
    tell: Tell,
    *,
    takeover: bool = False,
    patience: Patience | None = None,
    silence_s: float = SILENCE_S,
) -> Iterator[Keeping | None]:
    """The study's volume, ours alone; None when its folder is all there is. Raises BusyError, VolumeError."""
    place = config.volume.kept_at(config.study)
    if place is None:
        yield None
        return
    volume = open_volume(place, patience=patience)
    try:
        lease = acquire(volume.store, takeover=takeover, tell=tell, silence_s=silence_s)
    except VolumeError as error:
        raise _or_alone(error, config, volume) from error
    keeping = Keeping(config, volume, Beating(lease), tell)
    try:
        yield keeping
    finally:
        keeping.close()
