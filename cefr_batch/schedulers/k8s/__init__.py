"""Kubernetes. ``site``: the site file; ``manifest``: the request; ``client``: the cluster's API; ``status``: a job's
state, and why; ``checks``: what is checked before submitting; ``scheduler``: the interface to the rest."""
