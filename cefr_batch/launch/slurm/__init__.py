"""SLURM. ``site``: what a site file says; ``script``: the request; ``job``: what runs on the node; ``client``: Slurm's
commands and what they print; ``checks``: before submitting; ``launcher``: all of it together."""
