"""What a Kubernetes site lacks, found before anything is submitted to it.

The API server judges: dry runs of what would be created, access reviews, and reads of the objects that a site names.
Where pods have room is the scheduler's business: a pod that waits says why, and ``status`` shows that.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from cefr_batch.schedulers.base import Check
from cefr_batch.schedulers.k8s.changes import Change, changes_of
from cefr_batch.schedulers.k8s.client import ApiError, Cluster, Object, connect
from cefr_batch.schedulers.k8s.site import KubernetesSite
from cefr_batch.schedulers.secrets import STORE_SECRETS
from cefr_batch.store import StoreKeys, own_keys

# What submit, status, logs, cancel and resume ask for: group, resource, subresource, verbs.
NEEDED = (
    ("batch", "jobs", "", ("create", "get", "list", "delete")),
    ("", "pods", "", ("list",)),
    ("", "pods", "log", ("get",)),
    ("", "events", "", ("list",)),
)


# Fields of a Job that an older server may drop, and what that costs the user (empty: nothing).
_DISPENSABLE = {
    "spec.podFailurePolicy": "a pod that is evicted counts as a failed one (max_restarts says how many may fail), and a run "
    "with a mistake in its settings is tried just as often before it fails",
    "spec.podReplacementPolicy": "",  # the next pod's job waits for one that still stops
    "spec.ttlSecondsAfterFinished": "finished Jobs are not removed (ttl_after_finished): delete them yourself, with "
    "`kubectl delete job NAME`",
}


def check(site: KubernetesSite, site_file: str, store_url: str, jobs: Sequence[Object]) -> list[Check]:
    """Every check of a site, in the order of a checklist. Blocks for about fifteen requests; changes nothing.

    ``site_file``: the site's file, for messages; ``jobs``: Jobs as they would be submitted, with this store.
    """
    try:
        cluster = connect(site.context)
    except ApiError as exc:
        return [Check("kubeconfig", f"{site_file}: {exc}")]
    try:
        version = cluster.version()
        reached = Check(f"context {cluster.context}", note=f"Kubernetes {version}")
        namespace = site.namespace or cluster.namespace
        return [reached, *_SiteChecks(cluster, version, namespace, site, site_file, store_url).all(jobs)]
    except ApiError as exc:
        return [Check(f"context {cluster.context}", str(exc))]


@dataclass(frozen=True)
class _SiteChecks:
    cluster: Cluster
    version: str
    namespace: str
    site: KubernetesSite
    site_file: str
    store_url: str

    def all(self, jobs: Sequence[Object]) -> list[Check]:
        exists = self.namespace_exists()
        if exists is False:
            return [self.namespace_check(exists, denied=[])]
        denied = self.denied()
        found = [
            self.namespace_check(exists, denied),
            self.permissions(denied),
            *self.secrets(),
            *self.named_objects(),
            *self.queue(),
            *self.nodes(),
            *self.image(),
        ]
        if "create jobs" not in denied:
            found += [*self.jobs_accepted(jobs), self.pod_accepted(jobs[0])]
        return found

    def namespace_exists(self) -> bool | None:
        """Whether the namespace is there; None where this user may not look."""
        try:
            return self.cluster.read("namespace", self.namespace) is not None
        except ApiError as exc:
            if exc.status != 403:
                raise
            return None

    def namespace_check(self, exists: bool | None, denied: Sequence[str]) -> Check:
        """``denied``: what this user may not do there. Who has all rights in a namespace need not be able to see it; the dry
        run of the Jobs finds out whether it is there."""
        what = f"namespace {self.namespace}"
        if exists is None and denied:
            return Check(what, f"{what}: not checked, since you may not read namespaces", warning=True)
        if exists is not False:
            return Check(
                what, note="" if exists else "you may not read it, but you have the rights in it that jobs need"
            )
        create = f"create it (kubectl create namespace {self.namespace}), or correct `namespace` in {self.site_file}"
        problem = f"the cluster of the context {self.cluster.context} has no namespace {self.namespace!r}: {create}"
        return Check(what, problem)

    @property
    def where_it_is_from(self) -> str:
        """What names the namespace, and how to see the context's."""
        shows = "`kubectl config view --minify` shows the context's"
        return f"`namespace` in {self.site_file} names it; {shows}" if self.site.namespace else shows

    def denied(self) -> list[str]:
        """What this user may not do of what is needed, as in ``create jobs``."""
        return [
            _right(verb, resource, subresource)
            for group, resource, subresource, verbs in NEEDED
            for verb in verbs
            if not self.cluster.may(self.namespace, verb, group, resource, subresource)
        ]

    def permissions(self, denied: Sequence[str]) -> Check:
        needed = [_right(verb, resource, part) for _, resource, part, verbs in NEEDED for verb in verbs]
        ask = "ask your cluster's administrators for the Role in k8s/base/submitter.yaml"
        may_not = f"in the namespace {self.namespace} you may not {', '.join(denied)}"
        problem = f"{may_not}: the namespace may be the wrong one ({self.where_it_is_from}); if it is right, {ask}"
        granted = [one for one in needed if one not in denied]
        return Check("permissions", problem if denied else "", note=", ".join(granted))

    def secrets(self) -> Iterator[Check]:
        keys = self.site.secret_keys
        for name in dict.fromkeys(key.secret for key in keys):
            needed = [key.variable for key in keys if key.secret == name and not key.optional]
            yield self.secret(name, needed)
        if not self.site.storage_secret and not self.site.service_account:
            why = (
                "neither storage_secret nor service_account is set: pods reach the store only if their nodes have "
                "credentials for it"
            )
            yield Check("credentials for the store", f"{self.site_file}: {why}", warning=True)

    def secret(self, name: str, needed: Sequence[str]) -> Check:
        """Whether the Secret is there, with these keys and, if it is the store's, those of this shell. Shows no value."""
        what, shown = f"secret {name}", ", ".join(needed)
        try:
            secret = self.cluster.read("namespaced_secret", name, self.namespace)
        except ApiError as exc:
            return _not_readable(what, exc)
        of_store = name == self.site.storage_secret
        own = self.own_keys if of_store else None
        literals = " ".join(f'--from-literal={key}="${key}"' for key in [*needed, *_token_of(own)])
        create = f"kubectl create secret generic {name} --namespace {self.namespace} {literals}"
        if secret is None:
            lacks = f"the namespace {self.namespace} has no Secret {name}"
            return Check(what, f"{self.site_file}: {lacks}; with the keys in your shell, create it: {create}")
        held = {key: b64decode(value) for key, value in (secret.get("data") or {}).items() if value}
        missing = [key for key in needed if key not in held]
        wrong = f"the Secret {name} has no {', '.join(missing)}" if missing else ""
        if of_store and not missing:
            wrong = _wrong_keys(name, held, own)
            shown += "" if _are_of(held, own) else "; its keys are not this shell's, and were not tried"
        again = f"kubectl delete secret {name} --namespace {self.namespace}; {create}"
        problem = f"{self.site_file}: {wrong}; with the keys in your shell, create it again: {again}" if wrong else ""
        return Check(what, problem, note=shown)

    @cached_property
    def own_keys(self) -> StoreKeys | None:
        """The keys with which this process opens the store."""
        return own_keys(self.store_url)

    def named_objects(self) -> Iterator[Check]:
        """Whether the other objects that the site names exist."""
        site, read, read_of_cluster = self.site, self.cluster.read, self.cluster.read_of_cluster
        named: list[tuple[str, str, str | None]] = [
            *(("image_pull_secrets", "secret", name) for name in site.image_pull_secrets),
            ("service_account", "service_account", site.service_account),
            ("report_account", "service_account", site.report_account),
            ("cache_claim", "persistent_volume_claim", site.cache_claim),
        ]
        for setting, kind, name in named:
            if name:
                find = partial(read, f"namespaced_{kind}", name, self.namespace)
                yield self.exists(setting, kind, name, f"the namespace {self.namespace}", find)
        for setting, group, plural, name in (
            ("priority_class", "scheduling.k8s.io", "priorityclasses", site.priority_class),
            ("runtime_class", "node.k8s.io", "runtimeclasses", site.runtime_class),
        ):
            if name:
                yield self.exists(setting, setting, name, "the cluster", partial(read_of_cluster, group, plural, name))

    def exists(self, setting: str, kind: str, name: str, where: str, find: Callable[[], Object | None]) -> Check:
        what = f"{kind.replace('_', ' ')} {name}"
        problem = f"{self.site_file}: {setting}: {where} has no {what}; create it, or correct the setting"
        return _unless_forbidden(what, lambda: "" if find() else problem)

    def nodes(self) -> Iterator[Check]:
        """Whether rules for GPU nodes were left in place for jobs without a GPU. Which nodes there are is not asked: most
        users may not list them."""
        vendor = self.site.gpu_resource.partition("/")[0]
        rules = [*(rule.key for rule in self.site.node_affinity), *self.site.node_selector]
        left = [key for key in rules if key.partition("/")[0] == vendor]
        if left and not self.site.gpus:
            yield Check(
                "nodes",
                f"{self.site_file}: gpus is 0, but jobs are still limited to nodes with {', '.join(left)}; for nodes "
                "without GPUs set `node_affinity: []`",
                warning=True,
            )

    def image(self) -> Iterator[Check]:
        """Whether the image has no registry in its name: nodes look for such an image on Docker Hub, where ours is not."""
        image = self.site.image
        if "/" not in image and self.site.image_pull_policy != "Never":
            named = f"{self.site_file}: image: {image} (the default, if the file sets none)"
            problem = f"{named} names no registry, so nodes cannot pull it"
            yield Check(
                "image",
                f"{problem}; push the image to a registry, and name it as in registry.example.org/{image}",
                warning=True,
            )

    def queue(self) -> Iterator[Check]:
        """Whether the queue is there, and admits Jobs."""
        if self.site.queue:
            what = f"queue {self.site.queue}"
            yield _unless_forbidden(what, partial(self.queue_problem, self.site.queue))

    def queue_problem(self, name: str) -> str:
        where = f"{self.site_file}: queue"
        if not self.cluster.kueue:
            return (
                f"{where}: {name!r} would be a queue of Kueue, which the cluster does not have; install it, or set "
                "queue: null"
            )
        found = self.cluster.queue(self.namespace, name)
        if found is None:
            lists = f"`kubectl get localqueues --namespace {self.namespace}` lists those that are there"
            return f"{where}: the namespace {self.namespace} has no LocalQueue {name}; {lists}"
        conditions: list[Object] = (found.get("status") or {}).get("conditions") or []
        active = next((one for one in conditions if one["type"] == "Active"), Object())
        if (held := (found.get("spec") or {}).get("stopPolicy", "None")) != "None":
            return f"{where}: {name} is stopped (stopPolicy: {held}), so no Job would start; ask your administrators"
        if active.get("status") == "False":
            said = active.get("message") or active.get("reason")
            return f"{where}: {name} admits no Jobs: {said}; ask your administrators"
        return ""

    def jobs_accepted(self, jobs: Iterable[Object]) -> Iterator[Check]:
        """Whether the server would create these Jobs (its validation, admission webhooks, quotas that count Jobs), and
        create them as they are sent: a server drops fields that it does not know, and says that all is well."""
        what, changes = "dry run of the Jobs", list[Change]()
        try:
            for job in jobs:
                changes += changes_of(job, self.cluster.create_job(self.namespace, job, dry_run=True))
        except ApiError as exc:
            yield self.refused(what, exc)
            return
        fields = dict.fromkeys(one.field for one in changes if one.dropped)
        unknown = [field for field in fields if field not in _DISPENSABLE]
        harmless = ", ".join(field for field in fields if _DISPENSABLE.get(field) == "")
        note = f"Kubernetes {self.version} has no {harmless}, which jobs can do without" if harmless else ""
        yield Check(what, self.drops(unknown) if unknown else "", note=note)
        for field in fields:
            if cost := _DISPENSABLE.get(field):
                yield Check(field, f"{field}: Kubernetes {self.version} does not have it, so {cost}", warning=True)
        if changed := dict.fromkeys(str(one) for one in changes if not one.dropped):
            problem = f"{self.site_file}: the cluster changes what is sent: {', '.join(changed)}"
            yield Check("fields of the Jobs", f"{problem}; see its admission webhooks", warning=True)

    def drops(self, fields: Sequence[str]) -> str:
        indexed = any(field.startswith("spec.completionMode") for field in fields)
        remedy = "set job_mode: jobs" if indexed else "use a newer cluster, or leave out the settings that need them"
        return (
            f"{self.site_file}: the server (Kubernetes {self.version}) would accept the Jobs, but drop what it does not "
            f"know: {', '.join(fields)}; {remedy}"
        )

    def pod_accepted(self, job: Object) -> Check:
        """Whether the server would create a Job's pod: Pod Security, limit ranges, quotas that count pods.

        The server looks at these when the Job's controller creates the pod. To ask beforehand takes the right to create
        pods, which the Role in k8s/base does not give: without it, ``status`` says what keeps a pod from being created.
        A quota that is used up is a warning: the controller tries again, and it may be free by then.
        """
        what, template = "dry run of a pod", job["spec"]["template"]
        if not self.cluster.may(self.namespace, "create", "", "pods"):
            return Check(what, note="skipped, since you may not create pods; status says if one cannot be created")
        metadata = {**template["metadata"], "name": job["metadata"]["name"]}
        try:
            self.cluster.dry_run_pod(
                self.namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
            )
        except ApiError as exc:
            if "exceeded quota" in str(exc):
                waits = f"a pod has to wait until the quota of the namespace {self.namespace} has room: {exc}"
                return Check(what, f"{self.site_file}: {waits}", warning=True)
            return self.refused(what, exc)
        return Check(what)

    def refused(self, what: str, exc: ApiError) -> Check:
        """The check of a dry run that the server refused. Raises ``exc`` again if the server did not answer."""
        if not exc.status:
            raise exc
        if "does not support dry run" in str(exc):  # an admission webhook
            return Check(what, f"{what}: not checked: {exc}", warning=True)
        return Check(what, f"{self.site_file}: Kubernetes would refuse it ({what}): {exc}")


