"""Kubernetes. ``site``: what a site file says; ``manifest``: the request; ``client``: the cluster's API; ``status``: what it
says of a job; ``checks``: before submitting; ``launcher``: all of it together."""
