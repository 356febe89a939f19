"""Health bands: each is checked once on the right lines, logged when left, shown in the report; it changes nothing."""

import json
import re
import shutil

import pytest

from simclr_dist.config import Config
from simclr_dist.config.health import Bands
from simclr_dist.distributed.processes import Processes
from simclr_dist.guards import health_bands
from simclr_dist.guards.health_bands import HealthCheck, judge, read_record, step_of
from simclr_dist.reporting.curves import training_curves
from simclr_dist.reporting.facts import read_facts
from simclr_dist.reporting.health import health_table
from simclr_dist.training.pretraining import pretrain
from tests.support.processes import assert_bit_equal, final_state, tiny_config

STEPS, EPOCH, SAVE_EVERY = 20, 4, 3


def expected(**bands) -> Config:
    return Config(health={metric: Bands(bands=own, source="a test") for metric, own in bands.items()})


def line(step: int) -> dict[str, float]:
    online = {"online_knn_top1": step / 100} if step % EPOCH == 0 else {}
    return {"step": step, "contrastive_top1": step / 50, **online}


def walk(folder, config: Config, kills):
    """What the trainer does with its metrics and its health, killed once after each of some steps."""
    folder.mkdir()
    kills = list(kills)
    while True:
        done = read_saved(folder)
        lines = [line(step) for step in range(1, done + 1)]
        check = HealthCheck(folder, config, STEPS, EPOCH, active=True)
        write(folder, lines)
        check.begin(done, EPOCH)
        for step in range(done + 1, STEPS + 1):
            lines.append(line(step))
            write(folder, lines)
            if kills and kills[0] == (step, "before"):
                break
            check.after_step(step)
            if step % SAVE_EVERY == 0:
                (folder / "saved").write_text(str(step))
            if kills and kills[0] == (step, "after"):
                break
        else:
            return json.loads((folder / health_bands.FILE).read_text())
        kills.pop(0)


def read_saved(folder) -> int:
    return int((folder / "saved").read_text()) if (folder / "saved").exists() else 0


def write(folder, lines) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))


