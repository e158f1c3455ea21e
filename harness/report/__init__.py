"""From results to tables and a page.

model.py       what a report is
collect.py     result.json files into one
record.py      what may stand in a result.json
names.py       what a person calls things, and their order
networks.py    a metric that measures with what an arm was trained with
statistics.py  intervals, paired tests, verdicts
tables.py      as text: console, Markdown, CSV
latex.py       as LaTeX
effects.py     what columns share: ratios, differences in sds, certainty within a page
comparison.py  methods against backbones and data; comparison_text.py: as text, Markdown, LaTeX;
               comparison_page.py: as a section of report.html
charts.py      its drawings
page.py        report.html
grounds.py     its section on what stands behind the figures
style.py       its style sheet
write.py       all of it into files
"""
