"""Labels in LaTeX: printed as they are written, none of them a command."""

import re

import pytest

from harness.report import latex


def unescaped(text):
    """What LaTeX prints of a text, and whatever is left that it would take for a command."""
    printed = {text: sign for sign, text in latex.SIGNS.items() if sign not in "−–"}
    pattern = "|".join(sorted(map(re.escape, printed), key=len, reverse=True))
    text = text.replace("-{}", "-")
    return re.sub(pattern, lambda m: printed[m[0]], text), re.sub(pattern, "", text)


@pytest.mark.parametrize(
    "label",
    [
        r"a\b",
        r"\input{x}",
        "a~b",
        "x^2",
        "a<b>c",
        "50 % & more",
        "$5 #1 _a_ {b}",
        'say "so" `now`',
        "±0 → 1 ≤ 2 ×3",
        "|a|",
        "[a] b*",
        "* λ=0.5",
        "--set -- x---y",
    ],
)
def test_every_label_is_printed_as_it_is_written(label):
    text = latex.written(label)
    printed, rest = unescaped(text)
    assert printed == label and not set(rest) & set('\\~^<>%&$#_{}|"') and "--" not in text
    assert not re.match(r"\s*[*\[]", text), "an option of the \\\\ at the end of the row above"
