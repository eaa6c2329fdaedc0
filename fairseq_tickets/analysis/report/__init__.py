"""The report: every experiment as one page for the browser, and its figures as objects for a notebook.

`gather` reads files, `phases` and the tables of `fairseq_tickets.analysis` compute, `charts` draw (Altair), `page` lays
out. Needs the extra `[report]`: Altair and Jinja2, and vl-convert, which carries Vega-Lite's JavaScript, so that the
page needs no network. Why these: the script is 0.9 MB (Bokeh's 1.3, Plotly's 4.8), its SVG marks carry names for screen
readers, and a figure is a description in JSON, which holds data and runs nothing.
"""
