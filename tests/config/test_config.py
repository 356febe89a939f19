"""The config: what loads, what is refused and in which words, and that the schema says what the code can build."""

import math
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from simclr_dist.config import Config, load_config, to_dict, to_yaml
from simclr_dist.config.explain import everything, explain
from simclr_dist.config.loading import fields_of, recipe_from_dict
from simclr_dist.config.recipe import (
    ENCODERS,
    OPTIMIZERS,
    SOURCES,
    SOURCES_WITH_MASKS,
    SOURCES_WITHOUT_PATH,
    Optimizer,
)
from simclr_dist.config.registry import METHODS
from simclr_dist.config.views import ViewGroup
from simclr_dist.configs import shipped
from simclr_dist.data.sources.masked_sets import MASKED
from simclr_dist.data.sources.named import _OPENERS
from simclr_dist.errors import UserError
from simclr_dist.models.resnet import DEPTHS
from simclr_dist.optim.factory import make_optimizer
from tests.support.configs import MINIMAL

LEAVES = list(fields_of(everything()))
NUMBERS = [(key, entry.metadata) for key, value, entry in LEAVES if type(value) in (int, float)]
# What a user must never read: the vocabulary of the library that parses.
JARGON = ("DictConfig", "ListConfig", "AnyNode", "NoneType", "Optional", "subclass", "full_key", "object_type", "errno")