def test_every_band_is_checked_and_logged_once_wherever_the_run_is_killed(tmp_path, logged, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # the disk is not what this is about
    bands = expected(
        contrastive_top1={5: [0, 1], 15: [0, 100], 45: [90, 100], 100: [0, 1]},
        online_knn_top1={20: [50, 60], 45: [0, 1], 100: [0, 30]},
    )
    whole = walk(tmp_path / "whole", bands, [])
    assert [(b["metric"][:3], b["step"], b["outcome"]) for b in whole["bands"]] == [
        ("con", 1, "outside"), ("con", 3, "inside"), ("con", 9, "outside"), ("con", 20, "outside"),
        ("onl", 4, "outside"), ("onl", 9, "outside"), ("onl", 20, "inside"),
    ]  # fmt: skip
    complaints = list(logged)
    assert len([each for each in complaints if each.startswith("health warning: ")]) == 5
    for number, step in enumerate((1, 3, 4, 8, 9, 10, 19)):
        for moment in ("before", "after"):
            logged.clear()
            found = walk(tmp_path / f"{number}{moment}", bands, [(step, moment), (min(step + 5, STEPS - 1), moment)])
            assert found == whole, (step, moment)
            assert logged == complaints, (step, moment)


def test_a_band_is_held_against_the_mean_of_the_last_epoch_up_to_its_step():
    lines = [line(step) for step in range(1, STEPS + 1)]
    band = {"metric": "contrastive_top1", "step": 10, "low": 17, "high": 17}
    assert judge(band, lines, EPOCH, 100) == (pytest.approx(2 * (7 + 8 + 9 + 10) / 4), "inside")
    assert judge(band | {"low": 17.1, "high": 20}, lines, EPOCH, 100)[1] == "outside"
    # An online evaluation of an epoch before says nothing about this one.
    online = {"metric": "online_knn_top1", "step": 10, "low": 0, "high": 100}
    assert judge(online, lines, EPOCH, 100) == (pytest.approx(8), "inside")
    assert judge(online, [each for each in lines if each["step"] != 8], EPOCH, 100) == (None, "not checked")
    assert [step_of(percent, 660) for percent in (0.1, 5, 10, 29, 100)] == [1, 33, 66, 192, 660]


def test_bands_that_no_online_evaluation_falls_on_are_logged_once_with_epochs_that_cure_it(tmp_path, logged):
    bands = expected(online_knn_top1={40: [0, 100], 45: [0, 100], 80: [0, 100]})
    for _ in range(2):
        HealthCheck(tmp_path, bands, 20 * EPOCH, EPOCH, active=True).begin(0, 0)
    (said,) = logged
    assert "will not be checked" in said
    assert "online kNN top-1 at 40, 45, 80 %" in said
    every = int(re.search(r"machine\.evaluate_every_epochs=(\d+)", said)[1])
    logged.clear()
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    HealthCheck(tmp_path, bands, 20 * EPOCH, EPOCH, active=True).begin(0, every * EPOCH)
    assert logged == []


def test_what_nobody_has_published_is_logged_and_a_run_without_bands_writes_nothing(tmp_path, logged):
    HealthCheck(tmp_path, Config(), STEPS, EPOCH, active=True).begin(0, 0)
    assert (logged, list(tmp_path.iterdir())) == ([], [])
    unknown = Config(health={"contrastive_top1": Bands(unpublished=[5, 10])})
    HealthCheck(tmp_path, unknown, STEPS, EPOCH, active=True).begin(0, 0)
    assert logged == ["health: nobody has published a value, so nothing is checked: contrastive top-1 at 5, 10 %"]


def test_the_record_of_an_earlier_version_which_called_notices_told_is_kept_and_written_anew(tmp_path, logged):
    bands = expected(contrastive_top1={5: [0, 1]})
    bands.health["online_knn_top1"] = Bands(unpublished=[5])
    whole = walk(tmp_path / "run", bands, [])
    assert len(whole["notices"]) == 1
    path = tmp_path / "run" / health_bands.FILE
    earlier = {"told" if key == "notices" else key: value for key, value in whole.items()}
    path.write_text(json.dumps(earlier))
    logged.clear()
    HealthCheck(tmp_path / "run", bands, STEPS, EPOCH, active=True).begin(STEPS, 0)
    assert logged == []
    assert json.loads(path.read_text()) == whole


def test_a_run_warns_once_through_a_restart_with_the_same_bits_and_the_report_shows_it(tmp_path):
    def train(name: str, bands: str, steps: int) -> str:
        folder = tmp_path / name
        overrides = (f"machine.run_dir={folder}", f"machine.stop_after_steps={steps}")
        given = (f"health.contrastive_top1.bands={bands}", "health.contrastive_top1.source=<b>x</b>")
        pretrain(tiny_config(tmp_path, *overrides, *given), Processes())
        return (folder / "log.txt").read_text()

    train("without", "{}", 4)
    train("with", "{2: [0, 100], 4: [101e-1, 11]}", 3)
    log = train("with", "{2: [0, 100], 4: [101e-1, 11]}", 4)
    (warning,) = re.findall(r"health warning: .*", log)
    assert re.search(r"contrastive top-1 is .* % after 4 % of the run, step 4: .* 10\.1 to 11 %.*<b>x</b>", warning)
    # A band that is new to a run is checked although its step has passed; the others are not checked again.
    log = train("with", "{2: [0, 100], 3: [100, 100], 4: [101e-1, 11]}", 4)
    assert [each.partition(" % of the run")[0][-2:] for each in re.findall(r"health warning: .*", log)] == [" 4", " 3"]
    assert_bit_equal(final_state(tmp_path / "with"), final_state(tmp_path / "without"))
    assert read_record(tmp_path / "without" / health_bands.FILE) is None
    facts = read_facts(tmp_path / "with", "run")
    table, curves = health_table(facts), training_curves([facts])
    assert re.findall(r"<td>(inside|outside)</td>", table) == ["inside", "outside", "outside"]
    assert re.findall(r'class="(band[^"]*)"', curves) == ["band", "band out", "band out"]
    assert "&lt;b&gt;x" in table
    assert "<b>" not in table + curves
