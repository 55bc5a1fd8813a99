"""Progress of a refinement: a file that the process at work writes, and the operators' page reads."""

from __future__ import annotations

import contextlib

import pytest

from cdi_stream.refine.desk import QueueDesk
from cdi_stream.refine.progress import JobProgress, ProgressFile, progress_file, read_progress
from cdi_stream.refine.queue import QUEUE, Queue
from tests.refinements import enqueue_jobs


def test_share_and_stage_are_read_back_and_written_once_a_second(tmp_path):
    now_s = [10.0]
    path = progress_file(tmp_path, 3)
    with contextlib.closing(ProgressFile(path, lambda: now_s[0])) as file:
        assert read_progress(path) is None
        file.pass_share(0.1)
        file.enter("12 starts")
        file.pass_share(0.2)
        assert read_progress(path) == JobProgress(share=0.1, stage="first starts")
        now_s[0] += 1
        file.pass_share(0.3)
        assert read_progress(path) == JobProgress(share=0.3, stage="12 starts")
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"share": "much", "stage": ""}', '{"stage": "x"}'])
def test_a_file_that_is_none_tells_nothing(tmp_path, content):
    path = tmp_path / "1.json"
    path.write_text(content)
    assert read_progress(path) is None


def test_a_disk_that_takes_no_file_does_not_end_the_refinement(tmp_path):
    (tmp_path / "progress").write_text("a file where the folder should be")
    file = ProgressFile(progress_file(tmp_path, 3))
    file.pass_share(0.5)
    file.close()


def test_the_page_is_told_of_the_job_at_work_only(tmp_path):
    enqueue_jobs(tmp_path, range(2), "3*ER")
    with contextlib.closing(Queue(tmp_path / QUEUE)) as queue:
        job = queue.lease("worker_0", 60.0)
    for job_id in (job.id, job.id + 1):
        ProgressFile(progress_file(tmp_path, job_id)).pass_share(0.4)
    found = {entry["state"]: entry["progress"] for entry in QueueDesk(tmp_path).jobs(10)}
    assert found == {"leased": {"share": 0.4, "stage": "first starts"}, "ready": None}
