"""Where a study runs: the volume that keeps everything, and the machines that do the work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from infra.dialects import DIALECTS, Dialect, DialectName, dialect_of, region_of
from infra.pods import hourly_price
from orchestrator.core.errors import ConfigError

ADDRESS = "write s3://BUCKET/PREFIX?endpoint=https://HOST&dialect=NAME&region=NAME (what follows ? may be left out)"
NO_SECRETS = "credentials come from the environment or from ~/.aws, never from an address"


_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_NAMES = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_LABEL_VALUE = re.compile(rf"!?({_NAMES}|in\({_NAMES}(, ?{_NAMES})*\))")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _known_labels(wanted: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in wanted.items():
        if not _LABEL.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{name}: {value} is no label; write gpu: h100, gpu: in(h100,b200) or gpu: '!in(rtx4090)'")
    return wanted


Labels = Annotated[Mapping[str, str], AfterValidator(_known_labels)]


class ClusterConfig(_Frozen):
    """Who does the work. `local` is this machine with Ray; `inline` is this very process, one thing after another."""

    provider: Literal["local", "inline"] = "local"
    address: str = Field("", pattern=r"^([A-Za-z0-9._-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5})?$")
    """HOST:PORT of a Ray cluster that runs already; its token comes from RAY_AUTH_TOKEN. Empty: Ray is started here."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What the trainer and the inference actors compute on; on this machine they share a GPU when there is only one."""
    trainers: PositiveInt = 1
    """How many trials train at the same time."""
    inference_actors: PositiveInt | Literal["all"] = 1
    """How many actors draw at the same time; `all` takes what the machines that have joined have room for."""
    in_flight: PositiveInt = 2
    """Requests an actor is given at once, so that it never waits for the next one."""
    train_on: tuple[Labels, ...] = ()
    """Labels of the machines to train on, best first: [{gpu: h100}, {gpu: rtx5090}, {}]. `{}` is any machine."""
    draw_on: tuple[Labels, ...] = ()
    """The same for inference actors."""
    threads: int = Field(1, ge=0)
    """CPU threads of each inference actor; 0 leaves torch's choice."""
    object_store_mb: int = Field(80, ge=80)
    """Ray's shared memory; pictures never travel through it."""
    attempts: PositiveInt = 3
    """How often a piece of work is tried before it counts as failed."""
    back_off_s: PositiveFloat = 1.0
    """Pause before the second attempt; it doubles with every further one."""
    dollars_per_hour: PositiveFloat | str | None = None
    """What an hour of the machine costs: a number, or a kind of GPU as `conf/rates.yaml` names it. Left out: hours are
    told, dollars are not."""
    silence_s: PositiveFloat = 600.0
    """Work that takes longer than this is taken to hang, and its actor is let go."""
    heartbeat_s: PositiveFloat = 5.0
    """How often every actor is asked whether it lives; it answers beside its work."""
    missed_s: PositiveFloat = 60.0
    """An actor that gives no such answer for so long is taken for dead, with its machine."""
    placement_s: PositiveFloat = 600.0
    """How long to wait for a machine that can take an actor."""
    lost_nodes: PositiveInt = 20
    """How often a piece of work may be lost with its machine; `attempts` counts other failures only."""

    @field_validator("dollars_per_hour")
    @classmethod
    def _has_a_price(cls, priced: float | str | None) -> float | str | None:
        hourly_price(priced)
        return priced


class S3Config(_Frozen):
    """A volume in a bucket. It holds no credentials: those come from boto3's own chain."""

    bucket: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$")
    """On RunPod: the id of the network volume."""
    prefix: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*)?$")
    """Folder in the bucket; everything of the volume is below it."""
    endpoint: str = ""
    """URL of the server; empty for AWS."""
    dialect: DialectName | None = None
    """How the server differs from AWS; by default as its host name tells, `minio` for hosts that are not known."""
    region: str = Field("", pattern=r"^[A-Za-z0-9-]*$")
    """Left out: what the dialect wants, or boto3's own default."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_a_server(cls, endpoint: str) -> str:
        if not endpoint:
            return endpoint
        parts = urlsplit(endpoint)
        if parts.username is not None or parts.password is not None or parts.query:
            raise ConfigError("the endpoint of a volume holds more than a host", fix=NO_SECRETS)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError("the endpoint of a volume is not a server", fix="write https://HOST or https://HOST:PORT")
        return endpoint.rstrip("/")

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read `s3://bucket/prefix?endpoint=...`. Raises ConfigError, which never repeats what might be a secret."""
        parts = urlsplit(address)
        if parts.username is not None or parts.password is not None or "@" in parts.netloc:
            raise ConfigError("the address of a volume names a person or a password", fix=NO_SECRETS)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - {"endpoint", "dialect", "region"})
        if unknown:
            secret = any(re.search("key|secret|token|password", name, re.IGNORECASE) for name in unknown)
            raise ConfigError(
                f"unknown part {unknown[0]!r} in the address of a volume", fix=NO_SECRETS if secret else ADDRESS
            )
        if parts.scheme != "s3" or parts.fragment:
            raise ConfigError("not the address of a volume in a bucket", fix=ADDRESS)
        try:
            return cls.model_validate({"bucket": parts.netloc, "prefix": parts.path.strip("/"), **options})
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"address of a volume: wrong {fault['loc'][0]}", fix=ADDRESS) from None

    @property
    def speaks(self) -> Dialect:
        """The dialect, as given or as the host name tells."""
        return DIALECTS[self.dialect or dialect_of(self.endpoint)]

    @property
    def signs_for(self) -> str | None:
        """The region to sign requests for; None leaves it to boto3."""
        return self.region or region_of(self.speaks, self.endpoint) or None

    @property
    def place(self) -> str:
        """Where the volume is, as people read it."""
        host = urlsplit(self.endpoint).netloc
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "") + (f" at {host}" if host else "")

    def below(self, name: str) -> Self:
        """The same bucket, one folder further down."""
        return self.model_copy(update={"prefix": f"{self.prefix}/{name}" if self.prefix else name})


class VolumeConfig(_Frozen):
    """Where studies live. A path alone is `folder`, an `s3://` address alone is `s3`.

    A study always works in a folder of this machine. With `s3` or `mount` everything it publishes is kept there too,
    in the background, and another machine can go on from there.
    """

    folder: str = "runs"
    """Holds the folders of all studies on this machine."""
    s3: S3Config | None = None
    """A bucket: `s3://bucket/prefix?endpoint=https://HOST`, or its parts as keys. docs/volumes.md tells of servers."""
    mount: str = ""
    """In place of a bucket: a folder that outlives this machine, such as a network volume that is mounted."""
    seal_every_s: PositiveFloat = 10.0
    """How often new facts go to the volume: at most so much is lost with the machine, besides work in flight."""
    wait_s: PositiveFloat = 900.0
    """In the end a run waits for its uploads; it gives up when not a byte of a file gets through for so long."""

    @model_validator(mode="before")
    @classmethod
    def _read_address(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"s3": data} if "://" in data else {"folder": data}
        if isinstance(data, dict) and isinstance(data.get("s3"), str):
            data = {**data, "s3": S3Config.parse(data["s3"])}
        return data

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.s3 and self.mount:
            raise ConfigError("a volume has both s3 and mount", where="volume", fix="keep one of them")
        return self

    def kept_at(self, study: str) -> S3Config | str | None:
        """Where a study is kept; None when its folder is all there is."""
        if self.mount:
            return f"{self.mount.rstrip('/')}/{study}"
        return self.s3 and self.s3.below(study)
