"""A run of any method: console, status, report, health and anomalies know its metrics by their descriptions alone."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from simclr_dist.config.metric import EVERY_METHOD, Metric
from simclr_dist.config.registry import method_class
from simclr_dist.distributed.processes import Processes
from simclr_dist.guards.anomalies import read_anomalies
from simclr_dist.guards.health_bands import read_record
from simclr_dist.launch.slurm import records, watching
from simclr_dist.methods.simclr import SimCLR
from simclr_dist.reporting.facts import read_facts
from simclr_dist.reporting.page import page
from simclr_dist.run import console
from simclr_dist.run.console import Reporter
from simclr_dist.run.descriptions import method_of, read_method, read_metric_descriptions
from simclr_dist.run.metrics_log import read_metrics, write_run_facts
from simclr_dist.training.pretraining import pretrain
from tests.support.other_method import ENCODER, NAME, Distance
from tests.support.processes import tiny_config

STEPS = 12


def train(folder: Path, *overrides: str) -> Path:
    folder.mkdir(parents=True)
    config = tiny_config(folder, *overrides)
    pretrain(config, Processes())
    return Path(config.machine.run_dir)


@pytest.fixture(scope="module")
def outside_run(tmp_path_factory) -> Path:
    bands = "{2: [0, 99999], 5: [99998, 99999], 9: [0, 1]}"  # 88 steps: after 2, 5 and 8 of them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "_LINE_EVERY_SECONDS", 0.0)
        return train(
            tmp_path_factory.mktemp("outside") / "a", f"recipe.method.name={NAME}", f"recipe.encoder.name={ENCODER}",
            f"machine.stop_after_steps={STEPS}", "recipe.warmup_epochs=0", "recipe.anomalies.window_steps=10",
            "recipe.anomalies.collapse_below=1", f"health.view_distance.bands={bands}",
            "health.view_distance.source=a test", "health.view_distance.unpublished=[50]",
        )  # fmt: skip


@pytest.fixture(scope="module")
def simclr_run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("simclr") / "b", "machine.stop_after_steps=2")


@pytest.fixture
def outside(outside_run, tmp_path) -> Path:
    return Path(shutil.copytree(outside_run, tmp_path / "outside"))


@pytest.fixture
def simclr(simclr_run, tmp_path) -> Path:
    return Path(shutil.copytree(simclr_run, tmp_path / "simclr"))


@pytest.fixture
def not_installed(monkeypatch) -> Iterator[None]:
    """The package of the method from outside is not there."""
    monkeypatch.setitem(sys.modules, "tests.support.other_method", None)
    method_class.cache_clear()
    yield
    method_class.cache_clear()


def section(content: str, key: str) -> str:
    return content.partition(f'<section id="{key}">')[2].partition("</section>")[0]


def summary(content: str) -> list[list[str]]:
    """The table in the head of the page."""
    head = content.partition("<header>")[2].partition("</header>")[0]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", head)]


def captions(content: str) -> list[str]:
    """The titles of the training curves, in order."""
    return re.findall(r"<figcaption>([^<]*)</figcaption>", section(content, "training"))


def without_descriptions(run_dir: Path) -> Path:
    """As a run of an earlier version left it."""
    facts = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({"total_steps": facts["total_steps"]}))
    return run_dir


def said(run_dir: Path, step: int = STEPS) -> tuple[dict[str, float], str]:
    """The numbers of a step, and the headline as it must be shown."""
    line = read_metrics(run_dir / "metrics.jsonl")[step - 1]
    return line, Distance.METRICS["view_distance"].shown(line["view_distance"])


def test_the_console_shows_the_methods_headline_in_its_unit_and_online_evaluations_by_their_titles(
    outside_run, tmp_path, logged
):
    line, headline = said(outside_run)
    assert headline.endswith(" furlongs")
    rank = read_metrics(outside_run / "metrics.jsonl")[0]["rank_me"]  # told with the first step
    shown = (
        f"step {STEPS} of 88  loss {line['loss']:.4f}  distance of the views {headline}  "
        f"filled share of the sphere {100 * line['filled']:.1f} %  RankMe {rank:.3g}  "
    )
    assert shown in (outside_run / "log.txt").read_text()
    numbers = {"step": 2, "epoch": 1, "loss": 1.0, "images_per_second": 10.0}
    with Reporter(tmp_path, {}, 0, 2, active=True) as reporter:  # of a method without any metric
        reporter.step(numbers | {"online_knn_top1": 0.5})
    assert logged == ["step 2 of 2  online kNN top-1 50.0 %", "step 2 of 2  loss 1.0000  10 images/s  0 s left"]


def test_where_the_headline_is_of_negatives_nothing_else_stands_beside_it(tmp_path, logged):
    numbers = {"step": 1, "epoch": 1, "loss": 1.0, "images_per_second": 10.0}
    health = {"contrastive_top1": 0.5, "embedding_std": 0.9, "rank_me": 7.0}
    with Reporter(tmp_path, SimCLR.METRICS, 0, 1, active=True) as reporter:
        reporter.step(numbers | health)
    assert logged == ["step 1 of 1  loss 1.0000  contrastive top-1 50.0 %  10 images/s  0 s left"]


def test_a_band_of_the_methods_own_unit_is_found_logged_and_drawn_in_it(outside_run):
    record = read_record(outside_run / "health.json")
    assert record is not None
    lines = read_metrics(outside_run / "metrics.jsonl")
    expected = [sum(line["view_distance"] for line in lines[:step]) / step for step in (2, 5, 8)]
    assert [band["value"] for band in record["bands"]] == pytest.approx(expected)  # as they are, not times 100
    assert [band["outcome"] for band in record["bands"]] == ["inside", "outside", "outside"]
    value = Distance.METRICS["view_distance"].shown(expected[1])
    warning = (
        f"health warning: distance of the views is {value} after 5 % of the run, step 5: below 99998 to 99999 "
        "furlongs. Band: a test. Check whether it has collapsed"
    )
    log = (outside_run / "log.txt").read_text()
    assert warning in log
    assert log.rstrip().count("above 0 to 1 furlongs. Band: a test.\n") == 1  # without a cure, as it has none
    content = page([read_facts(outside_run, "run")], 20)
    table = section(content, "run1-health")
    assert f'<td class="number">99998 to 99999 furlongs</td><td class="number">{value}</td>' in table
    assert "distance of the views at 50 %: nobody has published a value" in table
    assert f"run: {value} at step 5, outside 99998 to 99999 furlongs" in section(content, "training")


def test_a_collapse_is_seen_in_the_methods_own_metric_and_its_cure_is_the_methods(outside_run):
    (found,) = read_anomalies(outside_run)
    filled = read_metrics(outside_run / "metrics.jsonl")[9]["filled"]
    assert (found["step"], found["kind"], found["value"]) == (10, "collapse", filled)
    assert found["message"] == f"the embeddings have collapsed: filled share of the sphere is {100 * filled:.1f} %"
    assert "cure" not in found
    assert (
        f"{found['message']} at step 10: the run continues; check what holds views apart\n"
        in (outside_run / "log.txt").read_text()
    )


def test_runs_of_two_methods_have_one_page_with_columns_and_curves_of_both(outside, simclr):
    runs = [read_facts(outside, "one"), read_facts(simclr, "other")]
    content = page(runs, 20)
    head, one, other = summary(content)
    assert head == [
        "run", "method", "steps done", "epoch", "loss", "distance of the views", "contrastive top-1", "images/s",
    ]  # fmt: skip
    assert one[:3] + one[5:7] == ["one", NAME, "12", said(outside)[1], "-"]
    top1 = read_metrics(simclr / "metrics.jsonl")[-1]["contrastive_top1"]
    assert other[:3] + other[5:7] == ["other", "simclr", "2", "-", f"{100 * top1:.1f} %"]
    assert captions(content) == [
        "Loss", "Distance of the views, furlongs", "Contrastive top-1, %: the other view is the most similar",
        "Length of the embeddings: mean over the batch",
        "RankMe: how many directions the embeddings fill: at most their size and the images that it is taken of",
        "Contrastive top-5, %", "Mean rank of the other view", "Lower bound of the mutual information, nats",
        "Filled share of the sphere, %",
        "Standard deviation of the embeddings: 0: collapse", "Learning rate", "Gradient norm",
    ]  # fmt: skip
    training = section(content, "training")
    assert (training.count('class="line c0'), training.count('class="line c1')) == (7, 9)


def test_metrics_of_one_name_share_a_chart_only_when_their_methods_call_them_alike(simclr, tmp_path):
    other = Path(shutil.copytree(simclr, tmp_path / "other"))
    described = dict(SimCLR.METRICS)
    described["contrastive_top1"] = Metric(title="contrastive top-1", unit="%", role="headline", text="of a queue")
    described["embedding_std"] = Metric(title="spread of the queries", role="collapse")
    write_run_facts(other, 88, described)
    content = page([read_facts(simclr, "one"), read_facts(other, "other")], 20)
    assert summary(content)[0].count("contrastive top-1") == 1
    found = captions(content)
    assert "Contrastive top-1, %" in found  # what the methods say of it differs, so neither text stands there
    assert {"Spread of the queries", "Standard deviation of the embeddings: 0: collapse"} <= set(found)


def test_an_encoder_without_convolutions_has_a_page_that_says_so_and_its_pictures_in_tensorboard(outside, run):
    status, _, err = run("report", outside, "--images", 20, "--tensorboard")
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    kernels = section((outside / "report.html").read_text(), "run1-kernels")
    assert "does not begin with a convolution of colours" in kernels
    assert "The encoder is no ResNet but Flat" in kernels
    assert len(list((outside / "tensorboard" / "report").glob("events*"))) == 1


def test_a_run_of_an_earlier_version_is_described_by_the_method_that_its_config_names(simclr):
    expected = summary(page([read_facts(simclr, "run")], 20))
    without_descriptions(simclr)
    config = yaml.safe_load((simclr / "config.yaml").read_text())
    method = config["recipe"].pop("method")
    config["recipe"] |= {"method": "simclr", "loss": {"temperature": method["temperature"]}}
    (simclr / "config.yaml").write_text(yaml.safe_dump(config))
    facts = read_facts(simclr, "run")
    assert facts.descriptions == {**SimCLR.METRICS, **EVERY_METHOD}
    assert facts.config["recipe.method.temperature"] == 0.5
    assert summary(page([facts], 20)) == expected


@pytest.mark.parametrize("described", [True, False])
def test_a_run_whose_method_is_not_installed_has_its_page_with_plain_names_where_it_has_not_said_more(
    outside, run, described, not_installed
):
    if not described:
        without_descriptions(outside)
    status, _, err = run("report", outside)
    assert (status, err) == (0, "")
    content = (outside / "report.html").read_text()
    head, one = summary(content)
    assert one[1] == NAME
    assert ("distance of the views" in head) is described
    assert ("Distance of the views, furlongs" in captions(content)) is described
    assert ("View_distance" in captions(content)) is not described
    assert ("99999 furlongs" in section(content, "run1-health")) is described
    missing = section(content, "run1-features")
    assert "The method of the run is not here: recipe.method.name: " in missing
    assert "put its folder on PYTHONPATH" in missing


def submitted(run_dir: Path, job: str) -> Path:
    folder = records.new_folder(run_dir)
    record = records.JobRecord(
        job=job, folder=str(folder), config="c.yaml", code="", version="1", submitted_at="now", resources={},
        processes=1,
    )  # fmt: skip
    records.write(folder, record)
    return run_dir


def test_the_status_of_runs_names_their_methods_and_headlines_also_where_a_step_was_not_finite(
    outside, simclr, tmp_path, monkeypatch, not_installed
):
    monkeypatch.setattr(watching.scheduler, "jobs", lambda ids: [])
    bare = without_descriptions(Path(shutil.copytree(outside, tmp_path / "bare")))
    spoilt = Path(shutil.copytree(simclr, tmp_path / "spoilt"))
    lines = read_metrics(spoilt / "metrics.jsonl")
    nothing = lines[-1] | {"step": 3, "loss": None, "contrastive_top1": None, "online_knn_top1": 0.5}
    (spoilt / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, nothing]))
    runs = [outside, simclr, bare, spoilt]
    table = watching.table([submitted(path, str(number)) for number, path in enumerate(runs)])
    head, *rows = [re.split(r"  +", line) for line in table.splitlines()]
    assert head == ["run", "job", "state", "method", "step", "loss", "headline", "online kNN", "images/s"]
    top1 = lines[-1]["contrastive_top1"]
    headlines = [f"distance of the views {said(outside)[1]}", f"contrastive top-1 {100 * top1:.1f} %", "-", "-"]
    assert [row[3] for row in rows] == [NAME, "simclr", NAME, "simclr"]
    assert [row[6] for row in rows] == headlines
    assert [row[7] for row in rows] == ["-", "-", "-", "50.0 %"]
    assert f"\nmethod   {NAME}\nstep     12 of 88  loss " in watching.describe(outside)
    assert f"  {headlines[0]}  " in watching.describe(outside)
    assert "\nstep     3 of 88  loss -  " in watching.describe(spoilt)


def test_descriptions_that_are_damaged_or_of_a_later_version_never_stop_a_report(tmp_path):
    assert read_metric_descriptions(tmp_path, "no_such_method") == EVERY_METHOD
    stored = {
        "good": {"title": "good", "unit": "%", "colour": "red"}, "bad": {"title": 5}, "worse": [],
        "odd": {"title": "odd", "role": "crown", "from_zero": "yes"},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps({"metrics": stored}))
    found = read_metric_descriptions(tmp_path, "simclr")
    assert found["good"] == Metric(title="good", unit="%")
    assert found["odd"].from_zero is False
    assert set(found) == {"good", "odd"}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "odd": 2.0, "good": 0.5, "bad": null}\n')
    content = page([read_facts(tmp_path, "run")], 20)
    assert {"Odd", "Good, %", "Bad"} <= set(captions(content))
    assert [method_of(each) for each in ({}, {"method": "x"}, {"method": {"name": "y"}}, {"method": 5}, None)] == [
        "simclr", "x", "y", "", "",
    ]  # fmt: skip
    assert read_method(tmp_path) == ""
    (tmp_path / "config.yaml").write_text("recipe: 5")
    assert read_method(tmp_path) == read_facts(tmp_path, "run").method == ""
