"""Results in the store → a ``Report`` → a document.

``collect`` reads the store and makes ``Report``, the one data model. ``compare`` puts its levels side by side.
Renderers (``markdown``, ``as_json``) turn both into text and read nothing else.
"""
