"""SLURM.

``site``: the settings of a site file; ``script``: the request; ``submit``: sending it; ``job``: what runs on the node;
``client``: Slurm's commands and parsing; ``machine``, ``ssh``: where they are run; ``states``: the table of Slurm's states;
``observe``: what becomes of jobs; ``checks``: before submitting; ``scheduler``: all of it behind the interface.
"""
