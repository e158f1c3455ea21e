"""What is printed, with a terminal and without."""

import io

import pytest
from rich.console import Console

from harness import console
from harness.console import Progress, duration, estimate, show_table

REPORT = {
    "state": "running", "nimg": 12_000, "total_nimg": 64_000, "images_per_s": 250.0,
    "latest": {"di": -0.5, "fd_efficientnet_lite0": 31.25},
}  # fmt: skip


def test_without_a_terminal_there_is_a_line_per_change_and_no_control_codes():
    out = io.StringIO()
    with Progress({"a": "cifar/baseline/s0", "b": "cifar/+ SEL/s0"}, out) as progress:
        for _ in range(50):
            progress("a", "running", REPORT)
        progress("a", "done", {"message": None})
        progress("b", "failed", {"message": "ValueError: no [such] thing"})
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and "\x1b" not in out.getvalue()
    first = "running 12/64 kimg 250 img/s 3 min 28 s left di -0.5 fd_efficientnet_lite0 31.25"
    assert lines[0].replace("cifar/baseline/s0", "").split() == first.split()
    assert lines[1].startswith("done") and lines[2].endswith("ValueError: no [such] thing")


def test_a_terminal_shows_what_runs_what_retries_and_the_counts(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    progress = Progress({str(i): f"trial {i}" for i in range(200)}, io.StringIO())
    for i in range(100):
        progress(str(i), "running", REPORT)
    progress("5", "waiting", {"message": "its process died; retry 1 of 2 in 1 s"})
    progress("6", "done", {})
    screen = Console(file=out, width=120, height=20, force_terminal=True)
    screen.print(progress._draw())
    lines = out.getvalue().splitlines()
    assert len(lines) <= 25
    assert "98 running" in lines[-1] and "101 waiting" in lines[-1] and "of 200 trials" in lines[-1]
    assert any("12/64 kimg" in line and "31.25" in line for line in lines)


def test_a_warning_is_said_once_whatever_follows():
    out = io.StringIO()
    with Progress({"a": "s/align/s0", "b": "s/align/s1"}, out) as progress:
        for _ in range(3):
            progress("a", "running", {**REPORT, "warning": "maps are empty"})
        progress("a", "waiting", {"message": "its process died"})
        progress("a", "running", {**REPORT, "warning": "maps are empty"})
        progress("b", "running", {**REPORT, "warning": "maps are empty"})
        progress("a", "done", {"message": None})
    warned = [line.split() for line in out.getvalue().splitlines() if "empty" in line]
    assert warned == [["warning", who, "maps", "are", "empty"] for who in ("s/align/s0", "s/align/s1")]


def test_a_retry_message_goes_when_the_trial_runs_again():
    progress = Progress({"a": "a"}, io.StringIO())
    progress("a", "waiting", {"message": "its process died"})
    progress("a", "running", {})
    assert not progress._now["a"]["message"]


@pytest.mark.parametrize("word", console.ENDS)
def test_an_end_takes_no_word_of_what_went_on_before(word):
    for message in ("preparing", "88/136 images"):
        out = io.StringIO()
        progress = Progress({"a": "a"}, out)
        progress("a", "running", {"state": "scoring", "message": message})
        progress("a", word, {"message": None})
        progress("a", word, {})
        assert message in out.getvalue().splitlines()[0] and message not in out.getvalue().splitlines()[1]
        progress("a", "waiting", {"message": "once more"})
        progress("a", word, {"message": "for a reason"})
        assert out.getvalue().endswith("for a reason\n")


def test_a_table_without_a_terminal_is_never_cut():
    out = io.StringIO()
    header = ["arm", *(f"fd_efficientnet_lite0 on setting {i}" for i in range(6))]
    show_table("Table 2", header, [["baseline", *["12.31 ± 0.42 (3)"] * 6], ["+ SEL", *["–"] * 6]], stream=out)
    text = out.getvalue()
    assert "…" not in text and text.count("12.31 ± 0.42 (3)") == 6 and header[6] in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (86400 * 3 + 4 * 3600, "3 d 4 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_estimates():
    assert estimate(12.314, 0.421, 3) == "12.31 ± 0.42 (3)"
    assert estimate(-0.01234, None, 1) == "-0.0123 (1)"


def test_an_error_is_one_line(capsys):
    console.error("experiments/x.yaml: train:\n  'lots of [red]words[/red]'" + " and more" * 30)
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and "[red]" in err and err.startswith("error: ")
