"""What of a URI may be shown."""

import pytest

from harness import command
from harness.errors import UserError, redact

SECRET = "hunter2"
GIVEN = (
    f"ftp://me:{SECRET}@host/runs",
    f"FTP://me:{SECRET}@host",
    f"s3://KEY:ab/{SECRET}+c@bucket/runs",  # keys of S3 hold slashes
    f"sftp://me:p@{SECRET}@host:22/runs",
    f"mysql+pymysql://me:?#{SECRET}:@host/db",
    f"https://{SECRET}@host/x",
    f"https://account.host/x?sv=1&sig={SECRET}%3D&se=2",
    f"postgresql://host/db?user=me&password={SECRET}",
    f"postgresql:///db?password={SECRET}",
    f"postgresql://host/db?password=p@{SECRET}",
    f"ftp://me:{SECRET}?a=b@host/x",
    f"ftp://me:p@{SECRET}?a=b@host/x",
    f"simplecache::ftp://me:{SECRET}@host/runs",
    f"zip:///a.png::ftp://me:{SECRET}@host/b.zip",
    f"me:{SECRET}@host:6379",
    f"me:a/{SECRET}@[::1]:6379",
    f"ftp:/me:{SECRET}@host/x.zip",  # a URI taken for a path
    f"/home/me/ftp:/me:{SECRET}@host/x.zip",
)


@pytest.mark.parametrize("uri", GIVEN)
def test_no_secret_of_a_uri_is_shown_wherever_it_stands(uri, monkeypatch):
    for text in (uri, f"--results {uri}: refused", f"('{uri}', \"{uri}\")", f"dataset.path={uri}\n{uri}"):
        assert SECRET not in redact(text) and SECRET not in str(UserError(text))
        assert redact(redact(text)) == redact(text)
    monkeypatch.setattr("sys.argv", ["/x/cli.py", "matrix", "t", f"--results={uri}", uri.replace("hunt", "h u n t")])
    shown = command.words()
    assert shown[:3] == ["cli.py", "matrix", "t"] and len(shown) == 5
    assert SECRET not in str(shown) and "n t" not in str(shown)


@pytest.mark.parametrize(
    "text",
    [
        "no driver works on it; ask me@example.org", "s3://bucket/runs", "sqlite:////home/me@work/results/mlflow.db",
        "process 5 on host: b@c", "git@host:a/b", "file:///home/me@work/x", "and/or: x@y",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_what_is_left_of_a_uri_still_says_where():
    assert redact("no answer from https://me:pass@host:80/x and y") == "no answer from https://***@host:80/x and y"
    assert redact("https://h/x?a=1&b=2#c") == "https://h/x?a=***&b=***"