def complaint(config: str, *overrides: str) -> str:
    """The one line that a bad config gives."""
    with pytest.raises(UserError) as caught:
        load_config(config, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert not [word for word in JARGON if word in message]
    return message


def leaf(config: Config, key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    return node


# ---------------------------------------------------------------------------------------------- documentation


@pytest.fixture(scope="module")
def explained() -> list[str]:
    return explain().splitlines()


def test_explain_lists_every_key_once_and_in_order_with_its_default(explained):
    heads = [line for line in explained if not line.startswith(" ")]
    assert [head.partition(":")[0] for head in heads] == [key for key, _, _ in LEAVES]
    assert all(f"= {value!r}" in head for head, (_, value, _) in zip(heads, LEAVES, strict=True))


def test_explain_says_the_rule_of_a_default_that_follows_from_another_key(explained):
    (head,) = [line for line in explained if line.startswith("recipe.warmup_epochs:")]
    assert "(-1: a tenth of recipe.epochs, at most 10)" in head


@pytest.mark.parametrize("key", [key for key, _, _ in LEAVES])
def test_explain_documents_the_key_below_its_name(explained, key):
    (at,) = [number for number, line in enumerate(explained) if line.startswith(f"{key}:")]
    assert explained[at + 1].startswith("    ")
    assert len(explained[at + 1].split()) > 2


@pytest.mark.parametrize(("key", "entry"), [(key, entry) for key, _, entry in LEAVES if entry.metadata.get("choices")])
def test_explain_names_every_allowed_value_of_the_key(explained, key, entry):
    (at,) = [number for number, line in enumerate(explained) if line.startswith(f"{key}:")]
    # A long list goes on in the next line.
    assert f"one of {', '.join(entry.metadata['choices'])}" in " ".join(" ".join(explained[at : at + 2]).split())


def test_explain_gives_a_large_limit_to_the_last_digit(explained):
    (head,) = [line for line in explained if line.startswith("recipe.seed:")]
    assert str(2**63 - 1) in head


def test_explain_fits_a_terminal(explained):
    assert max(len(line) for line in explained) <= 120


# ---------------------------------------------------------------------------------------------- what loads


def changed(value: Any, entry: Any) -> Any:
    """Another allowed value of a field; the same where only one is."""
    names_method = entry.name == "name" and value and not entry.metadata
    if entry.name == "count" or names_method:  # the method fixes it, or is named by it
        return value
    if entry.name == "size":
        return value + 8
    if entry.name == "sha256":
        return "0a" * 32
    if entry.name == "output_stride":  # one that either stem leaves
        return 8
    if entry.name == "crop_of":  # there is no group before
        return value
    if entry.name in ("options", "frozen"):  # of timm's models alone
        return value
    choices = entry.metadata.get("choices")
    if choices:
        return choices[(choices.index(value) + 1) % len(choices)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, str):
        return "a folder: 'naïve' # 1 \"x\", {y}"
    if entry.name == "bands":
        return {5: [1.5, 20], 12.5: [0, 100.0]}
    if entry.name == "unpublished":
        return [2.5, 20]
    return [number / 3 for number in value]


def change_all(node: Any) -> None:
    for entry in fields(node):
        value = getattr(node, entry.name)
        if is_dataclass(value):
            change_all(value)
        elif isinstance(value, dict) and any(map(is_dataclass, value.values())):
            for inner in value.values():
                change_all(inner)
        else:
            setattr(node, entry.name, changed(value, entry))


def test_every_key_survives_a_round_trip_through_yaml(tmp_path):
    config = everything()
    change_all(config)
    unchanged = [key for key, value, _ in LEAVES if leaf(config, key) == value]
    assert set(unchanged) == {
        "recipe.method.name", "recipe.views.global.count", "recipe.views.global.crop_of", "recipe.encoder.options",
        "recipe.encoder.frozen",
    }  # fmt: skip
    path = tmp_path / "all.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(str(path)) == config


@pytest.mark.parametrize(
    "text", ["123", "null", "yes", "2024-01-01", "1e3", "~", "", " x ", "données", "a\tb", "%", "#"]
)
def test_text_that_looks_like_something_else_survives_a_round_trip(minimal, tmp_path, text):
    config = load_config(minimal)
    config.recipe.data.source, config.recipe.data.path = "folder", text or "x"
    config.machine.run_dir = {"": "runs/again", "~": "runs/~"}.get(text, text)  # ~ alone is the home folder
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(str(path)) == config


@pytest.mark.parametrize("value", [1e-6, 3e-05, 1e22, 0.1 + 0.2, 5e-324, 123456789.125])
def test_a_number_survives_a_round_trip_to_the_bit(minimal, tmp_path, value):
    config = load_config(minimal)
    config.recipe.optimizer.base_learning_rate = value
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(config))
    assert load_config(str(path)).recipe.optimizer.base_learning_rate == value


def test_a_recipe_survives_the_dict_that_checkpoints_hold():
    config = Config()
    change_all(config)
    assert recipe_from_dict(to_dict(config.recipe)) == config.recipe


def test_a_recipe_stored_before_a_key_existed_takes_the_keys_default():
    stored = to_dict(Config().recipe)
    del stored["method"]["loss_scale"], stored["views"]["global"]["size"]
    assert recipe_from_dict(stored) == Config().recipe


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_by_name_with_and_without_suffix_and_by_path(path):
    source = yaml.safe_load(path.read_text())["recipe"].get("data", {}).get("source", "folder")
    where = [] if source in SOURCES_WITHOUT_PATH else ["recipe.data.path=somewhere"]
    loaded = load_config(path.stem, where)
    assert loaded == load_config(path.name, where) == load_config(str(path), where)
    assert loaded.machine.run_dir == f"runs/{path.stem}"


def test_every_shipped_recipe_loads_and_names_its_published_number_its_source_and_its_health():
    for path in shipped():
        bands = [own for own in load_config(path.stem).health.values() if own.bands or own.unpublished]
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        known = path.stem in ("digits_demo", "fashion_mnist_resnet10")
        for word in ("No published number", "# Health: ") if known else ("# Published", "# Source: ", "# Health: "):
            assert any(word in line for line in header), (path.stem, word)
        # At 5, 10 and 20 % there is a band, or the words that there is none.
        assert bands, path.stem
        assert all({5, 10, 20} <= {*own.bands, *own.unpublished} for own in bands), path.stem


def test_there_is_a_shipped_recipe():
    assert "digits_demo" in [path.stem for path in shipped()]


def test_a_file_goes_before_a_shipped_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits_demo.yaml").write_text(MINIMAL.replace("warmup_epochs: 0", "warmup_epochs: 7"))
    assert load_config("digits_demo.yaml").recipe.warmup_epochs == 7


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("recipe.epochs=7", "recipe.epochs", 7),
        ("recipe.method.temperature=1e-1", "recipe.method.temperature", 0.1),
        ("recipe.method.temperature=1", "recipe.method.temperature", 1.0),
        ("recipe.data.mean=[0.1,0.2,0.3]", "recipe.data.mean", [0.1, 0.2, 0.3]),
        ("recipe.data={image_size: 32}", "recipe.data.image_size", 32),
        ("machine.compile=true", "machine.compile", True),
        ("machine.run_dir=a=b", "machine.run_dir", "a=b"),
        ("recipe={data: {source: folder, path: 010}}", "recipe.data.path", "010"),
        ("recipe.encoder={name: a.b:C}", "recipe.encoder.name", "a.b:C"),
        ("machine.stop_after_steps=${recipe.global_batch_images}", "machine.stop_after_steps", 4096),
    ],
)
def test_an_override_is_read_as_its_key_is_typed(minimal, override, key, value):
    read = leaf(load_config(minimal, [override]), key)
    assert (read, type(read)) == (value, type(value))


# Of the first YAML would make 20261126, 1, 750, 16, "exp", 511, 1e5, True, a date, None, a list, a mapping.
TYPED = ["2026_11_26", "001", "12:30", "0x10", "exp #3", "0777", "1e5", "yes", "2026-11-26", "null", "[1, 2]",
         "{a: 1}", "&a x", "*a", "a: b", "#", "%", " x ", "=", "x\\", "it's", "50%j", "`touch x`", "$(touch x)",
         "\x1b[31m"]  # fmt: skip


def test_bands_say_which_keys_of_their_recipe_a_run_changes_seeds_and_bands_of_its_own_aside():
    own = ("health.online_knn_top1.bands={5: [1, 2]}", "health.online_knn_top1.source=mine")
    given = (
        "recipe.epochs=20",
        "recipe.seed=3",
        "machine.compile=false",
        "recipe.optimizer.base_learning_rate=1",
        *own,
    )
    health = load_config("digits_demo", given).health
    assert health["contrastive_top1"].source.endswith(
        "outwards to halves; not of this run's recipe.epochs, recipe.optimizer.base_learning_rate"
    )
    assert health["online_knn_top1"].source == "mine"
    assert "not of this run" not in load_config("digits_demo", ["recipe.seed=3"]).health["contrastive_top1"].source


