"""Results as tables with intervals and verdicts, and as a page. It reads result.json files and nothing else.

model.py       what a report is made of: trials, cells, tables
collect.py     from result.json files to that
names.py       what metrics are called and in which order they stand
statistics.py  intervals, paired differences, verdicts
tables.py      a report as text: console, Markdown, CSV, LaTeX, MLflow's note
charts.py      line, interval and point charts as SVG
page.py        report.html: its tables and fine print
grounds.py     report.html: curves, samples, pictures, cost
style.py       report.html: how it looks
write.py       all of these into files
"""
