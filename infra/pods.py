"""What each kind of GPU costs and does in an hour, from `conf/rates.yaml`: offers to plan with, not to buy."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError
from yaml import YAMLError

from orchestrator.core.errors import ConfigError

RATES = Path(__file__).parent.parent / "conf" / "rates.yaml"
REFERENCE_PIXELS = 1024 * 1024
REFERENCE_STEPS = 8


class Offer(BaseModel):
    """A pod with one GPU of a kind. Speeds hold for 1024x1024; drawing with 8 steps and guidance 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arch: str
    vram_gb: PositiveFloat
    dollars_per_hour: PositiveFloat
    training_images_per_second: PositiveFloat
    images_per_second: PositiveFloat
    estimated: frozenset[str] = Field(default_factory=frozenset)
    """Figures of this offer that nobody measured."""

    def training_hours(self, exposures: float, pixels: int) -> float:
        """Hours to show `exposures` pictures of this many pixels; time is taken as proportional to pixels."""
        return exposures * pixels / REFERENCE_PIXELS / self.training_images_per_second / 3600

    def drawing_hours(self, pictures: int, pixels: int, steps: int, *, passes: int = 1) -> float:
        """Hours to draw so many pictures; `passes` is 2 with guidance."""
        work = pictures * pixels / REFERENCE_PIXELS * steps / REFERENCE_STEPS * passes
        return work / self.images_per_second / 3600


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus: tuple[Offer, ...]


def hourly_price(priced: float | str | None) -> float | None:
    """Dollars per hour, as given or as the table says of a kind of GPU. Raises ConfigError for one it does not name."""
    if not isinstance(priced, str):
        return priced
    offers = {offer.name: offer.dollars_per_hour for offer in read_offers()}
    if priced not in offers:
        known = f"write a number, or one of: {', '.join(offers)}"
        raise ConfigError(f"no price is known for {priced!r}", where="cluster.dollars_per_hour", fix=known)
    return offers[priced]


def read_offers(path: Path = RATES) -> tuple[Offer, ...]:
    """The table, in its order. Raises ConfigError when it cannot be read."""
    try:
        return _Table.model_validate(OmegaConf.to_container(OmegaConf.load(path))).gpus
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"cannot read the rate table: {' '.join(str(error).split())}", where=str(path)) from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in fault["loc"])
        raise ConfigError(f"{place}: {fault['msg'].lower()}", where=str(path)) from error
