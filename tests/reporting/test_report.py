"""The report: one page that needs nothing but itself, says what is missing, and whose numbers are what they claim."""

import json
import math
import os
import re
import shutil
import subprocess
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_dist.config import load_config
from simclr_dist.distributed.processes import Processes
from simclr_dist.evaluation.confusion import confusion
from simclr_dist.reporting import context
from simclr_dist.reporting.analysis import alignment, feature_map, nearest, uniformity, vote
from simclr_dist.reporting.answer import answer
from simclr_dist.reporting.charts import Series, line_chart, matrix, thin, ticks
from simclr_dist.reporting.context import ViewsAsImages
from simclr_dist.reporting.facts import Facts, read_facts
from simclr_dist.reporting.markup import Html, tag
from simclr_dist.training.pretraining import pretrain
from simclr_dist.weights.read import load_encoder
from tests.support.commands import NO_UTF8, complaint
from tests.support.images import open_source
from tests.support.processes import tiny_config
from tests.support.tracking import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEPS = "machine.stop_after_steps=2"
SECTIONS = (
    "training", "speed", "run1-labels", "run1-features", "run1-confusion", "run1-neighbours", "run1-map",
    "run1-kernels", "run1-views", "recipe", "machine", "run1-starts",
)  # fmt: skip
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page's ids, references and texts; fails on a tag that is closed wrongly."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href"):
                self.sources.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def train(folder: Path, *overrides: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(folder, STEPS, *overrides)
    pretrain(config, Processes(0, 1, 0, 1))
    return Path(config.machine.run_dir)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def run_dir(digits_run, tmp_path):
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


@pytest.fixture
def report(run):
    """Runs ``simclr-dist report``: (status, standard output, standard error)."""

    return partial(run, "report")


def photos(folder: Path, names: dict[str, int]) -> Path:
    generator = np.random.default_rng(0)
    for name, count in names.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return folder


def section(content: str, key: str) -> str:
    return content.partition(f'<section id="{key}">')[2].partition("</section>")[0]


def test_what_takes_long_of_a_long_run_is_said(report, tmp_path, monkeypatch):
    said: list[str] = []

    def noted(what: str) -> AbstractContextManager[None]:
        said.append(what)
        return nullcontext()

    monkeypatch.setattr("simclr_dist.cli.report.said_when_slow", noted)
    run_dir = write_run(tmp_path, 4)
    assert report(run_dir, "--tensorboard")[0] == 0
    assert said == [
        f"{run_dir}: reading",
        f"{run_dir / 'report.html'}: making the page",
        f"{run_dir / 'tensorboard'}: writing features and pictures",
    ]


def test_the_page_of_a_run_has_every_section_and_refers_to_nothing_outside_itself(run_dir, report):
    evaluation = {"steps_done": 2, "points": [
        {"features": f, "classifier": "kNN", "labels_per_class": n, "accuracies": [0.5, 0.7], "mean": 0.6}
        for f in ("pretrained", "untrained", "raw pixels") for n in (1, 10)
    ]}  # fmt: skip
    (run_dir / "evaluation_step_000000002.json").write_text(json.dumps(evaluation))
    rows = [{"name": "linear probe, pretrained", "labels": "10 a class", "images": 100, "top1": [0.8], "mean": 0.8}]
    (run_dir / "evaluation_step_000000002_lowshot_x.json").write_text(json.dumps({"method": "lowshot", "rows": rows}))
    status, out, err = report(run_dir, "--images", 60)
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    assert str(run_dir / "report.html") in out
    content = (run_dir / "report.html").read_text()
    page = Page(content)
    assert set(SECTIONS) <= set(page.ids)
    assert all(source.startswith(("#", "data:image/")) for source in page.sources)
    assert set(re.findall(r"https?://[^\s\"'<)]*", content)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!\$)", content)
    assert 'class="missing"' not in content
    assert "linear probe, held-out accuracy" in content
    assert "0.600 ± 0.141" in content
    assert len(content) < 2e6
    for title in (">Loss<", "Contrastive top-5", "Learning rate", "Gradient norm", "Throughput"):
        assert title in content


def test_a_report_is_replaced_but_no_other_file(run_dir, report, tmp_path):
    out = tmp_path / "page.html"
    assert report(run_dir, "--images", 20, "--out", out)[0] == 0
    first = out.read_bytes()
    assert report(run_dir, "--images", 20, "--out", out)[0] == 0
    assert out.read_bytes() == first
    out.write_text("my thesis")
    status, _, err = report(run_dir, "--images", 20, "--out", out)
    assert (status, len(err.splitlines())) == (2, 1)
    assert out.read_text() == "my thesis"


def test_names_from_files_are_text_on_the_page_and_never_markup(report, tmp_path):
    data = photos(
        tmp_path / "data", {f"{split}/{name}": 5 for split in ("train", "test") for name in ("<script>x", "a&b")}
    )
    run = train(
        tmp_path / "<b>one", "recipe.data.source=folder", f"recipe.data.path={data}", "recipe.global_batch_images=4"
    )
    status, _, err = report(run)
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    content = (run / "report.html").read_text()
    page = Page(content)
    assert page.tags.count("script") == 1
    assert "b" not in page.tags
    assert "&lt;script&gt;x" in section(content, "run1-map")


def test_unlabelled_images_without_held_out_ones_are_told_in_sentences(report, tmp_path):
    data = photos(tmp_path / "data", {"": 6})
    run = train(
        tmp_path / "one", "recipe.data.source=folder", f"recipe.data.path={data}", "recipe.global_batch_images=4"
    )
    (run / "config.yaml").unlink()
    shutil.rmtree(run / "tensorboard")
    status, _, err = report(run)
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    content = (run / "report.html").read_text()
    Page(content)
    assert "6 of 6 pretraining images (there are no held-out ones)" in content
    assert "no labels, so there is no confusion matrix" in section(content, "run1-confusion")
    assert "A map needs 8 images" in section(content, "run1-map")
    assert "No label curve yet" in section(content, "run1-labels")
    assert "There is no config.yaml" in section(content, "recipe")
    assert "are not there" in section(content, "run1-starts")


def test_a_run_without_checkpoint_and_one_whose_images_are_gone_still_have_a_page(run_dir, report, tmp_path):
    shutil.rmtree(run_dir / "checkpoints")
    assert report(run_dir)[0] == 0
    assert "There is no checkpoint yet." in (run_dir / "report.html").read_text()
    data = photos(tmp_path / "data", {"": 6})
    run = train(
        tmp_path / "one", "recipe.data.source=folder", f"recipe.data.path={data}", "recipe.global_batch_images=4"
    )
    shutil.rmtree(data)
    assert report(run)[0] == 0
    assert "The images are not here" in (run / "report.html").read_text()


def test_a_run_whose_features_are_not_finite_still_has_a_page_that_says_so(run_dir, report, monkeypatch):
    def diverged(path):
        loaded = load_encoder(path)
        loaded.encoder.backbone.conv1.weight.data.fill_(1e38)
        return loaded

    monkeypatch.setattr(context, "load_encoder", diverged)
    status, out, _ = report(run_dir, "--images", 30, "--tensorboard")
    assert (status, "nothing for TensorBoard: image 0: its features are not finite" in out) == (0, True)
    content = (run_dir / "report.html").read_text()
    for key in ("features", "confusion", "neighbours", "map"):
        assert "its features are not finite" in section(content, f"run1-{key}")


def test_two_runs_show_the_keys_that_differ_and_their_curves_together(run_dir, report, tmp_path):
    other = Path(shutil.copytree(run_dir, tmp_path / "other"))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(
        config.replace("temperature: 0.5", "temperature: 0.1").replace("numba", "torchvision")
    )
    status, out, err = report(run_dir, other, "--images", 20)
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    assert str(run_dir / "comparison.html") in out
    content = (run_dir / "comparison.html").read_text()
    page = Page(content)
    assert {"differences", "run1-map", "run2-map"} <= set(page.ids)
    found = re.findall(r"<tr><td>([a-z_.]+)</td>", section(content, "differences"))
    assert found == ["recipe.method.temperature", "machine.renderer"]
    assert (
        section(content, "training").count('class="line c1"')
        == section(content, "training").count('class="line c0"')
        > 5
    )


def test_a_restart_is_told_with_its_first_step(report, tmp_path):
    run = train(tmp_path)
    config = tiny_config(tmp_path, "machine.stop_after_steps=3")
    pretrain(config, Processes(0, 1, 0, 1))
    assert report(run, "--images", 20)[0] == 0
    text = section((run / "report.html").read_text(), "run1-starts")
    assert "Restarted 1 time." in text
    assert re.findall(r'<td class="number">(\d+)</td></tr>|<td>(\d+)</td></tr>', text) == [("", "1"), ("", "3")]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("config.yaml", b"{a: [", "cannot be read"),
        ("evaluation_step_1.json", b'{"points": ', "evaluate again"),
        ("checkpoints/step_000000002.pt", b"cut off", "no checksum at its end"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it_and_status_2(run_dir, report, file, content, complaint):
    (run_dir / file).write_bytes(content)
    status, _, err = report(run_dir)
    assert (status, len(err.splitlines())) == (2, 1)
    assert complaint in err
    assert Path(file).name in err
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize("classes", [3, 10, 12, 25, 40])
def test_names_of_a_matrix_never_lie_over_each_other(classes):
    names = [f"category number {number}" for number in range(classes)]
    drawn = matrix(np.eye(classes, dtype=np.int64), names)
    tags = [dict(re.findall(r'([a-z-]+)="([^"]*)"', found)) for found in re.findall(r"<text ([^>]*)>[^<]*…<", drawn)]
    columns = [each for each in tags if each["text-anchor"] != "end"]
    assert len(columns) == classes
    positions = sorted(float(each["x"]) for each in columns)
    upright = "transform" in columns[0]
    apart = min(after - before for before, after in pairwise(positions))
    size = 9 if 'class="chart matrix small"' in drawn else 11
    assert apart >= (size - 1 if upright else 14 * 6)
    # All of a name stands inside the drawing.
    assert not upright or min(float(each["y"]) for each in columns) >= 14 * 6


def facts(**known) -> Facts:
    empty = {
        "path": Path("runs/my"), "name": "my", "method": "simclr", "config": {}, "metrics": [], "descriptions": {},
        "evaluations": [], "health": None, "anomalies": [], "starts": [], "warnings": [],
    }  # fmt: skip
    return Facts(**{**empty, **known})


def label_curve(steps: int, values: dict[str, float]) -> tuple[str, dict]:
    points = [
        {"features": features, "classifier": classifier, "labels_per_class": labels, "mean": value + labels / 1000}
        for features, value in values.items() for classifier in ("linear probe", "kNN") for labels in (1, 10)
    ]  # fmt: skip
    return "evaluation.json", {"steps_done": steps, "points": points}


def test_the_first_line_of_a_report_says_how_good_how_healthy_and_how_long():
    evaluations = [
        label_curve(5, {"pretrained": 0.9, "untrained": 0.8}), label_curve(7, {"pretrained": 0.5, "untrained": 0.25}),
    ]  # fmt: skip
    band = {"metric": "loss", "outcome": "inside"}
    steps = [{"step": step, "step_seconds": 30.0} for step in range(1, 8)]
    run = facts(evaluations=evaluations, health={"bands": [band]}, metrics=steps)
    assert answer(run) == (
        "51.0 % of held-out images right (linear probe, 10 labels a class), beside 26.0 untrained; healthy: inside "
        "all 1 health bands that were checked, no anomaly; 7 steps in 3.5 min."
    )


def test_the_first_line_of_a_report_is_of_the_runs_own_images_whatever_others_came_to():
    own, other = (label_curve(5, {"pretrained": value}) for value in (0.61, 0.96))
    own[1]["own_images"], other[1]["own_images"] = True, False
    for evaluations in ([own, other], [other, own]):
        assert answer(facts(evaluations=evaluations)).startswith("62.0 % of held-out images right (linear probe")
    alone = answer(facts(evaluations=[other]))
    assert "97.0 % of held-out images right (linear probe, 10 labels a class) of images that are not the run's" in alone
    # Of an earlier version, which wrote the source alone, or nothing.
    own, other, unknown = (label_curve(5, {"pretrained": value}) for value in (0.61, 0.96, 0.51))
    own[1]["data"], other[1]["data"] = {"source": "digits"}, {"source": "cifar10"}
    run = facts(config={"recipe.data.source": "digits"}, evaluations=[other, own, unknown])
    assert answer(run).startswith("62.0 %")


def test_of_equal_claims_to_the_first_line_the_file_before_counts_and_texts_are_not_compared():
    small, large = (label_curve(5, {"pretrained": value}) for value in (0.088, 0.611))
    for evaluations, shown in (([large, small], "62.1 %"), ([small, large], "9.8 %")):
        assert answer(facts(evaluations=evaluations)).startswith(shown)


def test_the_first_line_of_a_report_says_what_is_wrong_and_what_is_not_known():
    assert answer(facts()) == (
        "Accuracy not known yet (simclr-dist evaluate); no anomaly; no health band was checked; no step is done yet."
    )
    bands = [{"metric": "loss", "outcome": outcome} for outcome in ("inside", "outside", "not reached")]
    said = answer(facts(health={"bands": bands}, anomalies=[{}], metrics=[{"step": 1}]))
    assert "not healthy: outside 1 of 2 health bands, anomalies: 1; " in said
    alone = answer(facts(evaluations=[label_curve(1, {"pretrained": 0.5})]))
    assert "51.0 % of held-out images right (linear probe, 10 labels a class), without a baseline" in alone


def test_recipe_and_machine_are_folded(run_dir, report):
    assert report(run_dir, "--images", 5)[0] == 0
    content = (run_dir / "report.html").read_text()
    for key in ("recipe", "machine"):
        assert section(content, key).count("<details><summary>All keys</summary>") == 1


def test_lines_of_the_metrics_that_are_no_records_are_left_out_and_said(run_dir):
    before = read_facts(run_dir, "run")
    lines = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "metrics.jsonl").write_bytes(b"[1]\n\xff\xfe\n" + lines)
    after = read_facts(run_dir, "run")
    assert after.metrics == before.metrics != []
    assert after.warnings[-1] == "metrics.jsonl: lines that are no records of a step, left out here: 2"


def test_a_broken_image_is_one_line_that_names_it_and_status_2(report, tmp_path):
    data = photos(tmp_path / "data", {"train/a": 4, "test/a": 4})
    run = train(
        tmp_path / "one", "recipe.data.source=folder", f"recipe.data.path={data}", "recipe.global_batch_images=4"
    )
    (data / "test" / "a" / "2.png").write_bytes(b"no image")
    status, _, err = report(run)
    assert (status, len([line for line in err.splitlines() if " images " not in line])) == (2, 1)
    assert "a/2.png" in err


def test_a_broken_image_that_pretraining_went_on_without_is_left_out(report, tmp_path):
    data = photos(tmp_path / "data", {"a": 6, "b": 6})
    (data / "a" / "2.png").write_bytes(b"no image")
    run = train(
        tmp_path / "one", "recipe.data.source=folder", f"recipe.data.path={data}", "recipe.global_batch_images=4",
        "machine.max_broken_image_share=0.2", "machine.stop_after_steps=3",
    )  # fmt: skip
    assert "2.png" in (run / "broken_images.txt").read_text()
    assert report(run)[0] == 0
    assert "11 of 11 pretraining images" in (run / "report.html").read_text()


def test_splits_that_number_their_classes_differently_are_joined_by_name(report, tmp_path, monkeypatch):
    (tmp_path / "two_orders.py").write_text(
        "import numpy as np\n"
        "from simclr_dist.data.sources.base import ArraySource\n"
        "def split(data, split):\n"
        "    classes = ['dark', 'bright'][:: -1 if split == 'test' else 1]\n"
        "    labels = np.arange(24) % 2\n"
        "    ends = np.array([[200, 20, 20] if classes[label] == 'bright' else [10, 10, 90] for label in labels])\n"
        "    noise = np.random.default_rng(len(split)).integers(0, 20, (24, 3, 12, 12))\n"
        "    return ArraySource((ends[:, :, None, None] + noise).astype(np.uint8), labels, classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = train(tmp_path / "one", "recipe.data.source=two_orders:split", "recipe.global_batch_images=8")
    assert report(run)[0] == 0
    assert "100.0 % right" in section((run / "report.html").read_text(), "run1-confusion")


def test_a_folder_that_is_no_run_is_refused(report, tmp_path):
    status, _, err = report(tmp_path)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "not the folder of a run" in err


def test_tensorboard_gets_the_features_with_their_classes_and_nothing_twice(run_dir, report):
    for _ in range(2):
        status, _, err = report(run_dir, "--images", 30, "--tensorboard")
        assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    folder = run_dir / "tensorboard" / "report"
    assert len(next(folder.rglob("tensors.tsv")).read_text().splitlines()) == 30
    assert len(next(folder.rglob("metadata.tsv")).read_text().splitlines()) == 30
    assert len(list(folder.glob("events*"))) == 1
    assert "Never restarted" in (run_dir / "report.html").read_text()


def test_tensorboard_spells_a_class_that_is_no_utf8_and_a_folder_of_the_run_that_is_none_is_refused(report, tmp_path):
    path = photos(tmp_path / "photos", {NO_UTF8: 20, "other": 20})
    run_dir = train(tmp_path, "recipe.data.source=folder", f"recipe.data.path={path}", "recipe.global_batch_images=8")
    assert report(run_dir, "--tensorboard")[0] == 0
    assert r"caf\udce9" in next((run_dir / "tensorboard" / "report").rglob("metadata.tsv")).read_text()
    status, _, err = report(run_dir.rename(tmp_path / NO_UTF8), "--tensorboard")
    assert (status, "not all of this path is UTF-8" in complaint(err)) == (2, True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page in")
def test_the_page_runs_in_chromium_without_a_word_on_the_console(run_dir, report, tmp_path):
    page = tmp_path / "page.html"
    rows = [{"name": "kNN", "labels": "all", "images": 100, "top1": [0.8], "mean": 0.8}]
    long_name = f"evaluation_step_000000002_knn_{'1' * 80}.json"  # must not make the page wider than a phone
    (run_dir / long_name).write_text(json.dumps({"method": "knn", "rows": rows}))
    assert report(run_dir, "--images", 40, "--out", page)[0] == 0
    assert long_name in page.read_text()  # without any label curve
    assert "No label curve yet" in page.read_text()
    # Pointed at from inside: the script must answer with a value and with a thumbnail.
    probe = """<script>
      for (const kind of ["lines", "map"]) {
        const svg = document.querySelector("svg." + kind);
        const box = (svg.querySelector("circle") || svg).getBoundingClientRect();
        const middle = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
        svg.dispatchEvent(new PointerEvent("pointermove", middle));
        document.body.dataset[kind] = document.getElementById("tip").textContent;
      }
      document.body.dataset.thumbnail = document.querySelector("#tip .thumbnail").style.backgroundImage.slice(0, 14);
      document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
    </script></body>"""
    page.write_text(page.read_text().replace("</body>", probe))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=1000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    body = re.search(r"<body ([^>]*)>", done.stdout)
    assert body
    assert re.search(r'data-lines="step \d', body[1])
    assert re.search(r'data-map="\d"', body[1])
    assert "url(&quot;data:" in body[1]
    assert int(re.search(r'data-overflow="(-?\d+)"', body[1])[1]) <= 0


def test_thinning_keeps_both_ends_the_extremes_and_the_gaps():
    values: list[float | None] = np.random.default_rng(0).normal(size=50_000).tolist()
    values[12_345], values[23_456], values[34_567] = 99.0, -99.0, None
    points = list(enumerate(values))
    kept = thin(points, 1000)
    assert len(kept) <= 1002
    assert {points[0], points[-1], points[12_345], points[23_456], points[34_567]} <= set(kept)
    assert kept == sorted(kept, key=lambda point: point[0])
    assert thin(points[:1000], 1000) == points[:1000]


def test_a_chart_of_nothing_or_of_one_value_is_a_chart():
    assert "No value was recorded" in line_chart("t", [Series("a", [(1, None)])])
    assert "nan" not in line_chart("t", [Series("a", [(1, 0.0)])])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (4.6, 5.7), (-3e-7, 2e-7), (5, 5), (0, 0), (1e9, 1.1e9)])
def test_ticks_are_few_round_and_enclose_the_values(low, high):
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert found[0] < found[-1]
    assert 2 <= len(found) <= 8


def test_long_numbers_at_an_axis_are_short():
    drawn = line_chart("t", [Series("a", [(0, 0.0), (100_000, 2e6)])])
    assert re.findall(r'text-anchor="middle">([^<]+)<', drawn) == ["0", "20k", "40k", "60k", "80k", "100k"]
    assert re.findall(r'text-anchor="end">([^<]+)<', drawn) == ["0", "500k", "1M", "1.5M", "2M", "step"]


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<b>", Html("<i>x</i>"), 1.50, title='"') == '<p title="&quot;">&lt;b&gt;<i>x</i>1.5</p>'


def test_a_method_with_one_view_has_two_of_them_by_the_draws_of_two_epochs():
    recipe = load_config("digits_demo", ["recipe.method.name=rotation"]).recipe
    pairs = ViewsAsImages(open_source(recipe.data, "test"), recipe)
    assert sum(not torch.equal(pairs.read(2 * number), pairs.read(2 * number + 1)) for number in range(20)) > 15


def test_alignment_and_uniformity_equal_the_formulas_of_their_paper():
    torch.manual_seed(0)
    x, y = torch.randn(40, 7, dtype=torch.float64), torch.randn(40, 7, dtype=torch.float64)
    unit_x, unit_y = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    # As the paper's own code has them (its appendix A).
    align = (unit_x - unit_y).norm(p=2, dim=1).pow(2).mean()
    uniform = torch.pdist(unit_x, p=2).pow(2).mul(-2).exp().mean().log()
    assert alignment(x.float().numpy(), y.float().numpy()) == pytest.approx(float(align), rel=1e-5)
    assert uniformity(x.float().numpy()) == pytest.approx(float(uniform), rel=1e-5)
    same = np.ones((5, 3), dtype=np.float32)
    assert (alignment(same, same), uniformity(same)) == (0, pytest.approx(0, abs=1e-6))


def test_neighbours_votes_and_confusions_of_a_case_by_hand():
    bank = np.array([[1, 0], [1, 0.1], [0, 1]], dtype=np.float32)
    found = nearest(bank, np.array([[2, 0], [0, 3]], dtype=np.float32), 2, rows=1)
    assert found.indices.tolist() == [[0, 1], [2, 1]]
    assert found.similarities[0].tolist() == pytest.approx([1, 1 / math.hypot(1, 0.1)])
    assert vote(found, np.array([0, 1, 1]), 2).tolist() == [0, 1]
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]
    assert nearest(bank, bank, 5, same=True, rows=2).indices.tolist() == [[1, 2], [0, 2], [1, 0]]


