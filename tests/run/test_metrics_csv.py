"""``simclr-dist metrics``."""

import csv
import json

from simclr_dist.run.metrics_csv import as_csv
from simclr_dist.run.metrics_log import MetricsLog, read_metrics
from tests.support.commands import complaint, run_command

RECORDS = [
    {"step": 1, "epoch": 1, "loss": 0.1 + 0.2, "zeta": 1.0},
    {"step": 2, "epoch": 1, "loss": float("nan"), "alpha": 1e-300, "zeta": 2.0},
]


def test_columns_stand_in_one_order_whichever_step_measured_what():
    assert as_csv(RECORDS).splitlines()[0] == "step,epoch,loss,alpha,zeta"
    assert as_csv(RECORDS[::-1]).splitlines()[0] == "step,epoch,loss,alpha,zeta"


def test_the_command_gives_back_every_number_of_metrics_jsonl_to_the_bit(tmp_path, capsys):
    written = MetricsLog(tmp_path, 0)
    for record in RECORDS:
        written.write(record)
    written.close()
    status, printed, _ = run_command(capsys, "metrics", tmp_path)
    read = [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(printed.splitlines())]
    stored = read_metrics(tmp_path / "metrics.jsonl")
    assert (status, read) == (0, [{k: v for k, v in line.items() if v is not None} for line in stored])
    status, told, _ = run_command(capsys, "metrics", tmp_path, "--out", tmp_path / "m.csv")
    assert (status, (tmp_path / "m.csv").read_text()) == (0, printed)
    assert told == f"{tmp_path / 'm.csv'}: 2 steps\n"


def test_lines_that_are_no_records_are_left_out_and_counted(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("rubbish\n" + json.dumps({"step": 1, "loss": 2.5}) + "\n")
    status, printed, told = run_command(capsys, "metrics", tmp_path)
    assert (status, printed) == (0, "step,epoch,loss\n1,,2.5\n")
    assert told.endswith("left out here: 1\n")


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path, capsys):
    status, _, told = run_command(capsys, "metrics", tmp_path)
    assert status == 2
    assert "has no metrics.jsonl" in complaint(told)


def test_a_file_of_another_origin_is_never_replaced(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    (tmp_path / "thesis.txt").write_text("years of work")
    status, _, told = run_command(capsys, "metrics", tmp_path, "--out", tmp_path / "thesis.txt")
    assert (status, (tmp_path / "thesis.txt").read_text()) == (2, "years of work")
    assert "choose another name" in complaint(told)
