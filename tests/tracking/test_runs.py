"""What MLflow is told that a trial is, and what its run is called and carries."""

import pytest

from harness.tracking import runs


@pytest.mark.parametrize(
    ("live", "result", "closed", "status", "message"),
    [
        ({"state": "running", "message": "warming up"}, {}, False, "running", ""),
        ({"state": "running", "message": "warming up"}, {}, True, "interrupted", "warming up"),
        ({"state": "scoring"}, {}, False, "scoring", ""),
        ({"state": "done", "message": "another's"}, {}, False, "scoring", ""),
        ({"state": "done"}, {}, True, "interrupted", ""),
        ({"state": "running"}, {"status": "done"}, False, "done", ""),
        ({"state": "running"}, {"status": "diverged", "reason": "loss/g"}, True, "diverged", "loss/g"),
        ({"state": "failed", "message": "x" * 5000}, {}, False, "failed", "x" * 4000),
    ],
)
def test_a_run_is_what_its_result_says_else_what_its_driver_still_does(live, result, closed, status, message):
    assert runs.state(live, result, closed) == {"status": status, "message": message}


def test_a_tag_holds_the_earliest_names_and_counts_the_rest():
    told: dict[str, object] = {}
    for i in range(2000):
        told = runs.non_finite(told, [f"loss/g at {i}"])
    assert str(told["text"]).startswith("loss/g at 0, loss/g at 1, ") and len(str(told["text"])) <= 4400
    assert str(told["text"]).count(",") + 1 + int(str(told["more"])) == 2000


def test_a_name_has_only_what_mlflow_takes():
    assert runs.name("loss/g-1.5: a_b") == "loss/g-1.5: a_b"
    assert runs.name("kid (x)%") == "kid _x__"
