"""The restricted Pod Security Standard (which contains the baseline one), rule by rule, as its page puts them:
https://kubernetes.io/docs/concepts/security/pod-security-standards/

A rule looks at a pod's spec and its metadata, and gives the fields that break it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]

CAPABILITIES = {"NET_BIND_SERVICE"}
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def containers(pod: Object) -> Iterator[Object]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod["spec"].get(kind, [])


def contexts(pod: Object) -> Iterator[tuple[str, Object]]:
    """The security contexts: the pod's, then each container's."""
    yield "pod", pod["spec"].get("securityContext", {})
    for container in containers(pod):
        yield container["name"], container.get("securityContext", {})


def effective(pod: Object, *path: str) -> Iterator[tuple[str, Any]]:
    """What counts for each container: its own value, or else the pod's."""
    (_, of_pod), *of_containers = contexts(pod)
    for name, own in of_containers:
        value = _at(own, *path)
        yield name, value if value is not None else _at(of_pod, *path)


def _at(context: Object, *path: str) -> Any:
    value: Any = context
    for key in path:
        value = (value or {}).get(key)
    return value


def host_process(pod: Object) -> list[str]:
    return [name for name, context in contexts(pod) if _at(context, "windowsOptions", "hostProcess")]


def host_namespaces(pod: Object) -> list[str]:
    return [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod["spec"].get(key)]


def privileged(pod: Object) -> list[str]:
    return [name for name, context in contexts(pod) if context.get("privileged")]


def capabilities(pod: Object) -> list[str]:
    wrong = []
    for container in containers(pod):
        own = container.get("securityContext", {}).get("capabilities", {})
        if "ALL" not in own.get("drop", []) or not set(own.get("add", [])) <= CAPABILITIES:
            wrong.append(container["name"])
    return wrong


def volume_types(pod: Object) -> list[str]:
    return [volume["name"] for volume in pod["spec"].get("volumes", []) if not set(volume) - {"name"} <= VOLUMES]


def host_ports(pod: Object) -> list[str]:
    return [one["name"] for one in containers(pod) if any(port.get("hostPort") for port in one.get("ports", []))]


def host_probes(pod: Object) -> list[str]:
    wrong = []
    for container in containers(pod):
        handlers = [container.get(probe, {}) for probe in PROBES]
        handlers += container.get("lifecycle", {}).values()
        actions = [handler.get(kind, {}) for handler in handlers for kind in ("httpGet", "tcpSocket")]
        wrong += [container["name"] for action in actions if action.get("host")]
    return wrong


def app_armor(pod: Object) -> list[str]:
    fields = [
        name
        for name, context in contexts(pod)
        if _at(context, "appArmorProfile", "type") not in (None, "RuntimeDefault", "Localhost")
    ]
    annotations = pod["metadata"].get("annotations", {})
    prefix = "container.apparmor.security.beta.kubernetes.io/"
    return fields + [
        key
        for key, value in annotations.items()
        if key.startswith(prefix) and value != "runtime/default" and not value.startswith("localhost/")
    ]


def selinux(pod: Object) -> list[str]:
    return [
        name
        for name, context in contexts(pod)
        if _at(context, "seLinuxOptions", "type") not in SELINUX_TYPES
        or _at(context, "seLinuxOptions", "user")
        or _at(context, "seLinuxOptions", "role")
    ]


def proc_mount(pod: Object) -> list[str]:
    return [one["name"] for one in containers(pod) if _at(one, "securityContext", "procMount") not in (None, "Default")]


def seccomp(pod: Object) -> list[str]:
    allowed = ("RuntimeDefault", "Localhost")
    return [name for name, kind in effective(pod, "seccompProfile", "type") if kind not in allowed]


def sysctls(pod: Object) -> list[str]:
    given = pod["spec"].get("securityContext", {}).get("sysctls", [])
    return [one["name"] for one in given if one["name"] not in SYSCTLS]


def privilege_escalation(pod: Object) -> list[str]:
    return [
        one["name"] for one in containers(pod) if _at(one, "securityContext", "allowPrivilegeEscalation") is not False
    ]


def non_root(pod: Object) -> list[str]:
    return [name for name, value in effective(pod, "runAsNonRoot") if value is not True]


def non_root_user(pod: Object) -> list[str]:
    return [name for name, context in contexts(pod) if context.get("runAsUser") == 0]


RULES: dict[str, Callable[[Object], list[str]]] = {
    rule.__name__: rule
    for rule in (
        host_process, host_namespaces, privileged, capabilities, volume_types, host_ports, host_probes, app_armor,
        selinux, proc_mount, seccomp, sysctls, privilege_escalation, non_root, non_root_user,
    )
}  # fmt: skip


def violations(pod: Object) -> dict[str, list[str]]:
    """What the rules find wrong with a pod (``metadata`` and ``spec``)."""
    return {name: found for name, rule in RULES.items() if (found := rule(pod))}
