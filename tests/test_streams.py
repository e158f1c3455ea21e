"""Printing never changes the outcome of what was done: through streams, and through the command line."""

import contextlib
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cli
from harness import console
from harness.streams import PLAIN, Stream, fitting, safe, unfailing
from harness.trial import run as trial

ROOT = Path(__file__).parent.parent
ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "koi8-r", "shift_jis", "utf-8")
TINY = """
    name: tiny
    preset: chainer
    seeds: [0, 1]
    conditional: false
    dataset: {name: synthetic, resolution: 32, num_images: 32}
    backbone: {width: 0.0625, z_dim: 8}
    train: {total_kimg: 0.016, batch_size: 8, tick_kimg: 0.016}
    arms: {baseline: {}, sel: {sel: {hidden: 4}}}
    labels: {baseline: "Grundlinie für 日本 → ∞"}
    eval: {num_fakes: 16, batch_size: 8, metrics: {disequilibrium: {n: 4, repeats: 2}}}
    run: {device: cpu}
"""


# ── texts ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_text_fits_every_encoding_and_keeps_its_digits(encoding):
    text = "FD ↓ −6.80 ± 0.21† (2 of 3: diverged) – Δ½ ünï 日本 \udcff"
    shown = fitting(text, encoding)
    shown.encode(encoding)
    assert "6.80" in shown and "0.21" in shown and "(2 of 3: diverged)" in shown
    assert "?6.80" not in shown  # a minus is a minus
    assert fitting("plain words: -1.5", encoding) == "plain words: -1.5"


def test_what_an_encoding_has_stays():
    assert fitting("± ü −", "latin-1") == "± ü -" and fitting("± ü −", "utf-8") == "± ü −"
    assert all(sign.isascii() for sign in PLAIN.values())


# ── streams ──────────────────────────────────────────────────────────────────


class Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error, self.asked = error, 0

    def write(self, text):
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"), OSError(5, "I/O"), ValueError("closed")]
)
def test_a_stream_that_fails_is_left_alone_from_then_on(error):
    under = Failing(error)
    stream = Stream(under)
    assert stream.write("ab") == 2
    stream.write("c")
    stream.flush()
    assert under.asked == 1


def test_only_trouble_that_nobody_meant_is_told(capsys):
    for error in (BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")):
        Stream(Failing(error), "standard output").write("a")
    assert capsys.readouterr().err.splitlines() == [
        "nashboard: standard output: No space left on device; what is still to say is not shown"
    ]


def test_a_stream_that_is_not_there_takes_everything(monkeypatch):
    safe(None).write("a")
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with unfailing():
        print("−", "a")
        print("−", file=sys.stderr)
    assert sys.stdout is None


def test_after_it_streams_are_what_they_were():
    before = sys.stdout, sys.stderr
    with contextlib.suppress(SystemExit), unfailing():
        assert safe(sys.stdout) is sys.stdout is not before[0]
        sys.exit(3)
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "koi8-r"])
def test_a_table_stays_in_line_where_signs_are_spelled_out(encoding):
    raw = io.BytesIO()
    rows = [("baseline", "−6.80 ± 0.21", "–"), ("über", "+0.12 ± 11.00", "±1")]
    stream = io.TextIOWrapper(raw, encoding, write_through=True)
    console.show_table("± t", ("Arm", "FID ↓", "vs"), rows, stream=stream)
    lines = [line for line in raw.getvalue().decode(encoding).splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1


# ── the command line ─────────────────────────────────────────────────────────


@contextlib.contextmanager
def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        yield pipe


OUTPUTS = {
    **{e: lambda e=e: contextlib.nullcontext(io.TextIOWrapper(io.BytesIO(), encoding=e)) for e in ENCODINGS},
    "a closed pipe": broken_pipe,
    "a full disk": lambda: Path("/dev/full").open("w"),  # noqa: SIM115
    "none": contextlib.nullcontext,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which a matrix, whose output went to a pipe that nobody read, has come to its end."""
    here = tmp_path_factory.mktemp("streams")
    (here / "tiny.yaml").write_text(textwrap.dedent(TINY), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, broken_pipe() as out, broken_pipe() as err:
        patch.chdir(here)
        patch.setenv("NASHBOARD_CACHE", str(here / "cache"))
        patch.setattr(trial, "draw", lambda *_: {})  # takes longer than all else
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        assert cli.main(["matrix", "tiny.yaml", "--local", "--tracking-uri", "off"]) == 0
    return here


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("verb", ["matrix", "report", "status", "plan"])
def test_every_verb_ends_as_its_work_did_wherever_its_words_go(finished, monkeypatch, verb, output):
    assert len(list(finished.glob("results/trials/*/result.json"))) == 4
    monkeypatch.chdir(finished)
    monkeypatch.setenv("NASHBOARD_CACHE", str(finished / "cache"))
    more = ["--local", "--tracking-uri", "off"] if verb == "matrix" else []
    with OUTPUTS[output]() as out, OUTPUTS[output]() as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert cli.main([verb, "tiny.yaml", *more]) == 0
        assert cli.main([verb, "gone.yaml", *more]) == 2
    if output in ENCODINGS:
        said = out.buffer.getvalue().decode(output)
        assert "tiny" in said and ("baseline" in said or "nie f" in said)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["status", "gone.yaml"], ["nonsense"]])
@pytest.mark.parametrize(
    "closing", ["", ">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full", "| true", "2>&1 | true"]
)
def test_a_process_ends_with_the_code_of_its_work(words, closing, tmp_path):
    line = f'"{sys.executable}" "{ROOT / "cli.py"}" {" ".join(words)} {closing}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (0 if words == ["--help"] else 2)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
