"""A Kubernetes site: ``k8s/<name>.yaml``. Every setting is documented, and has its default, in ``k8s/default.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cefr_batch import __version__
from cefr_batch.config.layers import Layers
from cefr_batch.config.schema import NotifySpec, PositiveInt, StrictModel
from cefr_batch.schedulers.secrets import TRACKER_SECRETS
from cefr_batch.schedulers.sites import PATTERNS as SHARED_PATTERNS
from cefr_batch.schedulers.sites import Line, SiteFile, Time, Variable, load, seconds_of, secrets_in

VERSION = re.sub(r"[^A-Za-z0-9_.-]", "-", __version__)  # as image tags and labels take it
RENAMED = {"several_levels": "job_mode", "keep_finished": "ttl_after_finished"}  # former name → present name

_DNS_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
_IMAGE = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$"
_SIZE = r"^[1-9][0-9]*(Mi|Gi|Ti)$"
PATTERNS = {
    **SHARED_PATTERNS,
    _DNS_NAME: "a Kubernetes name: lower-case letters, digits, dashes and dots, at most 253",
    _DNS_LABEL: "a Kubernetes name: lower-case letters, digits and dashes, at most 63",
    _LABEL_KEY: "the key of a label, as in nvidia.com/gpu.product",
    _LABEL_VALUE: "the value of a label: letters, digits, dashes, dots and underscores, at most 63",
    _IMAGE: "an image, as in registry.example.org/cefr-batch:{version}-cuda, or with @sha256:… and 64 hexadecimal digits",
    _SIZE: "a number and Mi, Gi or Ti, as in 32Gi",
}

DnsName = Annotated[str, Field(pattern=_DNS_NAME)]
DnsLabel = Annotated[str, Field(pattern=_DNS_LABEL)]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]
Size = Annotated[str, Field(pattern=_SIZE)]


def _with_version(image: Any) -> Any:
    """``{version}`` in an image stands for this package's version."""
    return image.replace("{version}", VERSION) if isinstance(image, str) else image


Image = Annotated[str, BeforeValidator(_with_version), Field(pattern=_IMAGE)]


class NodeRule(StrictModel):
    """A label that the nodes which pods may run on have. A node must match all rules."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: list[LabelValue] = Field(default_factory=list)

    @model_validator(mode="after")
    def _values_that_fit(self) -> NodeRule:
        if self.operator in ("Exists", "DoesNotExist"):
            fits, rule = not self.values, "takes no values"
        elif self.operator in ("Gt", "Lt"):
            fits = len(self.values) == 1 and self.values[0].isascii() and self.values[0].isdigit()
            rule = "needs exactly one value, a whole number in quotes"
        else:
            fits, rule = bool(self.values), "needs at least one value"
        if not fits:
            raise ValueError(f"node_affinity: {self.key}: {self.operator} {rule} (got values: {self.values})")
        return self


class Toleration(StrictModel):
    """A taint of nodes on which pods may run nevertheless, in Kubernetes' own terms."""

    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_that_fits(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(
                f"tolerations: {self.key}: Exists takes no value (got {self.value!r}); remove the line 'value'"
            )
        if self.operator == "Equal" and self.key is None:
            raise ValueError("tolerations: Equal needs a key (got none); add it, or set operator: Exists")
        return self


@dataclass(frozen=True)
class SecretKey:
    """An environment variable of the job, read from the key of the same name of a Secret. Unless it is ``optional``, a pod
    does not start without it."""

    variable: str
    secret: str
    optional: bool = False


class KubernetesSite(StrictModel):
    """Where and how jobs run on a Kubernetes cluster. ``k8s/default.yaml`` explains each setting."""

    context: Line | None
    namespace: DnsLabel | None
    image: Image
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"]
    image_pull_secrets: list[DnsName]
    gpu_resource: LabelKey
    gpus: Annotated[int, Field(ge=0)]
    cpus: PositiveInt
    memory: Size
    shared_memory: Size
    disk: Size | None
    work: Size
    cache_claim: DnsName | None
    node_selector: dict[LabelKey, LabelValue]
    node_affinity: list[NodeRule]
    tolerations: list[Toleration]
    runtime_class: DnsName | None
    priority_class: DnsName | None
    queue: LabelValue | None
    job_mode: Literal["jobs", "indexed"]
    time: Time
    grace_seconds: Annotated[int, Field(ge=30, le=86400)]
    max_restarts: Annotated[int, Field(ge=0, le=1000)]
    ttl_after_finished: Time | None
    service_account: DnsName | None
    report_account: DnsName | None
    storage_secret: DnsName | None
    hub_secret: DnsName | None
    tracker_secret: DnsName | None
    run_as: Annotated[int, Field(ge=1, le=2**31 - 1)]
    environment: dict[Variable, Line]
    backend: Literal["unsloth", "peft"]
    gpu: Line | None
    price_per_hour: Annotated[float, Field(ge=0)] | None
    check_gpu: bool
    notify: NotifySpec | None = None
    notify_secret: DnsName | None = None

    def broken_rules(self) -> Iterator[str]:
        """What is wrong with settings of which each is well-formed: why no job can be submitted with them."""
        yield from secrets_in(
            self.environment,
            "put them into a Secret of the cluster (settings storage_secret, hub_secret, tracker_secret, notify_secret)",
        )
        if self.seconds <= 0:
            stops = "a job is stopped when it has run that long; give more than 0 s"
            yield f"time: {self.time} leaves no time to train: {stops}"

    @property
    def seconds(self) -> int:
        """The time limit of a job in seconds."""
        return seconds_of(self.time)

    @property
    def secret_keys(self) -> tuple[SecretKey, ...]:
        """The environment variables that a job gets from Secrets."""
        keys = []
        if self.storage_secret:
            names = (("AWS_ACCESS_KEY_ID", False), ("AWS_SECRET_ACCESS_KEY", False), ("AWS_SESSION_TOKEN", True))
            keys += [SecretKey(name, self.storage_secret, optional) for name, optional in names]
        if self.hub_secret:
            keys.append(SecretKey("HF_TOKEN", self.hub_secret))
        if self.tracker_secret:
            keys += [SecretKey(name, self.tracker_secret, optional=True) for name in TRACKER_SECRETS]
        if self.notify_secret:
            keys.append(SecretKey((self.notify or NotifySpec()).variable, self.notify_secret))
        return tuple(keys)


def read_site(name: str) -> SiteFile[KubernetesSite]:
    """Read and check the site file of this name. Raises ``SpecError`` if there is none."""
    layers = Layers(
        KubernetesSite,
        shorthand={"notify": "variable"},
        patterns=PATTERNS,
        renamed=RENAMED,
        rules=KubernetesSite.broken_rules,
    )
    return load(layers, "k8s", name)


def load_site(name: str) -> KubernetesSite:
    """The site of this name. Raises ``SpecError`` with every problem of its file."""
    return read_site(name).settings
