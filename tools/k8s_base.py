#!/usr/bin/env python3
"""Write k8s/base, the kustomization for those who live in GitOps, from the code that renders Jobs.

python tools/k8s_base.py [FOLDER]      # default: k8s/base; a test says when it has drifted
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cefr_batch.launch import Batch, JobOrder  # noqa: E402 (the checkout's, whatever is installed)
from cefr_batch.launch.k8s.checks import NEEDED  # noqa: E402
from cefr_batch.launch.k8s.manifest import LABELS, MANAGED, render, to_yaml  # noqa: E402
from cefr_batch.launch.k8s.site import KubernetesSite, load_site  # noqa: E402

RUN, LEVEL = "llama1b-b1-unsloth-v1", "B1"
CONFIG = "cefr-batch"  # the ConfigMap, and the job's service account
SETTINGS = "/etc/cefr-batch"
# What the checks before submitting look at besides, and do without where it is not allowed. Of the Secrets only those that
# jobs use: whoever may create pods can read them anyway.
LOOKED_AT = (
    ("", "resourcequotas", "", ("list",)),
    ("", "limitranges", "", ("list",)),
    ("", "persistentvolumeclaims", "", ("get",)),
    ("", "serviceaccounts", "", ("get",)),
)
COMMON = {LABELS["name"]: "cefr-batch", **MANAGED}

KUSTOMIZATION = f"""\
# Level {LEVEL} as a Job, for `kubectl apply -k` and GitOps. The result is a run like any other: `cefr-batch status`, `logs`,
# `pull` and `report` read it from the store. In an overlay of your own (resources: [.../k8s/base]) change
#   - the store and the settings, in the ConfigMap {CONFIG}
#   - the image, by `images:`
#   - the Job's name, which is the run's: a run is never trained twice, so another training wants another name
#   - node affinity, tolerations and whatever else your nodes need, by `patches:`
# The Secret cefr-batch-store must exist; secret.example.yaml shows its keys. To go on after a failure:
#   kubectl delete job {RUN} && kubectl apply -k k8s/base
# This folder is written by tools/k8s_base.py.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - job.yaml
  - serviceaccount.yaml
  - submitter.yaml
configMapGenerator:
  - name: {CONFIG}
    envs: [store.env]
    files: [settings.yaml]
generatorOptions:
  disableNameSuffixHash: true   # a Job cannot be changed, so its ConfigMap keeps its name
"""
STORE_ENV = """\
# Where the run is kept. Never a key: those are in the Secret.
CEFR_BATCH_STORE=s3://my-bucket/cefr
"""
SETTINGS_YAML = f"""\
# The run's settings, on top of level {LEVEL}'s (jobs/{LEVEL.lower()}.yaml): whatever a profile may hold.
backend: unsloth
"""
EXAMPLE = """\
# Not applied by the kustomization. With workload identity, leave the Secret out, take its three variables out of the Job,
# and annotate the service account.
apiVersion: v1
kind: Secret
metadata:
  name: cefr-batch-store
stringData:
  AWS_ACCESS_KEY_ID: …
  AWS_SECRET_ACCESS_KEY: …
"""
SUBMITTER = """\
# For people who use `cefr-batch submit --cluster k8s` in this namespace: bind the Role to them. Jobs have no rights at all.
# Whether some node has the GPUs that a job asks for, only those can check who may list nodes, too.
"""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "k8s" / "base"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    """The folder's files by name."""
    site = KubernetesSite.model_validate({**load_site("default").model_dump(), "service_account": CONFIG})
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": CONFIG, "labels": COMMON},
        "automountServiceAccountToken": False,
    }
    return {
        "kustomization.yaml": KUSTOMIZATION,
        "store.env": STORE_ENV,
        "settings.yaml": SETTINGS_YAML,
        "secret.example.yaml": EXAMPLE,
        "job.yaml": to_yaml([job(site)]),
        "serviceaccount.yaml": to_yaml([account]),
        "submitter.yaml": SUBMITTER + to_yaml(submitter(site)),
    }


def job(site: KubernetesSite) -> dict[str, Any]:
    """The Job that ``submit`` would send for a run of this name, but that the store's address and the settings come from
    the ConfigMap, and that the job itself begins the run: nobody claimed it before."""
    (rendered,) = render(site, Batch((JobOrder(RUN, "s3://from-the-config-map"),))).objects
    del rendered["metadata"]["annotations"]  # of the store
    pod = rendered["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, _, _, _, *options = container["args"]  # run-job RUN --store URL …
    container["args"] = [command, "$(RUN)", "--level", LEVEL, "--profile", f"{SETTINGS}/settings.yaml", *options]
    container["env"][:0] = [
        {"name": "RUN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['job-name']"}}},
        {"name": "CEFR_BATCH_STORE", "valueFrom": {"configMapKeyRef": {"name": CONFIG, "key": "CEFR_BATCH_STORE"}}},
    ]
    container["volumeMounts"].append({"name": "settings", "mountPath": SETTINGS, "readOnly": True})
    pod["volumes"].append({"name": "settings", "configMap": {"name": CONFIG}})
    return rendered


def submitter(site: KubernetesSite) -> list[dict[str, Any]]:
    """A Role with no more than the client uses, and whom it is bound to."""
    name = {"name": "cefr-batch-submitter", "labels": COMMON}
    secrets = list(dict.fromkeys(key.secret for key in site.secret_keys))
    rules = [rule(*one) for one in (*NEEDED, *LOOKED_AT)]
    rules.append({**rule("", "secrets", "", ("get",)), "resourceNames": secrets})
    group = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "cefr-batch-submitters"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name["name"]}
    api = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    return [
        {**api, "kind": "Role", "metadata": name, "rules": rules},
        {**api, "kind": "RoleBinding", "metadata": name, "subjects": [group], "roleRef": role},
    ]


def rule(group: str, resource: str, subresource: str, verbs: tuple[str, ...]) -> dict[str, Any]:
    named = f"{resource}/{subresource}" if subresource else resource
    return {"apiGroups": [group], "resources": [named], "verbs": list(verbs)}


if __name__ == "__main__":
    main()
