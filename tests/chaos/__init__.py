"""A campaign of faults against runs of a tiny model, which must end as if nothing had happened."""
