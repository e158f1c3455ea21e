"""A report's files: the only place that knows both tables and page."""

from pathlib import Path

from harness.disk import write_atomic
from harness.errors import UserError
from harness.report import comparison_text, latex, page, tables
from harness.report.comparison import compare
from harness.report.model import Report


def check_begun(report: Report, results: Path) -> None:
    """Raise UserError where there is no trace of a trial or a matrix: an empty table would look like an answer."""
    if not report.begun and not (results / report.experiment.name).exists():
        name = report.experiment.path
        raise UserError(
            f"{name}: none of its {len(report.outcomes)} trials has begun in {results}; run them first: "
            f"nashboard matrix {name}, or say where they are: --results DIR"
        )


def write(report: Report, results: Path) -> list[Path]:
    """Write tables/*.md|csv|tex, results.csv and report.html under `results`/<experiment>, and tables/*.methods.md|tex
    where methods meet several backbones or sets of data; returns their paths."""
    folder = results / report.experiment.name
    files = {"results.csv": tables.results_csv(report), "report.html": page.html(report)}
    for t in report.tables:
        files[f"tables/{t.table.name}.md"] = tables.markdown(t)
        files[f"tables/{t.table.name}.csv"] = tables.cells_csv(t)
        files[f"tables/{t.table.name}.tex"] = latex.latex(t)
    for c in compare(report):
        files[f"tables/{c.table.table.name}.methods.md"] = comparison_text.markdown(c)
        files[f"tables/{c.table.table.name}.methods.tex"] = comparison_text.latex(c)
    try:
        for name, text in files.items():
            write_atomic(folder / name, text.encode())
    except OSError as e:
        raise UserError(f"{folder}: {e.strerror}; the report needs a folder it can write to") from None
    return [folder / name for name in files]
