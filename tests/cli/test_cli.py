"""The command line: what a user does wrong is one line and status 2, and the answer comes without heavy imports."""

import errno
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click
import pytest
import yaml
from PIL import Image

from simclr_dist import __version__
from simclr_dist.cli.main import command
from simclr_dist.cli.options import NumberType, PathType
from simclr_dist.config import load_config, to_dict
from simclr_dist.importing import ctrl_c_ends_imports, said_while_importing
from simclr_dist.progress_bar import said_when_slow
from tests.support.commands import complaint
from tests.support.images import write_image

SUBCOMMANDS = sorted(command.commands)
HEAVY = {"torch", "torchvision", "matplotlib", "sklearn", "tensorboard"}
LAUNCHERS_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def _alone_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in LAUNCHERS_VARIABLES:
        monkeypatch.delenv(name, raising=False)


# Each a mistake of the user, and what the line must name.
MISTAKES = [
    (["pretran", "digits_demo"], "'pretrain'"),
    (["evalute", "runs/x"], "'evaluate'"),
    (["--explain"], "'--explain'"),
    (["config", "--explan"], "'--explain'"),
    (["pretrain", "--procesess", "2", "digits_demo"], "'--processes'"),
    (["preview", "digits_demo", "--outt", "x.png"], "'--out'"),
    (["config"], "CONFIG"),
    (["preview"], "CONFIG"),
    (["pretrain"], "CONFIG"),
    (["evaluate"], "RUN_OR_WEIGHTS"),
    (["evaluate", "a", "b"], "b"),
    (["features", "a", "b"], "--out"),
    (["neighbours", "a", "b", "--out", "c.html"], "IMAGE..."),
    (["config", "digits_dmo"], "'digits_demo'"),
    (["pretrain", "digits_dmo"], "'digits_demo'"),
    (["preview", "digits_dmo"], "'digits_demo'"),
    (["config", "digits_demo", "recipe.epochs"], "recipe.epochs"),
    (["config", "digits_demo", "recipe.epoch=3"], "'epochs'"),
    (["config", "digits_demo", "recipe.epochs=0"], "recipe.epochs"),
    (["config", "digits_demo", "recipe.method.name=simclrr"], "'simclr'"),
    (["config", "digits_demo", "recipe.method.temperatur=1"], "'temperature'"),
    (
        ["config", "digits_demo", "recipe.loss.temperature=1"],
        "recipe.loss.temperature is now recipe.method.temperature",
    ),
    (["config", "--explain", "simclrr"], "'simclr'"),
    (["config", "digits_demo", "recipe.encoder.name=resnet51"], "'resnet50'"),
    (["pretrain", "digits_demo", "recipe.views.hue=0.6"], "recipe.views.hue"),
    (["pretrain", "digits_demo", "--processes", "0"], "--processes"),
    (["pretrain", "digits_demo", "--processes", "two"], "--processes"),
    (["pretrain", "digits_demo", "--processes", "3"], "start 2"),
    (["pretrain", "digits_demo", "--processes"], "--processes"),
    (["pretrain", "digits_demo", "recipe.global_batch_images=2048"], "1437"),
    (["pretrain", "digits_demo", "recipe.data.source=folder", "recipe.data.path=nowhere"], "nowhere"),
    (["init"], "FOLDER"),
    (["init", "nowhere"], "nowhere"),
    (["init", ".", "--hours", "0"], "--hours"),
    (["init", ".", "--out", "my.png"], ".yaml"),
    (["init", ".", "--out", "nowhere/my.yaml"], "nowhere"),
    (["preview", "digits_demo", "--images", "0"], "--images"),
    (["preview", "digits_demo", "--out", "."], "--out"),
    (["preview", "digits_demo", "--out", "nowhere/views.png"], "nowhere/views.png"),
    (["preview", "digits_demo", "recipe.data.source=folder", "recipe.data.path=nowhere"], "nowhere"),
    (["evaluate", "nowhere"], "nowhere"),
    (["evaluate", "."], "no checkpoint"),
    (["evaluate", ".", "--labels", "few"], "--labels: 'few'"),
    (["evaluate", ".", "--labels", "1,,5"], "--labels: '1,,5'"),
    (["evaluate", ".", "--labels", "0,1"], "--labels: '0,1'"),
    (["evaluate", ".", "--labels", "-1"], "--labels: '-1'"),
    (["evaluate", ".", "--labels", "1.5"], "--labels: '1.5'"),
    (["evaluate", ".", "--labels", ""], "--labels: ''"),
    (["evaluate", ".", "--splits", "0"], "--splits"),
    (["evaluate", ".", "knn", "--temperature", "nan"], "--temperature': nan is not a finite number"),
    (["evaluate", ".", "probe", "--learning-rate", "inf"], "--learning-rate': inf is not a finite number"),
    (["init", ".", "--hours", "nan"], "--hours': nan is not a finite number"),
    (["import", "a", "b.safetensors", "--mean", "nan,0,0"], "--mean: 'nan,0,0' is not three numbers"),
    (["import", "a", "b.safetensors", "--option", "depth=010"], "--option: depth: 010 is octal"),
    (["init", ".", "--out", ""], "--out': it is empty"),
    (["extend", ".", "--epochs", "2", "--run-dir", ""], "--run-dir': it is empty"),
    (["export", ".", "--to", "timm", "--out", ""], "--out': it is empty"),
    (["data", "write", "digits_demo", ""], "OUT': it is empty"),
    (["evaluate", ".", "--checkpoint", ""], "--checkpoint': it is empty"),
    (["cancel", ""], "it is empty"),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_answered_with_one_line_and_status_2(run, arguments, named):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert complaint(err).startswith("simclr-dist: ")
    assert named in complaint(err)


def parameters(group: click.Group) -> Iterator[click.Parameter]:
    for each in group.commands.values():
        yield from parameters(each) if isinstance(each, click.Group) else each.params


def test_no_command_has_a_path_that_may_be_empty_or_a_number_that_may_be_nan():
    types = [each.type for each in parameters(command)]
    found = [each for each in types if isinstance(each, click.Path | click.types.FloatParamType)]
    assert {type(each) for each in found} == {PathType, NumberType}


@pytest.mark.parametrize(
    "arguments",
    [["config", "digits_dmo"], ["evaluate", ".", "--labels", "few"], ["preview", "digits_demo", "--images", "0"]],
    ids=["config", "evaluate", "click"],
)
def test_debug_adds_the_traceback_before_the_line(run, arguments):
    _, _, line = run(*arguments)
    status, _, err = run(*arguments, "--debug")
    assert status == 2
    assert "Traceback (most recent call last)" in err
    assert err.endswith(line)


def test_debug_is_taken_before_the_subcommand_too(run):
    assert "Traceback" in run("--debug", "config", "digits_dmo")[2]


def test_the_message_of_torch_about_a_picture_that_cannot_be_written_is_not_shown(run):
    _, _, err = run("preview", "digits_demo", "--out", "nowhere/views.png")
    assert ".cpp" not in err


def test_a_message_of_several_lines_is_still_one_line(run):
    assert run("config", "digits_demo", "recipe.a\nb=3")[2].count("\n") == 1


def test_an_error_that_nobody_foresaw_is_one_line_that_points_to_debug(run, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("simclr_dist.cli.config.load_config", fail)
    status, _, err = run("config", "digits_demo")
    assert status == 1
    assert err.count("\n") == 1
    assert "RuntimeError: first line" in err
    assert "--debug" in err
    assert "Traceback" in run("config", "digits_demo", "--debug")[2]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("x"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
    ],
)
def test_too_little_memory_is_no_bug(run, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("simclr_dist.cli.config.load_config", fail)
    status, _, err = run("config", "digits_demo")
    assert status == 2
    assert "out of memory: " in complaint(err)
    assert "machine.images_per_chunk" in err


def test_an_interrupt_ends_without_a_word(run, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simclr_dist.cli.config.load_config", fail)
    status, _, err = run("config", "digits_demo")
    assert status == 130
    assert err.strip() == ""


def test_a_pipe_that_breaks_inside_a_command_is_an_error_as_any_other(run, monkeypatch):
    def fail(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("simclr_dist.cli.config.load_config", fail)
    status, _, err = run("config", "digits_demo")
    assert status == 1
    assert "BrokenPipeError: [Errno 32] Broken pipe" in complaint(err)


def test_a_log_is_followed_no_longer_than_somebody_reads_it(run, monkeypatch):
    monkeypatch.setattr("simclr_dist.launch.slurm.watching.find_run", Path)
    monkeypatch.setattr("simclr_dist.launch.slurm.watching.follow", lambda *_: iter(["a", "b"]))
    said: list[str] = []
    monkeypatch.setattr("simclr_dist.cli.cluster.say", lambda text, **_: said.append(text))  # False, in a way
    assert run("logs", "x", "--follow")[0] == 0
    assert said == ["a"]


def test_a_mistake_names_the_process_when_it_is_not_the_first(run, monkeypatch):
    for name, value in zip(LAUNCHERS_VARIABLES, ("3", "4", "1", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert run("config", "digits_dmo")[2].startswith("simclr-dist (process 3): ")


@pytest.mark.parametrize("arguments", [["config", "digits_dmo"], ["pretrain", "digits_demo"]], ids=" ".join)
def test_a_rank_that_is_no_number_is_no_traceback(run, monkeypatch, arguments):
    monkeypatch.setenv("RANK", "first")
    status, _, err = run(*arguments)
    assert status == 2
    assert "digits_dmo" in complaint(err) or "RANK" in complaint(err)


@pytest.mark.parametrize("name", ["pretrain", "verify"])
def test_a_config_from_a_pipe_is_not_given_to_several_processes(run, name):
    reader, writer = os.pipe()
    os.write(writer, b"recipe: {data: {source: digits}}")
    os.close(writer)
    status, _, err = run(name, f"/dev/fd/{reader}", "--processes", "2")
    os.close(reader)
    assert status == 2
    assert "a pipe can be read once" in complaint(err)


# ---------------------------------------------------------------------------------------------- help


def test_a_command_is_started_in_processes_with_the_words_that_were_given(run, monkeypatch):
    started = []
    monkeypatch.setattr("simclr_dist.launch.relaunch.relaunch", lambda *given: started.append(given) or 0)
    neighbours = [
        "neighbours",
        "my run",
        "photos",
        "a.png",
        "b.png",
        "--out",
        "page.html",
        "--k",
        "3",
        "--device",
        "cpu",
    ]
    assert run(*neighbours, "--features", "f.npz", "--no-pixels", "--processes", "2")[0] == 0
    assert run("features", "my run", "photos", "--out", "f.npz", "--overwrite", "--no-keep", "--processes", "3")[0] == 0
    (count, words, device), other = started
    assert (count, words[0], words[-5:], device) == (2, "neighbours", ["--", *neighbours[1:5]], "cpu")
    assert sorted(words[1:-5]) == sorted([*neighbours[5:], "--features", "f.npz", "--no-pixels"])
    assert other[0] == 3
    assert sorted(other[1][1:-3]) == sorted(["--out", "f.npz", "--overwrite", "--no-keep"])


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_subcommand_explains_itself(run, subcommand, option):
    status, out, err = run(subcommand, option)
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: simclr-dist {subcommand} ")
    assert len(command.commands[subcommand].help or "") > 20


@pytest.mark.parametrize("name", ["probe", "finetune", "segment"])
def test_the_help_of_evaluate_names_the_rate_and_batch_that_each_training_takes(run, name):
    from simclr_dist.evaluation.protocol import FINE_TUNING, LINEAR, SEGMENTATION

    protocol = {"probe": LINEAR, "finetune": FINE_TUNING, "segment": SEGMENTATION}[name]
    text = " ".join(run("evaluate", "--help")[1].split())
    rates, batches = (text.partition(f"--{option} ")[2].partition("]")[0] for option in ("learning-rate", "batch"))
    assert f"{name} {protocol.base_learning_rate:g}" in rates
    assert f"{name} {'the recipe' if name == 'finetune' else protocol.batch_images}" in batches


def test_the_help_of_resume_names_no_default_as_those_are_of_the_last_submission(run):
    submit, resume = (" ".join(run(name, "--help")[1].split()) for name in ("submit", "resume"))
    assert "One process each. [default: 1]" in submit
    assert "default:" not in resume


def test_the_help_lists_every_subcommand(run):
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"\n  {subcommand} " in out for subcommand in SUBCOMMANDS)


def test_no_arguments_at_all_show_the_help_as_it_is(run):
    _, out, err = run()
    assert "\n  Distributed large-batch contrastive pretraining" in out + err


def test_the_version_is_the_packages(run):
    assert run("--version") == (0, f"simclr-dist, version {__version__}\n", "")


# ---------------------------------------------------------------------------------------------- config and preview


def test_config_prints_the_resolved_config_as_yaml_that_loads_to_the_same(run):
    status, out, err = run("config", "digits_demo", "recipe.epochs=7")
    assert (status, err) == (0, "")
    assert yaml.safe_load(out) == to_dict(load_config("digits_demo", ["recipe.epochs=7"]))
    Path("again.yaml").write_text(out)
    assert run("config", "again.yaml")[1] == out


def test_config_explains_every_key(run):
    status, out, _ = run("config", "--explain")
    assert status == 0
    assert "recipe.seed: " in out
    assert "machine.deterministic: " in out


@pytest.mark.parametrize(("images", "side"), [(1, 16), (3, 24)])
def test_preview_draws_a_row_for_each_image_with_the_image_and_three_pairs(run, images, side):
    status, out, err = run(
        *("preview", "digits_demo", f"recipe.data.image_size={side}", "--images", str(images), "--out", "drawn.png")
    )
    assert (status, [line for line in err.splitlines() if " images " not in line]) == (0, [])
    assert out.startswith("drawn.png: ")
    assert f"global (2 of {side} px, bilinear)" in out
    with Image.open("drawn.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.size == (7 * (side + 2) + 2, images * (side + 2) + 2)


def test_preview_draws_no_image_twice_and_says_that_there_are_fewer_than_asked_for(run, tmp_path):
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png")
    folder = ["recipe.data.source=folder", "recipe.data.path=images"]
    status, _, err = run("preview", "digits_demo", *folder, "--images", 9)
    assert (status, err.splitlines()[1:]) == (0, ["--images: 9 are asked for and there are 3, so these are drawn"])
    with Image.open("views.png") as picture:
        assert picture.height == 3 * (16 + 2) + 2


def test_preview_of_a_broken_image_names_it(run, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "torn.jpg").write_bytes(b"no image")
    folder = ["recipe.data.source=folder", "recipe.data.path=images"]
    status, _, err = run("preview", "digits_demo", *folder)
    assert status == 2
    assert err.count("\n") == 1
    assert "torn.jpg" in err


def test_preview_passes_over_broken_images_that_a_run_would_replace(run, tmp_path):
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.png")
    for number in (0, 3):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"no image")
    folder = ["recipe.data.source=folder", "recipe.data.path=images"]
    for images, rows in ((1, 1), (2, 2), (4, 2)):
        status, _, err = run("preview", "digits_demo", *folder, "--images", images)
        assert status == 0
        assert "not drawn, broken: 0.png: " in err
        with Image.open("views.png") as picture:
            assert picture.height == rows * (16 + 2) + 2


@pytest.mark.parametrize("machine", [[], ["machine.renderer=torchvision"], ["machine.views_on_device=true"]])
def test_data_bench_says_where_the_time_goes_for_every_renderer(run, machine):
    options = ["--images", "8", "--seconds", "0", "machine.loader_workers=0"]
    status, output, _ = run("data", "bench", "digits_demo", *options, *machine)
    assert status == 0
    lines = output.splitlines()
    stages = ["read and decode", "draw the choices", "crop, resize, flip", "colours and blur", "together"]
    on_device = any("views_on_device" in key for key in machine)
    expected = [stage for stage in stages if not (on_device and stage == "colours and blur")]
    assert [line.strip().partition("  ")[0] for line in lines[1:-1]] == expected
    assert "images/s; its first batch after" in lines[-1]


# ---------------------------------------------------------------------------------------------- imports


def modules_after(code: str, *, without: tuple[str, ...] = ()) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after ``code``; importing one of ``without`` fails."""
    script = (
        f"import sys\nfor name in {without!r}: sys.modules[name] = None\n"
        f"try:\n    {code}\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write('\\n' + ' '.join({name.partition('.')[0] for name, m in sys.modules.items() if m}))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import simclr_dist.cli.main",
        "from simclr_dist.cli.main import main; main(['--help'])",
        "from simclr_dist.cli.main import main; main(['pretrain', '--help'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_dmo'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_demo', 'recipe.epoch=3'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_demo', 'machine.devise=cpu'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_demo', 'recip.epochs=3'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_demo', 'recipe.data=3'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_demo', 'recipe.loss.temperature=1'])",
        "from simclr_dist.cli.main import main; main(['config', 'digits_demo', 'recipe.method.name=simclrr'])",
        "from simclr_dist.cli.main import main; main(['pretrain', 'digits_demo', 'recipe.epochs=0'])",
        "from simclr_dist.cli.main import main; main(['evaluate', '.', '--labels', 'few'])",
        "from simclr_dist.cli.main import main; main(['init', '.', '--out', 'nowhere/my.yaml'])",
    ],
    ids=[
        "import", "help", "pretrain help", "no such config", "recipe key", "machine key", "part", "shape", "old key",
        "no such method", "bad value", "bad labels", "init",
    ],
)  # fmt: skip
def test_an_answer_that_needs_no_torch_comes_without_it(code):
    imported = modules_after(code)
    assert "simclr_dist" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("words", [["pretrain"], ["verify"], ["features", "--out=f.npz", "--device=cpu"]], ids=" ".join)
def test_names_that_begin_as_options_reach_the_processes_as_they_are(run, monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-my.yaml").write_text("recipe: {data: {source: digits, image_size: 16}}\n")
    started = []
    monkeypatch.setattr("simclr_dist.launch.local.run_processes", lambda *given, **_: started.append(given[1]) or 0)
    options = [*words, "--processes", "2", "--debug"]
    monkeypatch.setattr("sys.argv", ["simclr-dist", *options])
    assert run(*options, "--", "-my.yaml", "recipe.seed=3")[0] == 0
    (given,) = started
    assert given[:2] == ["--debug", words[0]]
    assert given[-3:] == ["--", "-my.yaml", "recipe.seed=3"]


@pytest.mark.parametrize("arguments", [["config", "digits_demo"], ["config", "--explain"]], ids=" ".join)
def test_config_imports_torch_for_the_methods_keys_and_nothing_else_that_takes_long(arguments):
    # torchvision alone would take it as long again.
    imported = modules_after(f"from simclr_dist.cli.main import main; main({arguments!r})")
    assert imported & HEAVY == {"torch"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "expected"), [(Terminal, "loading ...\n"), (io.StringIO, "")])
def test_what_takes_long_is_said_on_a_terminal_and_only_there(monkeypatch, stream, expected):
    monkeypatch.setattr("sys.stderr", stream())
    with said_when_slow("loading", after_seconds=0):
        end = time.monotonic() + 10
        while sys.stderr.getvalue() != expected and time.monotonic() < end:
            time.sleep(0.01)
    assert sys.stderr.getvalue() == expected
    with said_when_slow("loading", after_seconds=60):
        pass
    assert sys.stderr.getvalue() == expected


def test_what_takes_long_is_said_by_the_first_process_alone_on_a_terminal_too(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    said: list[str] = []
    for write in (said.append, None):
        with said_when_slow("loading", after_seconds=0, write=write, active=False):
            time.sleep(0.05)
    assert (said, sys.stderr.getvalue()) == ([], "")


@pytest.mark.parametrize(("stream", "expected"), [(Terminal, "loading slow ...\n"), (io.StringIO, "")])
def test_imports_that_take_long_together_are_said_on_a_terminal_wherever_they_stand(
    monkeypatch, tmp_path, stream, expected
):
    monkeypatch.setattr("sys.stderr", stream())
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"slow_to_import_{number}" for number in range(20)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("import time\ntime.sleep(0.3)\n")
    with said_while_importing("slow", after_seconds=0.8):
        importlib.import_module(names[0])
        time.sleep(1.0)
        assert sys.stderr.getvalue() == ""  # nothing is imported for long
        for name in names[1:] if expected else names[1:4]:
            importlib.import_module(name)
            if sys.stderr.getvalue():
                break
    assert sys.stderr.getvalue() == expected
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_ctrl_c_within_an_import_ends_the_process_at_once_whatever_catches_it_and_elsewhere_is_raised(
    monkeypatch, tmp_path
):
    (tmp_path / "catches_all.py").write_text(
        "import signal\ntry:\n signal.raise_signal(2)\nexcept BaseException: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with ctrl_c_ends_imports():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if (child := os.fork()) == 0:
            importlib.import_module("catches_all")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("name", "rank", "active"), [("config", "0", True), ("evaluate", "1", False), ("pretrain", "0", False)]
)
def test_imports_are_said_by_the_first_process_of_every_command_but_pretrain_which_says_that_it_starts(
    run, monkeypatch, name, rank, active
):
    told = []
    watched = lambda *given, **how: told.append((given, how)) or nullcontext()  # noqa: E731
    monkeypatch.setattr("simclr_dist.cli.main.said_while_importing", watched)
    for variable, value in zip(LAUNCHERS_VARIABLES, (rank, "2", rank, "2"), strict=True):
        monkeypatch.setenv(variable, value)
    run(name, "--help")
    assert told == [(("libraries",), {"active": active})]


def test_the_library_needs_neither_ffcv_nor_submitit():
    code = "import simclr_dist, simclr_dist.cli.main, simclr_dist.training.trainer"
    assert "simclr_dist" in modules_after(code, without=("ffcv", "submitit", "cv2"))