@pytest.mark.parametrize("text", TYPED)
@pytest.mark.parametrize("key", ["machine.run_dir", "recipe.data.path", "health.online_knn_top1.source"])
def test_a_text_key_is_the_word_behind_the_equals_sign_to_the_letter(minimal, tmp_path, key, text):
    loaded = load_config(minimal, ["recipe.data.source=folder", "recipe.data.path=x", f"{key}={text}"])
    assert leaf(loaded, key) == text
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(loaded), encoding="utf-8")
    assert load_config(str(again)) == loaded


@pytest.mark.parametrize("text", ["2026_11_26", "001", "12:30", "0x10", "0777", "1.50", "yes", "2026-11-26", "+1_0.0"])
@pytest.mark.parametrize(
    "form", ["machine: {{run_dir: {}}}", "machine:\n  run_dir: {} # note\n", "machine: {{run_dir: '{}'}}"]
)
def test_a_text_key_of_a_file_is_what_stands_there_and_no_number(tmp_path, form, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"{MINIMAL}{form.format(text)}")
    assert load_config(str(path)).machine.run_dir == text


@pytest.mark.parametrize("text", ["'a b'", '"x"', "''"])
def test_a_text_key_in_quotes_of_its_own_is_refused_and_not_taken_apart(minimal, text):
    assert f"machine.run_dir: {text} stands in quotes" in complaint(minimal, f"machine.run_dir={text}")


@pytest.mark.parametrize("text", ["$HOME/x", "a$USER", "${HOME}/x", "${recipe.seed}", "$NO_SUCH_VARIABLE/x"])
@pytest.mark.parametrize("key", ["machine.run_dir", "recipe.data.path"])
def test_a_variable_of_the_shell_is_refused_unless_a_folder_of_that_very_name_is_there(
    minimal, tmp_path, monkeypatch, key, text
):
    monkeypatch.chdir(tmp_path)
    given = ["recipe.data.source=folder", "recipe.data.path=x", f"{key}={text}"]
    assert f"{key}: '{text}': $" in complaint(minimal, *given)
    Path(text).mkdir(parents=True)
    loaded = load_config(minimal, given)
    assert text in (loaded.machine.run_dir, loaded.recipe.data.path)
    (tmp_path / "again.yaml").write_text(to_yaml(loaded), encoding="utf-8")
    assert load_config("again.yaml") == loaded


def test_a_variable_of_the_shell_in_a_file_is_refused_and_its_cure_works(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    path = tmp_path / "c.yaml"
    path.write_text(f"{MINIMAL}machine: {{run_dir: $HOME/runs}}")
    assert "${oc.env:HOME}" in complaint(str(path))
    path.write_text(f"{MINIMAL}machine: {{run_dir: '${{oc.env:HOME}}/runs'}}")
    assert load_config(str(path)).machine.run_dir == "/home/ada/runs"


@pytest.mark.parametrize("key", ["machine", "health", "recipe.method", "recipe.views", "recipe.views.global"])
def test_a_part_whose_keys_are_all_commented_out_has_its_defaults(tmp_path, key):
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(key.split("."))]
    path = tmp_path / "c.yaml"
    if key.startswith("recipe"):
        lines.insert(1, "  data: {source: digits}")
    else:
        lines.insert(0, "recipe: {data: {source: digits}}")
    path.write_text("\n".join([*lines, "    # size: 32", ""]))
    assert load_config(str(path)).machine.device == "auto"


def bomb(first: str, other: str) -> str:
    lines = [f"a0: &a0 {first}", *(f"a{n}: &a{n} {other.format(','.join([f'*a{n - 1}'] * 10))}" for n in range(1, 9))]
    return "\n".join(lines) + "\nrecipe: {seed: 1}\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb("[x]", "[{}]"), "aliases make more than"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "aliases make more than"),
        ("recipe: &a {data: *a}\n", "aliases make more than"),
        ("recipe: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("#" * 2_000_000, "longer than"),
        (f"recipe: {{seed: {'9' * 5000}}}\n", "a value cannot be read"),
        ("recipe: {seed: !!bool x}\n", "a value cannot be read"),
    ],
    ids=["lists", "merged mappings", "a mapping inside itself", "depth", "length", "digits", "tag"],
)
def test_a_file_that_would_grow_without_end_is_refused_before_it_does(minimal, tmp_path, text, reason):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    assert reason in complaint(str(path))
    if len(text) < 1000 and text.startswith("recipe: &a"):
        assert reason in complaint(minimal, f"recipe={text.removeprefix('recipe: ').strip()}")


