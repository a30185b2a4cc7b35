"""This machine. ``queue``: the order of its jobs; ``scheduler``: the jobs as processes, behind the interface."""
