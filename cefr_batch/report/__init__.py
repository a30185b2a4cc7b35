"""Results in the store → a ``Report`` → files.

``collect`` reads the store and makes ``Report``, the one data model; ``compare`` puts its levels side by side and
``statistics`` says which differences exceed noise. ``build`` makes a ``Document`` of it in a language: what is said, apart
from how it looks. ``markdown`` and ``html`` render that; ``as_json`` and ``as_csv`` give the figures alone.
"""
