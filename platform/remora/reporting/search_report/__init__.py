"""A search as one page and its figures: `remora report SEARCH`.

`record.py` reads the run folder; one module a family of figures makes plain data of it; `charts.py` draws them, and
`page.py` puts them together. Only the last two need the extra "report".
"""
