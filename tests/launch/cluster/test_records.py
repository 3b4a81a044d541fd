"""What lies in a run's folder about its job."""

from pathlib import Path

import submitit

from fcmae.launch.cluster.records import Record, find_records, read_record, write_record


def test_runs_are_found_in_the_order_of_submission(tmp_path: Path) -> None:
    jobs = {"b": "9", "deep/a": "10_2", "c": "10_10", "d": "toy"}
    records = {tmp_path / run: Record(job, "slurm", "probe", "/notes") for run, job in jobs.items()}
    for run, record in records.items():
        write_record(run, record)
        assert read_record(run) == record
    assert [run.name for run in find_records(tmp_path)] == ["d", "b", "a", "c"]
    assert find_records(tmp_path) == records
    assert read_record(tmp_path) is None


def test_notes_are_lines_by_event(tmp_path: Path) -> None:
    record = Record("7", "local", "pretrain", str(tmp_path))
    for node in ("node1", "node2"):
        record.kept.add("started", f"on {node}")
    assert record.noted("started") == ["on node1", "on node2"]
    assert record.kept.file("started") == tmp_path / "7.started"
    assert record.noted("failed") == []


def test_submitit_finds_what_a_job_printed(tmp_path: Path) -> None:
    record = Record("41", "slurm", "pretrain", str(tmp_path))
    for rank in (0, 1):
        record.kept.output(rank).write_text(f"process {rank}")
    job: submitit.SlurmJob[None] = submitit.SlurmJob(folder=tmp_path, job_id="41", tasks=[0, 1])
    assert job.stdout() == "process 0\nprocess 1"
    assert [job.task(rank).paths.stdout for rank in (0, 1)] == [record.kept.output(rank) for rank in (0, 1)]
    assert job.paths.submission_file.name == "41_submission.sh"
