"""The bench of phasing goes on where it stopped."""

from __future__ import annotations

import json
import math

import torch

from cdi_stream.networks.unsupervised import UnsupervisedSchedule, refine_weights
from cdi_stream.networks.wu2021 import small
from tests.bench.record import Case, SkippedError, lines_of, measure


def counting(key, done, error=None):
    def run():
        done.append(key)
        if error:
            raise error
        return {"value": math.nan}

    return Case(key=key, measure=run)


def test_what_is_measured_is_not_measured_again(tmp_path):
    file, done = tmp_path / "new" / "lines.jsonl", []
    measure([counting("a", done), counting("b", done)], file)
    measure([counting("a", done), counting("b", done), counting("c", done)], file)
    assert done == ["a", "b", "c"]
    assert [json.loads(text)["value"] for text in file.read_text().splitlines()] == [None] * 3


def test_what_was_skipped_or_failed_is_tried_again(tmp_path):
    file, done = tmp_path / "lines.jsonl", []
    measure([counting("a", done, SkippedError("no peer")), counting("b", done, ValueError("no crystal"))], file)
    assert [line["skipped"] for line in lines_of(file).values()] == ["no peer", "ValueError: no crystal"]
    measure([counting("a", done), counting("b", done)], file)
    assert done == ["a", "b"] * 2
    assert not any("skipped" in line for line in lines_of(file).values())


def test_a_line_that_was_cut_short_costs_only_itself(tmp_path):
    file, done = tmp_path / "lines.jsonl", []
    measure([counting("a", done), counting("b", done)], file)
    file.write_text(file.read_text()[:-5])
    measure([counting("a", done), counting("b", done)], file)
    measure([counting("a", done), counting("b", done)], file)
    assert done == ["a", "b", "b"]


def test_nothing_is_begun_when_the_time_is_over(tmp_path):
    done = []
    measure([counting(key, done) for key in "abc"], tmp_path / "lines.jsonl", lambda: len(done) >= 2)
    assert done == ["a", "b"]


def test_the_refinement_of_weights_can_be_watched():
    torch.manual_seed(0)
    network, seen = small((4, 6), (4,)).eval(), []
    magnitude, everywhere = torch.rand(16, 16, 16), torch.ones(16, 16, 16, dtype=torch.bool)
    best = refine_weights(
        network, magnitude, everywhere, UnsupervisedSchedule(steps=3), watch=lambda *terms: seen.append(terms)
    )
    assert [step for step, *_ in seen] == [1, 2, 3]
    assert (best.chi2, best.correlation) in [(misfit, correlation) for _, _, misfit, correlation in seen]
