"""Who is shown how often: counted, and made even where that is asked for. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.core.errors import DatasetError
from trainer.dataset import Dataset

Balance = Literal["none", "per_character"]


@dataclass(frozen=True, slots=True)
class Exposures:
    """How often each character and each item has been shown."""

    characters: Mapping[str, int]
    items: tuple[int, ...]

    @property
    def per_image(self) -> float:
        """Mean over the pictures."""
        return sum(self.items) / len(self.items)


def showings(dataset: Dataset, balance: Balance, epoch: int) -> tuple[int, ...]:
    """The items an epoch shows, each as often as it does: pass by pass, then what evens characters out.

    Every epoch shows as many; which solo pictures make up for a character's fewer exposures takes turns from epoch to
    epoch. Raises DatasetError for a character that has no solo picture to make up with.
    """
    times = [item.repeats * dataset.repeats for item in dataset.items]
    plain = tuple(i for done in range(max(times)) for i, wanted in enumerate(times) if wanted > done)
    if balance == "none":
        return plain
    extra: list[int] = []
    for character, lacking in deficits(_characters(dataset, plain)).items():
        solos = [i for i, item in enumerate(dataset.items) if item.triggers == (character,)]
        if not solos:
            raise DatasetError(
                f"{character} is shown less often than others and has no solo picture to make up for it",
                where=str(dataset.root),
                fix="add some, or set train.balance=none",
            )
        extra += [solos[((epoch - 1) * lacking + k) % len(solos)] for k in range(lacking)]
    return plain + tuple(extra)


def deficits(characters: Mapping[str, int]) -> dict[str, int]:
    """How many exposures each character lacks to the one with most; those who lack none are left out."""
    most = max(characters.values(), default=0)
    return {who: most - shown for who, shown in sorted(characters.items()) if shown < most}


def exposures_after(dataset: Dataset, balance: Balance, epoch: int) -> Exposures:
    """Everything shown in the first `epoch` epochs."""
    shown = Counter(i for e in range(1, epoch + 1) for i in showings(dataset, balance, e))
    characters = _characters(dataset, list(shown.elements()))
    return Exposures(dict(sorted(characters.items())), tuple(shown[i] for i in range(len(dataset))))


def _characters(dataset: Dataset, shown: Sequence[int]) -> Counter[str]:
    return Counter(trigger for i in shown for trigger in dataset.items[i].triggers)