def _unless_forbidden(what: str, find_problem: Callable[[], str]) -> Check:
    """The check's result; a warning where this user may not look."""
    try:
        return Check(what, find_problem())
    except ApiError as exc:
        return _not_readable(what, exc)


def _not_readable(what: str, exc: ApiError) -> Check:
    """The check of what this user may not read. Raises any other error again."""
    if exc.status != 403:
        raise exc
    return Check(what, f"{what}: not checked, since you may not read it: {exc}", warning=True)


def _right(verb: str, resource: str, subresource: str) -> str:
    return f"{verb} {resource}/{subresource}" if subresource else f"{verb} {resource}"


# The store's keys in a Secret. None of their values is ever shown.

_ID, _SECRET, _TOKEN = STORE_SECRETS


def _token_of(own: StoreKeys | None) -> list[str]:
    return [_TOKEN] if own and own.session_token else []


def _are_of(held: Mapping[str, bytes], own: StoreKeys | None) -> bool:
    """Whether a Secret's keys are meant to be these."""
    return own is not None and held[_ID] == own.access_key_id.encode()


def _wrong_keys(name: str, held: Mapping[str, bytes], own: StoreKeys | None) -> str:
    """Why the store would not accept a Secret's keys, as far as that can be told; else empty."""
    for key in STORE_SECRETS:
        value = held.get(key, b"")
        if value != value.strip():
            line = value.endswith((b"\n", b"\r"))
            how = "ends with a line break" if line else "begins or ends with a space or a line break"
            return f"the {key} in the Secret {name} {how}, so no store would accept it"
    if own and (held[_ID], held[_SECRET]) == (own.secret_access_key.encode(), own.access_key_id.encode()):
        return f"in the Secret {name}, the values of {_ID} and {_SECRET} are exchanged"
    if own is None or not _are_of(held, own):
        return ""
    expected = {_SECRET: own.secret_access_key, _TOKEN: own.session_token}
    others = [key for key, value in expected.items() if held.get(key, b"") != value.encode()]
    return (
        f"the Secret {name} has the AWS_ACCESS_KEY_ID of this shell, but not its {' and '.join(others)}"
        if others
        else ""
    )
