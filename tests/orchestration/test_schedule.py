"""`drive` against a simulated pool and clock: what starts when, what is retried, what ends how."""

import heapq
from pathlib import Path

import pytest

from harness.experiment.spec import Run
from harness.orchestration.schedule import GRACE_S, Ended, Job, Share, Stop, drive

SHARE = Share(1.0, 1)


class Simulated:
    """`slots` equal places and a clock. `script[id]`: per attempt (duration, word), the last repeated;
    `silent`: makes no reports; `deaf`: ignores a stop."""

    def __init__(self, slots, script, silent=(), deaf=(), biggest=SHARE):
        self.slots, self.script, self.silent, self.deaf, self.biggest = slots, script, silent, deaf, biggest
        self.now, self.running, self.log, self.starts = 0.0, {}, [], {}
        self.queue = []

    def clock(self):
        return self.now

    def room(self, share):
        return len(self.running) < self.slots

    def start(self, job):
        nth = self.starts[job.id] = self.starts.get(job.id, 0) + 1
        plan = self.script[job.id]
        length, word = plan[min(nth, len(plan)) - 1]
        self.log.append((self.now, "start", job.id, job.share))
        self.running[job.id] = (self.now, nth)
        heapq.heappush(self.queue, (self.now + length, job.id, nth, word))

    def _cut(self, id, word, after=0.0):
        heapq.heappush(self.queue, (self.now + after, id, self.running[id][1], word))

    def stop(self, id):
        self.log.append((self.now, "stop", id, None))
        if id not in self.deaf:
            self._cut(id, "interrupted", 2.0)

    def kill(self, id):
        self.log.append((self.now, "kill", id, None))
        self._cut(id, "crashed")

    def wait(self, timeout_s):
        until, out = self.now + timeout_s, []
        while self.queue and self.queue[0][0] <= until:
            when, id, nth, word = heapq.heappop(self.queue)
            if self.running.get(id, (0, 0))[1] == nth:
                self.now = max(self.now, when)
                del self.running[id]
                out.append((id, Ended(word, f"{word} it is")))
        self.now = self.now if out else until
        return out

    def progress(self):
        report = {"nimg": int(self.now)}
        return {id: (0 if id in self.silent else int(self.now), report) for id in self.running}

    def grown(self, share):
        return self.biggest if self.biggest != share else None


def play(pool, run=None, stop=None, ids=None):
    told = []
    jobs = [Job(id, {}, Path(), SHARE) for id in ids or pool.script]
    words = drive(
        jobs, pool, run or Run(), stop or Stop(), lambda job, word, r: told.append((job.id, word, r)), pool.clock
    )
    return words, told


def starts(pool, id):
    return [t for t, what, who, _ in pool.log if what == "start" and who == id]


def test_trials_start_in_their_order_and_fill_every_place():
    pool = Simulated(2, {c: [(10, "done")] for c in "abcde"})
    words, _ = play(pool)
    assert words == dict.fromkeys("abcde", "done")
    assert [who for _, what, who, _ in pool.log if what == "start"] == list("abcde")
    assert pool.now == pytest.approx(30, abs=1)


def test_only_a_lost_process_is_retried_and_with_growing_pauses():
    pool = Simulated(4, {"lost": [(1, "crashed"), (1, "crashed"), (1, "done")], "bug": [(1, "failed")]})
    words, told = play(pool, Run(retries=2))
    assert words == {"lost": "done", "bug": "failed"}
    first, second, third = starts(pool, "lost")
    assert second - first == pytest.approx(2, abs=0.6) and third - second == pytest.approx(3, abs=0.6)
    assert [w for id, w, _ in told if id == "lost" and w != "running"] == ["waiting", "waiting", "done"]


def test_retries_end():
    pool = Simulated(1, {"lost": [(1, "crashed")], "next": [(1, "done")]})
    words, told = play(pool, Run(retries=3))
    assert words == {"lost": "failed", "next": "done"} and pool.starts["lost"] == 4
    assert any("lost 4 times" in (r.get("message") or "") for *_, r in told)


