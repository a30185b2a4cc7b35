"""The languages of what people read in a file: the report and the rating form.

One catalogue for each language, ``locale/<code>.po``, edited with any gettext tool; ``Language`` looks messages up in it
and formats numbers, durations, sizes and times. Commands and logs are in English and do not use it.
"""