def test_a_map_is_made_without_a_word_where_the_system_does_not_tell_its_physical_cores(monkeypatch, capfd):
    def unknown() -> int:
        raise ValueError("found 0 physical cores < 1")

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("joblib.externals.loky.backend.context.physical_cores_cache", None)
    monkeypatch.setattr("joblib.externals.loky.backend.context._count_physical_cores_linux", unknown)
    assert feature_map(np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)).shape == (12, 2)
    assert "OMP_NUM_THREADS" not in os.environ
    assert capfd.readouterr() == ("", "")


def test_a_page_of_older_weights_says_so(run_dir, report):
    newer = run_dir / "checkpoints" / "step_000000009.pt"
    newer.write_bytes(b"half")
    try:
        assert report(run_dir, "--images", 5)[0] == 0
        assert "step_000000002.pt is used, which is not the newest" in (run_dir / "report.html").read_text()
        assert newer.exists()  # who only reads renames nothing
    finally:
        newer.unlink()


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0 + 1e-15), (1e16, 1e16 + 4), (-0.3 - 1e-16, -0.3), (0.0, 5e-324), (-5e-324, 0.0)]
)
def test_values_that_differ_by_rounding_alone_have_an_axis_as_equal_ones_have(low, high):
    found = ticks(low, high)
    assert found[0] <= low < found[-1]
    assert len(set(found)) == len(found) > 1
