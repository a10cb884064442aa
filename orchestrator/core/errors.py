"""Errors, named by what the caller does next. All of them survive pickling, so they cross process borders unchanged.

StudyError            something a person must mend; shown as one line: what, where, how to fix
├── ConfigError       the YAML or a command-line override is wrong
├── DatasetError      a picture or caption is missing, unreadable or contradicts the study
├── MissingError      weights, data, hardware or an account are not there; says how to get them
├── WeightsError      base weights are there, but corrupt, of another model, or not the ones that were asked for
├── VolumeError       the volume cannot be read or written
│   ├── AbsentError   it holds no such file: make it, or publish it first
│   └── DamagedError  a file is not what was recorded: quarantine it, then fetch or make it again
├── DrawingError      a drawing backend outside this program refused a picture, failed in it, or fell silent
├── BusyError         another live process owns this study
└── SupersededError   a later attempt at the same work has begun: this one must not publish
AdapterError          an adapter file is corrupt or does not fit: quarantine it, retrain or redraw
"""

from __future__ import annotations


class StudyError(Exception):
    """Something a person must mend. `what` and `where` go on one line, `fix` says how."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.fix))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f" — {self.fix}" if self.fix else ""
        return f"{place}{self.what}{fix}"


class ConfigError(StudyError):
    """The YAML or a command-line override is wrong."""


class DatasetError(StudyError):
    """A picture or caption is missing, unreadable, or contradicts the study."""


class MissingError(StudyError):
    """Weights, data, hardware or an account are not there."""

    exit_code = 3


class VolumeError(StudyError):
    """The volume cannot be read or written."""

    exit_code = 4


class AbsentError(VolumeError):
    """The volume holds no such file."""


class DamagedError(VolumeError):
    """A file is not what was recorded or published: quarantine it, then fetch or make it again."""


class BusyError(StudyError):
    """Another live process owns this study."""

    exit_code = 5


class SupersededError(StudyError):
    """A later attempt at the same work has begun: this one must not publish."""

    exit_code = 5


class AdapterError(StudyError):
    """An adapter file is corrupt or does not fit the base: quarantine it, then retrain or redraw."""

    exit_code = 6


class WeightsError(StudyError):
    """Base weights are corrupt, of another model, or not the ones that were asked for."""

    exit_code = 7


class DrawingError(StudyError):
    """A drawing backend outside this program refused a picture, failed in it, or fell silent."""

    exit_code = 8


def _rebuild(kind: type[StudyError], what: str, where: str, fix: str) -> StudyError:
    return kind(what, where=where, fix=fix)
