"""Results in the store → a ``Report`` → files.

``collect`` reads the store and makes ``Report``; ``compare`` puts its levels side by side and ``statistics`` says which
differences exceed noise. ``render.SECTIONS`` lists what a report holds and ``templates/sections/`` says it, in Markdown and
in the language of ``i18n``; ``*_tables`` and ``interpretation`` compute what is shown. ``render`` fills it in for a Markdown
file or, with ``page``, for one HTML page. ``as_json`` and ``as_csv`` give the figures alone, ``write`` any of these formats.
"""

from cefr_batch.report.write import write_report

__all__ = ["write_report"]