def test_an_override_goes_before_the_file_and_the_last_one_before_others(minimal):
    loaded = load_config(minimal, ["recipe.warmup_epochs=3", "recipe.warmup_epochs=5"])
    assert loaded.recipe.warmup_epochs == 5
    assert loaded.recipe.data.source == "digits"


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_config(str(path)).recipe.data.source == "digits"


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("recip.epochs=3", "recipe"),
        ("machin.device=cpu", "machine"),
        ("epochs=3", "recipe.epochs"),
        ("device=cpu", "machine.device"),
        ("recipe.epoch=3", "epochs"),
        ("recipe.dat.source=digits", "data"),
        ("recipe.data.sorce=digits", "source"),
        ("recipe.views.colour_strength=1", "color_strength"),
        ("recipe.optimizer.learning_rate=1", "base_learning_rate"),
        ("machine.save_every_step=3", "save_every_steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(minimal, override, nearest):
    message = complaint(minimal, override)
    refused = message.partition("unknown key '")[2].partition("'")[0]
    assert override.startswith(refused)
    assert refused
    assert f"did you mean '{nearest}'?" in message


@pytest.mark.parametrize(
    ("override", "known"),
    [
        ("zzz=1", Config()),
        ("recipe.zzz=1", Config().recipe),
        ("recipe.method.zzz=1", Config().recipe.method),
        ("recipe.method.projection.zzz=1", Config().recipe.method.projection),
        ("recipe.views.zzz=1", ViewGroup()),
        ("recipe.views.global.zzz=1", ViewGroup()),
    ],
)
def test_an_unknown_key_like_no_other_is_refused_with_all_that_are_known_there(minimal, override, known):
    message = complaint(minimal, override)
    assert override.partition("=")[0] in message
    assert all(entry.name in message for entry in fields(known))


@pytest.mark.parametrize("key", ["1", "true", "1.5", "2024-01-01", "'a b'"])
def test_a_key_that_is_no_word_is_refused(tmp_path, key):
    path = tmp_path / "odd.yaml"
    path.write_text(f"recipe: {{data: {{source: digits}}, {key}: 3}}\n")
    assert "unknown key 'recipe." in complaint(str(path))


@pytest.mark.parametrize(
    ("override", "key", "cure"),
    [
        ("recipe.epochs=many", "recipe.epochs", "'many' is not a whole number"),
        ("recipe.epochs=2.5", "recipe.epochs", "2.5 is not a whole number"),
        ("recipe.epochs=true", "recipe.epochs", "True is not a whole number"),
        ("recipe.epochs=[1,2]", "recipe.epochs", "[1, 2] is not a whole number"),
        ("recipe.epochs={a: 1}", "recipe.epochs", "is not a whole number"),
        ("recipe.epochs.x=3", "recipe.epochs", "is not a whole number"),
        ("recipe.epochs=.nan", "recipe.epochs", "nan is not a whole number"),
        ("recipe.method.temperature=hot", "recipe.method.temperature", "'hot' is not a finite number"),
        ("recipe.method.temperature=true", "recipe.method.temperature", "True is not a finite number"),
        ("machine.compile=maybe", "machine.compile", "true or false"),
        ("machine.compile=[1]", "machine.compile", "true or false"),
        ("machine.run_dir.a=1", "machine.run_dir", "text"),
        ("machine={run_dir: [1]}", "machine.run_dir", "text"),
        ("recipe.data={path: {a: 1}}", "recipe.data.path", "text"),
        ("recipe.encoder={name: null}", "recipe.encoder.name", "resnet50"),
        ("recipe.data.mean=3", "recipe.data.mean", "three numbers"),
        ("recipe.data.mean={a: 1}", "recipe.data.mean", "three numbers"),
        ("recipe.data.mean.x=3", "recipe.data.mean", "three numbers"),
        ("recipe.data.mean=[a,b,c]", "recipe.data.mean", "is not a list of three numbers"),
        ("recipe.data.std=[1,1,true]", "recipe.data.std", "is not a list of three numbers"),
        ("recipe.data=3", "recipe.data", "expected keys below it"),
        ("recipe=[1]", "recipe", "keys"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_expected(minimal, override, key, cure):
    message = complaint(minimal, override)
    assert key in message
    assert cure in message


@pytest.mark.parametrize(
    ("override", "cure"),
    [
        ("health.contrastive_top1.bands={5: [3, 2]}", "at 5 % the lowest, 3, is above the highest, 2; swap them"),
        ("health.contrastive_top1.bands={0: [1, 2]}", "0 is not a percentage of the run; above 0, at most 100"),
        ("health.contrastive_top1.bands={101: [1, 2]}", "101 is not a percentage of the run"),
        ("health.contrastive_top1.bands={early: [1, 2]}", "'early' is not a percentage of the run"),
        ("health.contrastive_top1.bands={5: [1, 200]}", "an accuracy is 0 to 100 %"),
        ("health.contrastive_top1.bands={5: 3}", "at 5 % stands 3, which is not [lowest, highest]"),
        ("health.contrastive_top1.bands=[1, 2]", "[1, 2] is not percents of the run with bands"),
        ("health.contrastive_top1.unpublished=[5, true]", "True is not a percentage of the run"),
        ("health.contrastive_top1.unpublished=5", "5 is not a list of percents"),
        ("health.contrastive_top2.bands={5: [1, 2]}", "did you mean 'contrastive_top1'?"),
        ("health.contrastive_top1.band={5: [1, 2]}", "did you mean 'bands'?"),
    ],
)
def test_a_band_that_makes_no_sense_is_refused_with_what_is_expected(minimal, override, cure):
    message = complaint(minimal, override)
    assert "health.contrastive_top" in message
    assert cure in message


def test_a_band_on_the_command_line_replaces_that_of_the_file(minimal):
    given = [
        "health.online_knn_top1={source: x, bands: {10: [1, 2], 5: [3, 4]}}",
        "health.online_knn_top1.bands.5=[5,6]",
    ]
    assert list(load_config(minimal, given).health["online_knn_top1"].bands.items()) == [(5, [5, 6]), (10, [1, 2])]


@pytest.mark.parametrize("written", ["null", "~", ""])
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("recipe.epochs", "whole number"),
        ("recipe.method.temperature", "number"),
        ("machine.compile", "true or false"),
        ("recipe.data.mean", "three numbers"),
        ("recipe.data", "keys below it"),
        ("recipe", "keys below it"),
        ("machine", "keys below it"),
    ],
)
def test_a_key_without_a_value_is_refused_with_what_is_expected(minimal, key, expected, written):
    message = complaint(minimal, f"{key}={written}")
    assert f"{key}:" in message
    assert expected in message


@pytest.mark.parametrize("written", ["[null,1,1]", "[1,1,null]"])
def test_a_list_with_a_hole_is_refused(minimal, written):
    message = complaint(minimal, f"recipe.data.std={written}")
    assert "recipe.data.std" in message
    assert "number" in message


@pytest.mark.parametrize("key", ["recipe.seed", "machine.run_dir", "recipe.data.mean", "recipe.encoder"])
def test_a_mandatory_value_that_was_left_open_is_refused(minimal, key):
    # OmegaConf writes '???' for a value that must be filled in; taking the default instead would go unnoticed.
    assert f"{key}:" in complaint(minimal, f"{key}=???")


@pytest.mark.parametrize("given", ["recipe.epochs=???", "recipe={epochs: '???'}", "recipe.data.mean=['???',1,1]"])
def test_a_value_left_open_on_the_command_line_is_refused_where_the_file_has_one_too(tmp_path, given):
    path = tmp_path / "c.yaml"
    path.write_text("recipe: {data: {source: digits, mean: [0, 0, 0]}, epochs: 3}\n")
    assert complaint(str(path), given) == f"{path}: {given.partition('=')[0]}: has no value (???); give it one"


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        ("010", "write 10 or 8"), ("007", "write 7"), ("-0_12", "write -12 or -10"), ("12:30", "in digits alone"),
        ("1:30.5", "in digits alone"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["recipe.seed", "recipe.method.temperature", "recipe.method.projection.layers"])
def test_a_number_that_yaml_reads_as_another_than_it_looks_like_is_refused(minimal, tmp_path, key, number, cure):
    message = complaint(minimal, f"{key}={number}")
    assert message.startswith(f"{key}: {number} is ")
    assert cure in message
    path, keys = tmp_path / "c.yaml", key.split(".")
    path.write_text(f"{': {'.join(keys)}: {number}{'}' * (len(keys) - 1)}\n")
    assert complaint(str(path)) == f"{path}: {message}"


def test_a_percent_that_yaml_reads_as_another_is_refused(minimal):
    assert "010 is octal" in complaint(minimal, "health.contrastive_top1.bands={010: [1, 2]}")


@pytest.mark.parametrize(("written", "value"), [("0", 0), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("+3", 3)])
def test_a_number_that_can_only_be_meant_so_is_taken(minimal, written, value):
    assert load_config(minimal, [f"recipe.seed={written}"]).recipe.seed == value


BELOW = [(key, limits["low"]) for key, limits in NUMBERS if limits.get("low") is not None]
NOT_ABOVE = [(key, limits["above"]) for key, limits in NUMBERS if limits.get("above") is not None]
HIGHEST = [(key, limits["high"]) for key, limits in NUMBERS if limits.get("high") is not None]


def test_every_number_has_a_lower_limit():
    assert sorted(key for key, _ in NUMBERS) == sorted(key for key, _ in BELOW + NOT_ABOVE)


@pytest.mark.parametrize(("key", "limit"), [(key, limit) for key, limit in BELOW + HIGHEST if "count" not in key])
def test_a_number_at_its_limit_is_taken(minimal, key, limit):
    assert leaf(load_config(minimal, [f"{key}={limit}"]), key) == limit


@pytest.mark.parametrize(("key", "limit"), BELOW)
def test_a_number_below_its_limit_is_refused_with_the_limit(minimal, key, limit):
    below = limit - (2 if key == "recipe.warmup_epochs" else 1)  # there -1 has a meaning of its own
    message = complaint(minimal, f"{key}={below}")
    assert f"{key}: {below}" in message
    assert f"at least {limit:g}" in message


@pytest.mark.parametrize(("key", "limit"), NOT_ABOVE)
def test_a_number_that_must_be_above_a_limit_is_refused_at_it(minimal, key, limit):
    message = complaint(minimal, f"{key}={limit}")
    assert f"{key}: {limit}" in message
    assert f"above {limit:g}" in message


@pytest.mark.parametrize(("key", "limit"), HIGHEST)
def test_a_number_above_its_limit_is_refused_with_the_exact_limit(minimal, key, limit):
    beyond = limit + 1
    message = complaint(minimal, f"{key}={beyond}")
    assert f"{key}: {beyond}" in message
    assert f"at most {limit}".removesuffix(".0") in message


# Those without an upper limit: they are compared with what is there, and no library gets them.
COMPARED = {
    "recipe.batch_norm_group_images", "recipe.data.window_shards", "recipe.data.labelled_images",
    "recipe.initial.steps_done", "recipe.encoder.output_stride", "recipe.anomalies.window_steps",
    "recipe.anomalies.max_skipped_steps", "recipe.anomalies.max_returns", "recipe.anomalies.rollback_every_steps",
    "machine.images_per_chunk", "machine.save_every_steps", "machine.keep_checkpoints", "machine.keep_every_steps",
    "machine.stop_after_failed_saves", "machine.stop_after_steps", "machine.compare_every_steps",
    "machine.evaluate_every_epochs", "recipe.method.frozen_steps", "recipe.method.queue_from_epoch",
    "recipe.method.teacher_temperature_warmup_epochs", "recipe.method.permutations",
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_number_that_a_library_gets_has_an_upper_limit(method):
    found = [(key, entry) for key, value, entry in fields_of(everything(method)) if type(value) is int]
    assert {key for key, entry in found if entry.metadata.get("high") is None} <= COMPARED


@pytest.mark.parametrize(
    "given",
    [
        "machine.threads_per_process=100000000000", "machine.collective_timeout_seconds=99999999999999999",
        "machine.batch_timeout_seconds=2147484", "machine.shards.wait_seconds=10000000000", "recipe.encoder.width=1e9",
        "recipe.data.image_size=1000000000", "recipe.views.size=1000000000", "recipe.optimizer.weight_decay=1e300",
        "recipe.method.projection.output_dim=1000000000000", "machine.loader_workers=1000000",
    ],
)  # fmt: skip
def test_a_number_that_would_overflow_a_library_is_refused_with_its_limit(minimal, given):
    assert "is too large; at most " in complaint(minimal, given)


BEYOND_FLOATS = "1" + "0" * 400


@pytest.mark.parametrize("written", [".nan", ".inf", "-.inf", pytest.param(BEYOND_FLOATS, id="beyond floats")])
@pytest.mark.parametrize("key", [key for key, value, _ in LEAVES if isinstance(value, float)])
def test_a_number_that_is_not_finite_is_refused(minimal, key, written):
    assert f"{key}:" in complaint(minimal, f"{key}={written}")


@pytest.mark.parametrize("key", ["recipe.data.mean", "recipe.data.std"])
@pytest.mark.parametrize("written", ["[.nan,1,1]", "[1,.nan,1]", "[1,1,.inf]", f"[1,{BEYOND_FLOATS},1]"])
def test_a_list_with_a_number_that_is_not_finite_is_refused(minimal, key, written):
    assert key in complaint(minimal, f"{key}={written}")


@pytest.mark.parametrize(("key", "entry"), [(key, entry) for key, _, entry in LEAVES if entry.metadata.get("choices")])
def test_a_value_that_is_not_a_choice_is_refused_with_all_choices_and_the_nearest(minimal, key, entry):
    choices = entry.metadata["choices"]
    message = complaint(minimal, f"{key}={choices[0]}x")
    assert f"{key}: '{choices[0]}x' is not one of {', '.join(choices)}" in message
    assert "did you mean '" in message


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["recipe.epochs=5", "recipe.warmup_epochs=5.5"], ["recipe.warmup_epochs", "5.5", "recipe.epochs", "lower"]),
        (
            ["recipe.global_batch_images=64", "recipe.batch_norm_group_images=48"],
            ["recipe.batch_norm_group_images", "48", "recipe.global_batch_images", "64", "divisor"],
        ),
        (
            ["recipe.global_batch_images=64", "recipe.batch_norm_group_images=128"],
            ["recipe.batch_norm_group_images", "128", "divisor"],
        ),
        (["recipe.views.crop_area_min=0.9", "recipe.views.crop_area_max=0.5"], ["crop_area_min", "crop_area_max"]),
        (
            ["recipe.optimizer.learning_rate_decay=steps", "recipe.optimizer.final_learning_rate_share=0.001"],
            ["final_learning_rate_share: is where a cosine ends", "leave one of the two out"],
        ),
        (["recipe.views.blur_sigma_min=3"], ["blur_sigma_min", "blur_sigma_max", "swap"]),
        (
            ["recipe.views.global.crop_of=other"],
            ["recipe.views.global.crop_of", "'other'", "it is the first", "leave the key out"],
        ),
        (["recipe.encoder.stem=small", "recipe.encoder.output_stride=16"], ["output_stride: 16", "8, 4, 2", "'small'"]),
        (["recipe.encoder.width=0.001"], ["recipe.encoder.width: 0.001", "without any; raise it"]),
        (
            ["recipe.method.name=split_brain", "recipe.encoder.width=0.01"],
            ["recipe.encoder.width: 0.01", "halves", "raise it"],
        ),
        (
            ["recipe.method.name=barlow_twins", "recipe.views.first.size=24"],
            ["recipe.views.second.size", "recipe.views.first.size, 24 px", "make them equal"],
        ),
        (
            ["recipe.views.hue=0.3", "recipe.views.color_strength=2"],
            ["recipe.views.global.hue", "color_strength", "lower"],
        ),
        (["recipe.data.mean=[0.5,0.5]"], ["recipe.data.mean", "three numbers"]),
        (["recipe.data.mean=[]"], ["recipe.data.mean", "three numbers"]),
        (["recipe.data.std=[1,1,1,1]"], ["recipe.data.std", "three numbers"]),
        (["recipe.data.std=[1,0,1]"], ["recipe.data.std", "above 0"]),
        (["recipe.data.std=[1,1,-1]"], ["recipe.data.std", "above 0"]),
        (["recipe.data.source=folder"], ["recipe.data.path", "'folder'", "recipe.data.path=FOLDER"]),
        (["recipe.data.path=x"], ["recipe.data.path", "'x'", "'digits'", "remove"]),
        # torch refuses a beta of 1, and would do so after the data set was opened.
        (["recipe.optimizer.name=adamw", "recipe.optimizer.momentum=1"], ["recipe.optimizer.momentum", "adamw"]),
        (["recipe.optimizer.name=lamb", "recipe.optimizer.momentum=1"], ["recipe.optimizer.momentum", "lamb"]),
        (["health.online_knn_top1.bands={5: [1, 2]}"], ["health.online_knn_top1.source", "who published"]),
        (
            [
                "health.online_knn_top1={source: x, bands: {5: [1, 2]}, unpublished: [5.0, 10]}",
            ],
            ["health.online_knn_top1.unpublished: 5 has a band", "remove"],
        ),
    ],
)
def test_an_impossible_combination_is_refused_with_its_keys_and_a_cure(minimal, overrides, named):
    message = complaint(minimal, *overrides)
    assert [word for word in named if word not in message] == []