def test_out_of_memory_gets_one_larger_share():
    larger = Share(1.0, 2)
    pool = Simulated(1, {"big": [(1, "oom"), (1, "done")], "huge": [(1, "oom")]}, biggest=larger)
    words, _ = play(pool)
    assert words == {"big": "done", "huge": "oom"} and pool.starts == {"big": 2, "huge": 2}
    assert [s for _, what, who, s in pool.log if what == "start" and who == "big"] == [SHARE, larger]
    assert play(Simulated(1, {"big": [(1, "oom")]}, biggest=SHARE))[0] == {"big": "oom"}


def test_one_that_makes_no_sign_is_lost_like_any_other_and_the_rest_goes_on():
    pool = Simulated(1, {"hangs": [(1e9, "done")], "next": [(5, "done")]}, silent={"hangs"})
    words, told = play(pool, Run(hang_s=30, retries=2))
    assert words == {"hangs": "hung", "next": "done"} and pool.starts["hangs"] == 3
    assert starts(pool, "next")[0] == pytest.approx(30, abs=2), "while the other waits for its second chance"
    said = [r["message"] for id, word, r in told if id == "hangs" and "message" in r]
    assert said[0].startswith("no sign of life for 30 s; retry 1 of 2") and said[-1].endswith("lost 3 times")


def test_one_that_hung_once_is_done_in_the_end():
    class Thawing(Simulated):
        def progress(self):
            return {id: (0 if self.starts[id] == 1 else n, r) for id, (n, r) in super().progress().items()}

    pool = Thawing(1, {"hangs": [(1e9, "done"), (50, "done")]})
    assert play(pool, Run(hang_s=30))[0] == {"hangs": "done"} and pool.starts["hangs"] == 2


@pytest.mark.parametrize("deaf", [False, True])
def test_one_that_outlives_its_time_is_stopped_then_killed(deaf):
    pool = Simulated(1, {"slow": [(1e9, "done")]}, deaf={"slow"} if deaf else ())
    words, _ = play(pool, Run(timeout_s=100))
    assert words == {"slow": "timeout"}
    assert pool.now == pytest.approx(100 + (GRACE_S if deaf else 2), abs=2)
    assert any(what == "kill" for _, what, _, _ in pool.log) == deaf


def test_a_result_that_came_before_the_stop_counts():
    pool = Simulated(1, {"slow": [(101, "done")]})
    assert play(pool, Run(timeout_s=100))[0] == {"slow": "done"}


class StopAt(Stop):
    """As if the user pressed Ctrl-C at these times."""

    def __init__(self, pool, *times):
        self.pool, self.times = pool, times

    asked = property(lambda self: sum(self.pool.now >= t for t in self.times))


def test_the_first_stop_lets_trials_save_the_second_does_not():
    script = {c: [(1e9, "done")] for c in "abc"}
    pool = Simulated(2, script)
    assert play(pool, stop=StopAt(pool, 10))[0] == dict.fromkeys("abc", "interrupted")
    assert "c" not in pool.starts and pool.now == pytest.approx(12, abs=1)
    pool = Simulated(2, script, deaf="ab")
    assert play(pool, stop=StopAt(pool, 10, 15))[0] == dict.fromkeys("abc", "interrupted")
    assert pool.now == pytest.approx(15, abs=1) and {w for _, w, _, _ in pool.log} == {"start", "stop", "kill"}
    pool = Simulated(2, script, deaf="ab")
    play(pool, stop=StopAt(pool, 10))
    assert pool.now == pytest.approx(10 + GRACE_S, abs=1)


def test_a_full_disk_stops_the_matrix():
    class Full(Simulated):
        def wait(self, timeout_s):
            return [(id, e._replace(fatal=int(e.word == "failed"))) for id, e in super().wait(timeout_s)]

    pool = Full(2, {"a": [(5, "failed")], "b": [(1e9, "done")], "c": [(1, "done")]})
    assert play(pool)[0] == {"a": "failed", "b": "interrupted", "c": "interrupted"}


def test_longest_first_on_64_places_is_near_the_lower_bound():
    hours = sorted((3600.0 * (1 + i % 17) for i in range(400)), reverse=True)
    pool = Simulated(64, {f"t{i:03d}": [(h, "done")] for i, h in enumerate(hours)})
    pool.progress = dict  # the clock alone matters
    jobs = [Job(id, {}, Path(), SHARE) for id in pool.script]
    drive(jobs, pool, Run(), Stop(), lambda *_: None, pool.clock, tick_s=600)
    assert pool.now <= 1.05 * max(hours[0], sum(hours) / 64)
