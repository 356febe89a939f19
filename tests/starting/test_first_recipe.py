"""The first recipe: what is seen of a folder of pictures, what follows from it, and that the file trains as it is."""

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from simclr_dist.config import load_config
from simclr_dist.errors import UserError
from simclr_dist.progress_bar import ticking
from simclr_dist.starting import first_recipe
from simclr_dist.starting.choices import Choice, Found, Rung, batch_images, choices, chosen_rung, host_for, rungs
from simclr_dist.starting.first_recipe import described, next_commands, readable
from simclr_dist.starting.pictures import Pictures, look_at_pictures
from simclr_dist.starting.speed import Host, Timing
from simclr_dist.starting.written import as_yaml, loaded
from tests.support.images import opened, write_image

CPU = Host(cores=2, gpus=0)
GPUS = Host(cores=32, gpus=8, gpu="some GPU", gpu_bytes=80 * 10**9, half="bfloat16")


def pictures(tmp_path, count=1800, side=240, **others):
    sides = (side, side, side)
    facts = {"classes": {"a": count // 2, "b": count - count // 2}, "held_out": 0, "alpha": 0.0, "turned": 0.0}
    facts |= {"grey": False, "unreadable": [], "mean_pixels": 1e4, "remarks": ()}
    return Pictures(path=tmp_path, count=count, looked_at=count, short_sides=sides, **(facts | others))


def chosen(found, rung=None, seconds=0.01):
    rung = rung or rungs(found.pictures, found.host)[0]
    timing = Timing(seconds_an_image=seconds, bytes_an_image=0)
    return {choice.key: choice.value for choice in choices(found, rung, timing)}


def found_of(tmp_path, host=CPU, hours=1.0, **facts):
    return Found(pictures=pictures(tmp_path, **facts), host=host, hours=hours, read_seconds=0.001)


# ---------------------------------------------------------------------------------------------- what is seen


def save(path, picture, **options):
    path.parent.mkdir(exist_ok=True)
    picture.save(path, **options)


def test_headers_show_sizes_transparency_and_orientation_and_broken_pictures_are_named(tmp_path):
    colour = Image.new("RGB", (30, 20), (200, 90, 30))
    save(tmp_path / "a" / "plain.png", colour)
    save(tmp_path / "a" / "clear.png", Image.new("RGBA", (64, 50), (9, 99, 9, 0)))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "b" / "phone.jpg", Image.new("RGB", (80, 100), (0, 90, 200)), exif=exif)
    save(tmp_path / "b" / "upright.jpg", Image.new("RGB", (80, 100), (0, 90, 200)))
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    os.mkfifo(tmp_path / "b" / "pipe.png")  # opening it would wait for ever
    found, _ = look_at_pictures(tmp_path)
    assert (found.count, found.classes, found.looked_at) == (6, {"a": 2, "b": 4}, 6)
    assert found.short_sides == (20, 80, 80)
    assert (found.alpha, found.turned, found.grey) == (0.25, 0.25, False)
    assert sorted(line.partition(":")[0] for line in found.unreadable) == ["b/empty.png", "b/pipe.png"]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_without_colour_are_grey_however_they_are_stored(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    for number in range(3):
        save(tmp_path / "a" / f"{number}.jpg", Image.fromarray(noise).convert(mode))
    assert look_at_pictures(tmp_path)[0].grey
    save(tmp_path / "a" / "red.jpg", Image.new("RGB", (40, 40), (200, 0, 0)))
    assert not look_at_pictures(tmp_path)[0].grey


def test_a_held_out_split_is_counted_and_not_pretrained_on(tmp_path):
    for split, count in (("train", 5), ("test", 3)):
        for number in range(count):
            write_image(tmp_path / split / "a" / f"{number}.png")
    found, _ = look_at_pictures(tmp_path)
    assert (found.count, found.held_out) == (5, 3)


def test_a_stray_picture_beside_the_class_folders_is_named_and_takes_no_class_away(tmp_path):
    for name in ("a/1", "a/2", "b/1", "b/2", ".hidden/1", "stray"):
        write_image(tmp_path / f"{name}.png")
    found, _ = look_at_pictures(tmp_path)
    assert (found.count, list(found.classes), found.held_out) == (5, ["a", "b"], 2)
    told = "\n".join(described(found))
    assert "stray.png: beside the class folders" in told
    assert ".hidden/: hidden" in told


def test_a_folder_with_a_single_picture_or_none_that_can_be_read_is_refused(tmp_path):
    write_image(tmp_path / "one" / "a.png")
    with pytest.raises(UserError, match="one picture alone"):
        look_at_pictures(tmp_path / "one")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    (tmp_path / "one" / "a.png").unlink()
    with pytest.raises(UserError, match="no picture of those tried can be read"):
        look_at_pictures(tmp_path)


def test_the_views_are_drawn_of_pictures_that_can_be_read_wherever_broken_ones_stand(tmp_path):
    for number in range(9):
        write_image(tmp_path / "a" / f"{number}.png")
    for number in (0, 4, 8):
        (tmp_path / "a" / f"{number}.png").write_bytes(b"broken")
    whole = readable(opened("folder", tmp_path), most=8)
    assert whole.indices.tolist() == [1, 2, 3, 5, 6, 7]


# ---------------------------------------------------------------------------------------------- what follows


@pytest.mark.parametrize(
    ("images", "host", "expected"),
    [
        (2, CPU, 2), (5, CPU, 4), (40, CPU, 32), (800, CPU, 64), (1800, CPU, 128), (10**6, CPU, 128),
        (800, GPUS, 64), (50_000, GPUS, 4096), (1_281_167, GPUS, 4096),
        (50_000, Host(cores=8, gpus=1), 512), (50_000, Host(cores=8, gpus=3), 1536),
    ],
)  # fmt: skip
def test_the_batch_is_large_on_gpus_and_never_more_than_the_pictures_allow(images, host, expected):
    batch = batch_images(images, host)
    assert batch == expected <= images
    assert batch % max(1, host.gpus) == 0


def test_few_pictures_take_one_gpu_of_many():
    assert [host_for(images, GPUS).gpus for images in (9, 500, 512)] == [1, 1, 8]
    assert host_for(9, CPU) == CPU


def test_the_batch_of_a_gpu_fits_its_memory():
    host = Host(cores=8, gpus=2, gpu_bytes=10 * 10**9)
    assert batch_images(10**6, host, bytes_an_image=10**8) == 2 * 64


@pytest.mark.parametrize(("side", "size"), [(8, 16), (28, 32), (50, 48), (240, 64), (4000, 64)])
def test_no_size_to_try_enlarges_the_pictures_or_asks_a_cpu_for_more_than_64_pixels(tmp_path, side, size):
    tried = rungs(pictures(tmp_path, side=side), CPU)
    assert max(rung.size for rung in tried) == size
    assert [rung.cost for rung in tried] == sorted(rung.cost for rung in tried)


def test_a_gpu_gets_a_larger_encoder_and_size_for_many_large_pictures(tmp_path):
    assert rungs(pictures(tmp_path, count=50_000, side=500), GPUS)[-1] == Rung(224, "resnet50")
    assert rungs(pictures(tmp_path, count=50_000, side=32), GPUS) == [Rung(32, "resnet18"), Rung(32, "resnet50")]
    assert {rung.encoder for rung in rungs(pictures(tmp_path, count=800, side=500), GPUS)} == {"resnet18"}


def test_the_dearest_encoder_of_which_a_hundred_epochs_fit_is_taken_as_measured(tmp_path):
    measured = []

    def measure(rung):
        measured.append(rung)
        return Timing(seconds_an_image=rung.cost * 1e-5, bytes_an_image=0)

    found = found_of(tmp_path)
    rung, timing = chosen_rung(found, measure)
    dearer = [other for other in rungs(found.pictures, CPU) if other.cost > rung.cost]
    assert found.epochs(timing.seconds_an_image) >= 100
    assert all(found.epochs(other.cost * 1e-5) < 100 for other in dearer)
    assert len(measured) <= 3
    cheapest = rungs(found.pictures, CPU)[0]
    assert chosen_rung(found_of(tmp_path, hours=0.001), measure)[0] == cheapest


def test_the_epochs_fit_the_hours_and_the_warm_up_the_epochs(tmp_path):
    hour = chosen(found_of(tmp_path))
    assert hour["recipe.epochs"] * 1800 * 0.0105 <= 3600
    assert hour["recipe.epochs"] > 150
    assert hour["recipe.warmup_epochs"] == 10
    trial = chosen(found_of(tmp_path, hours=0.05))
    assert trial["recipe.warmup_epochs"] == pytest.approx(trial["recipe.epochs"] / 10, abs=0.01)
    assert chosen(found_of(tmp_path, hours=1e-6))["recipe.epochs"] == 1
    assert chosen(found_of(tmp_path, hours=1e6))["recipe.epochs"] == 1000


def test_a_few_posters_among_icons_that_were_not_read_count_in_the_time_of_reading(tmp_path, monkeypatch):
    for number in range(40):
        write_image(tmp_path / f"{number}.png", size=(32, 32))
    found, source = look_at_pictures(tmp_path)
    config = first_recipe._as_config(found, CPU, rungs(found, CPU)[0])
    monkeypatch.setattr(first_recipe, "stage_seconds", lambda *_: {"read and decode": 0.001, "crop, resize, flip": 0.1})
    assert first_recipe._read_seconds(config, source, found) == pytest.approx(0.101)
    posters = replace(found, mean_pixels=100 * found.mean_pixels)
    assert first_recipe._read_seconds(config, source, posters) == pytest.approx(0.2)


def test_grey_pictures_get_no_colour_and_small_ones_larger_crops(tmp_path):
    views = chosen(found_of(tmp_path, grey=True, side=28))
    assert [views[f"recipe.views.{key}"] for key in ("saturation", "hue", "grayscale_probability")] == [0, 0, 0]
    assert views["recipe.views.crop_area_min"] == 0.2
    coloured = chosen(found_of(tmp_path))
    assert "recipe.views.hue" not in coloured
    assert "recipe.views.crop_area_min" not in coloured


@pytest.mark.parametrize(("broken", "share"), [(0, 0.01), (90, 0.11), (1800, 1.0)])
def test_broken_pictures_that_were_found_do_not_end_the_run(tmp_path, broken, share):
    keys = chosen(found_of(tmp_path, unreadable=["a/b.png: damaged"] * broken))
    assert keys["machine.max_broken_image_share"] == share


def test_large_pictures_on_gpus_get_the_papers_values_for_imagenet(tmp_path):
    found = found_of(tmp_path, host=GPUS, count=1_281_167, side=400)
    keys = chosen(found, Rung(224, "resnet50"))
    assert keys["recipe.encoder.stem"] == "imagenet"
    assert (keys["recipe.method.temperature"], keys["recipe.optimizer.name"]) == (0.1, "lars")
    assert keys["recipe.optimizer.base_learning_rate"] * 4096**0.5 == pytest.approx(4.8)
    assert (keys["machine.precision"], keys["machine.channels_last"]) == ("bfloat16", True)
    assert "recipe.views.color_strength" not in keys


def test_every_choice_of_every_machine_and_size_loads_with_a_reason_a_line(tmp_path):
    for host in (CPU, GPUS):
        for side in (8, 64, 300):
            found = found_of(tmp_path, host=host, side=side, grey=True, held_out=9, count=6000)
            for rung in rungs(found.pictures, host):
                made = choices(found, rung, Timing(seconds_an_image=0.01, bytes_an_image=0))
                text = as_yaml(made)
                assert loaded(text, made).recipe.encoder.name == rung.encoder
                assert all("  # " in line or line.endswith(":") for line in text.splitlines())


# ---------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "name",
    [
        "photos #2",
        "${HOME}",
        "2026",
        "a: b",
        "it's",
        '"',
        "true",
        "0x10",
        "~",
        "\u3072",
        "a\nb",
        "\udcff",
        "a\\${HOME}",
        "b\\",
    ],
)
def test_a_folder_of_any_name_comes_back_from_the_file(tmp_path, name):
    folder = f"{tmp_path}/{name}"
    os.mkdir(folder)
    path = [Choice("recipe.data.source", "folder", "why"), Choice("recipe.data.path", folder, "why")]
    assert loaded(as_yaml(path), path).recipe.data.path == folder


def test_a_value_that_does_not_come_back_from_the_file_is_refused():
    chosen = [Choice("recipe.data.source", "digits", "why"), Choice("machine.run_dir", "", "means another")]
    with pytest.raises(UserError, match=r"machine\.run_dir: '' .* make a link"):
        loaded(as_yaml(chosen), chosen)


def test_evaluate_asks_for_labels_where_the_pictures_have_none(tmp_path):
    assert "  simclr-dist evaluate runs/my --on FOLDER" in "\n".join(
        next_commands(tmp_path / "my.yaml", pictures(tmp_path, classes={}), CPU)
    )
    lines = next_commands(tmp_path / "my.yaml", pictures(tmp_path, count=2), CPU)
    assert any("--on FOLDER" in line and "it has one picture a class" in line for line in lines)
    lines = next_commands(tmp_path / "my.yaml", pictures(tmp_path), GPUS)
    assert any("--processes 8" in line for line in lines)
    assert not any("--on" in line for line in lines)


def test_what_is_done_is_said_before_it_is_done(capsys):
    with ticking("adding numbers"):
        assert capsys.readouterr().err == "adding numbers ..."


@pytest.mark.parametrize("there", ["my.yaml", "my.png"])
def test_a_file_that_is_there_is_not_overwritten(run, tmp_path, monkeypatch, there):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_image(tmp_path / "photos" / "a" / f"{number}.png")
    (tmp_path / there).write_text("mine")
    status, _, err = run("init", "photos")
    assert status == 2
    assert f"{there}: is there already; give another name with --out" in err
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("seen", ["cores", pytest.param("GPUs (", marks=pytest.mark.cuda(pretended=True))])
def test_the_first_recipe_of_a_folder_loads_plans_and_trains_as_it_is(run, tmp_path, monkeypatch, seen):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for number in range(40):
        pixels = noise.integers(0, 256, (14 + number // 4, 24, 3), dtype=np.uint8)
        folder = tmp_path / "photos #2" / f"class {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "photos #2" / "class 0" / "0.png").write_bytes(b"broken")  # the first of the set
    status, out, err = run("init", "photos #2", "--hours", "0.01")
    assert status == 0, err
    assert "40 pictures to pretrain on, 3 classes: class 0 14, class 1 13, class 2 13" in out
    assert "1 cannot be read, the first: class 0/0.png" in out
    assert seen in out
    assert "simclr-dist pretrain my.yaml" in out
    assert Image.open("my.png").size[0] > 100
    config = load_config("my.yaml")
    assert (config.recipe.data.path, config.recipe.global_batch_images) == (str(tmp_path / "photos #2"), 32)
    status, out, err = run("plan", "my.yaml", "--gpus", "1", "--gpu-memory", "80GB")
    assert status == 0, err
    status, _, err = run("pretrain", "my.yaml", "machine.stop_after_steps=3", "machine.loader_workers=0")
    assert status == 0, err