@pytest.mark.parametrize("source", [source for source in SOURCES if source not in SOURCES_WITHOUT_PATH])
def test_a_source_that_reads_files_takes_a_path(minimal, source):
    loaded = load_config(minimal, [f"recipe.data.source={source}", "recipe.data.path=here"])
    assert (loaded.recipe.data.source, loaded.recipe.data.path) == (source, "here")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"recipe: [", "at line"),
        (b"recipe:\n  epochs: 3\n data: {}\n", "line 3"),
        (b"recipe:\n\tepochs: 3\n", "line 2"),
        (b"recipe: {epochs: 1}\nrecipe: {epochs: 2}\n", "duplicate key recipe at line 2"),
        (b"--- {}\n--- {}\n", "another document at line 2"),
        (b"recipe: !!python/object/apply:os.system [x]\n", "line 1"),
        (b"recipe: !unknown 3\n", "line 1"),
        (b"? [1, 2]\n: 3\n", "line 1"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "valid YAML"),
        (bytes(range(256)), "valid YAML"),
        (b"recipe: \x00", "valid YAML"),
        (MINIMAL.encode("utf-16"), "utf-8"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_the_place_or_the_reason(tmp_path, text, reason):
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    message = complaint(str(path))
    assert message.startswith(f"{path}: not valid YAML: ")
    assert reason in message


@pytest.mark.parametrize("text", ["[1, 2]", "- recipe", "3", "2.5", "true", "2024-01-01"])
def test_yaml_that_is_not_a_mapping_is_refused_with_the_two_keys_it_needs(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = complaint(str(path))
    assert message.startswith(f"{path}: ")
    assert "recipe" in message
    assert "machine" in message
    assert "permission" not in message


def test_an_empty_file_is_the_defaults_and_lacks_a_path(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert "recipe.data.path=FOLDER" in complaint(str(path))


@pytest.mark.parametrize("name", ["digits_dmo", "digit_demo", "digits_demo.yml", "configs/digits_demo.yaml"])
def test_a_name_close_to_a_shipped_recipe_is_refused_with_that_recipe(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = complaint(name)
    assert message.startswith(f"{name}: ")
    assert "did you mean 'digits_demo'?" in message


@pytest.mark.parametrize("name", ["nowhere.yaml", "a/b/c", "", "x\0y", "x" * 300])
def test_a_missing_file_is_refused_with_the_shipped_recipes(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = complaint(name)
    assert message.startswith(f"{name}: no such file")
    assert all(path.stem in message for path in shipped())


def test_a_folder_in_place_of_a_file_is_refused_as_one(tmp_path):
    assert complaint(str(tmp_path)) == f"{tmp_path}: is a folder; give the YAML file in it"


def test_a_folder_of_a_shipped_recipes_name_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits_demo").mkdir()
    assert load_config("digits_demo").recipe.data.source == "digits"


def test_a_config_comes_through_a_pipe_once(minimal):
    reader, writer = os.pipe()
    os.write(writer, Path(minimal).read_bytes())
    os.close(writer)
    try:
        loaded = load_config(f"/dev/fd/{reader}", ["machine.run_dir=runs/minimal"])
        again = complaint(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
    assert loaded == load_config(minimal)
    assert "a pipe can be read once: write the config into a file" in again


@pytest.mark.parametrize("override", ["recipe.epochs", "=3", "", "recipe.epochs:3", "--zzz"])
def test_an_override_without_an_equals_sign_or_key_is_refused_with_an_example(minimal, override):
    message = complaint(minimal, override)
    assert message.startswith(f"{override}: not an override")
    assert "recipe.epochs=100" in message


@pytest.mark.parametrize("override", ["recipe.encoder.name=resnet18", "recipe.method.name=byol", "recipe.epochs=3"])
def test_an_override_below_a_list_of_the_file_is_refused_with_its_key(tmp_path, override):
    path, key = tmp_path / "c.yaml", override.partition("=")[0]
    path.write_text("recipe: [1]\n")
    said = f"{override}: does not fit {path}, where '{key}' has keys below it, or a list stands there or above it"
    assert complaint(str(path), override).startswith(said)


def test_another_encoder_on_the_command_line_leaves_an_interpolation_of_nothing_behind(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("recipe: {data: {source: digits}, encoder: {name: '${nothing}', options: {drop_rate: 0.1}}}\n")
    encoder = load_config(str(path), ["recipe.encoder.name=resnet18"]).recipe.encoder
    assert (encoder.name, encoder.options) == ("resnet18", {})


@pytest.mark.parametrize("value", ["[1", "{a", "a: b: c", "${", "\x00", "'x"])
def test_an_override_whose_value_cannot_be_parsed_is_refused_as_such(minimal, value):
    assert complaint(minimal, f"recipe.epochs={value}").startswith(f"recipe.epochs={value}: cannot be read")


@pytest.mark.parametrize("value", ["${nowhere}", "${recipe.nowhere}", "${oc.nothing:X}"])
def test_an_interpolation_of_nothing_is_refused_with_its_key(minimal, value):
    assert "recipe.seed: " in complaint(minimal, f"recipe.seed={value}")


def test_an_interpolation_in_the_methods_name_is_refused_as_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("recipe: {data: {source: digits}, method: {name: '${oc.env:METHOD}'}}\n")
    message = complaint(str(path))
    assert "recipe.method.name: '${oc.env:METHOD}': nothing is filled in here" in message
    assert "imported" not in message


# ---------------------------------------------------------------------------------------------- schema and code


def test_the_schema_names_the_sources_that_can_be_opened():
    assert tuple(MASKED) == SOURCES_WITH_MASKS
    assert {*_OPENERS, *MASKED, "folder", "webdataset"} == set(SOURCES)
    assert set(SOURCES_WITHOUT_PATH) <= set(SOURCES)


def test_the_schema_names_the_encoders_that_can_be_built():
    assert tuple(DEPTHS) == ENCODERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_schema_is_built_and_named_after_it(name):
    optimizer = make_optimizer(nn.Linear(3, 2), Optimizer(name=name))
    assert type(optimizer).__name__.lower() == name
    assert sum(math.prod(p.shape) for group in optimizer.param_groups for p in group["params"]) == 8


def test_an_optimizer_outside_the_schema_is_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'adagrad'"):
        make_optimizer(nn.Linear(3, 2), Optimizer(name="adagrad"))


# ---------------------------------------------------------------------------------------- what follows from others


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.1), (5, 0.5), (100, 10.0), (800, 10.0)])
@pytest.mark.parametrize("given", ["", ", warmup_epochs: -1"])
def test_the_warm_up_is_a_tenth_of_the_epochs_and_at_most_ten_and_shown_as_a_number(tmp_path, epochs, warmup, given):
    file = tmp_path / "short.yaml"
    file.write_text(f"recipe: {{data: {{source: digits}}, epochs: {epochs}{given}}}\n")
    loaded = load_config(str(file))
    assert loaded.recipe.warmup_epochs == warmup
    assert yaml.safe_load(to_yaml(loaded))["recipe"]["warmup_epochs"] == warmup


def test_a_key_that_takes_the_warm_up_takes_its_number(tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text("recipe: {data: {source: digits}, epochs: 5, views: {blur_sigma_max: '${..warmup_epochs}'}}\n")
    assert load_config(str(file)).recipe.views["global"].blur_sigma_max == 0.5


def test_a_warm_up_that_is_given_stays_as_it_is_when_the_epochs_change():
    assert load_config("digits_demo", ["recipe.epochs=30"]).recipe.warmup_epochs == 6
    for path in shipped():
        own = yaml.safe_load(path.read_text())["recipe"]["warmup_epochs"]
        assert load_config(path.stem, ["recipe.epochs=50"]).recipe.warmup_epochs == own
    stored = to_dict(load_config("digits_demo").recipe) | {"epochs": 20, "warmup_epochs": 12.0}
    assert recipe_from_dict(stored).warmup_epochs == 12


def test_a_warm_up_below_zero_is_refused_with_the_rule(minimal):
    message = complaint(minimal, "recipe.warmup_epochs=-0.5")
    assert "at least 0, or -1 for a tenth of recipe.epochs" in message
