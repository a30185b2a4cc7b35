"""The local web server: try the levels' models side by side, and look at the runs of a store.

``server.serve`` is the way in. Nothing here writes to the store. What a store, a model or a browser says is not trusted:
templates escape everything, scripts set text and never HTML, and no name of theirs becomes a path.
"""
