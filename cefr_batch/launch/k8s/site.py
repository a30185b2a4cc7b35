"""A Kubernetes site: ``k8s/<name>.yaml``. Every setting is documented, and has its default, in ``k8s/default.yaml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cefr_batch.launch.sites import PATTERNS as SHARED_PATTERNS
from cefr_batch.launch.sites import Line, Time, Variable, load, refuse_secrets, seconds_of
from cefr_batch.levels import Part, PositiveInt
from cefr_batch.settings import Layers

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
    _IMAGE: "an image, as in registry.example.org/cefr-batch:0.1.0-cuda, or with @sha256:… and 64 hexadecimal digits",
    _SIZE: "a number and Mi, Gi or Ti, as in 32Gi",
}

DnsName = Annotated[str, Field(pattern=_DNS_NAME)]
DnsLabel = Annotated[str, Field(pattern=_DNS_LABEL)]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]
Size = Annotated[str, Field(pattern=_SIZE)]


class NodeRule(Part):
    """A node that a pod may run on has a label like this. All rules count."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: list[LabelValue] = Field(default_factory=list)

    @model_validator(mode="after")
    def _values_that_fit(self) -> NodeRule:
        if self.operator in ("Exists", "DoesNotExist"):
            fits = not self.values
        elif self.operator in ("Gt", "Lt"):
            fits = len(self.values) == 1 and self.values[0].isascii() and self.values[0].isdigit()
        else:
            fits = bool(self.values)
        if not fits:
            raise ValueError(
                f"node_affinity: {self.key}: In and NotIn need values, Gt and Lt one whole number in quotes, Exists and "
                "DoesNotExist none"
            )
        return self


class Toleration(Part):
    key: LabelKey | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_that_fits(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(f"tolerations: {self.key}: Exists has no value")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("tolerations: without a key only Exists is possible")
        return self


@dataclass(frozen=True)
class SecretKey:
    """A variable of the job, read from the key of this name of a Secret; a pod without it does not start unless it is
    ``optional``."""

    variable: str
    secret: str
    optional: bool = False


class KubernetesSite(Part):
    context: Line | None
    namespace: DnsLabel | None
    image: Annotated[str, Field(pattern=_IMAGE)]
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
    several_levels: Literal["jobs", "indexed"]
    time: Time
    grace_seconds: Annotated[int, Field(ge=30, le=86400)]
    max_restarts: Annotated[int, Field(ge=0, le=1000)]
    keep_finished: Time | None
    service_account: DnsName | None
    storage_secret: DnsName | None
    hub_secret: DnsName | None
    run_as: Annotated[int, Field(ge=1, le=2**31 - 1)]
    environment: dict[Variable, Line]
    backend: Literal["unsloth", "peft"]
    gpu: Line | None
    price_per_hour: Annotated[float, Field(ge=0)] | None
    check_gpu: bool

    @model_validator(mode="after")
    def _no_secrets(self) -> KubernetesSite:
        refuse_secrets(self.environment, "put them into a Secret of the cluster, see storage_secret and hub_secret")
        return self

    @model_validator(mode="after")
    def _time_to_train(self) -> KubernetesSite:
        if self.seconds <= 0:
            raise ValueError(f"time: {self.time} leaves no time to train")
        return self

    @property
    def seconds(self) -> int:
        """The time limit."""
        return seconds_of(self.time)

    @property
    def secret_keys(self) -> tuple[SecretKey, ...]:
        """What a job gets from Secrets."""
        keys = []
        if self.storage_secret:
            names = (("AWS_ACCESS_KEY_ID", False), ("AWS_SECRET_ACCESS_KEY", False), ("AWS_SESSION_TOKEN", True))
            keys += [SecretKey(name, self.storage_secret, optional) for name, optional in names]
        if self.hub_secret:
            keys.append(SecretKey("HF_TOKEN", self.hub_secret))
        return tuple(keys)


def load_site(name: str) -> KubernetesSite:
    """The site of this name. Raises ``SpecError`` with every problem of its file."""
    return load(Layers(KubernetesSite, patterns=PATTERNS), "k8s", name)
