"""Keys that depend on the method: recipe.method, recipe.views, health; and where those of earlier versions are."""

import re
import sys
from dataclasses import asdict, replace
from types import ModuleType

import pytest
import yaml

from simclr_dist.config import Config, load_config, to_dict, to_yaml
from simclr_dist.config.explain import explain
from simclr_dist.config.loading import fields_of, recipe_from_dict
from simclr_dist.config.moved import MOVED, migrated
from simclr_dist.config.registry import METHODS, method_class, method_keys
from simclr_dist.errors import UserError
from simclr_dist.methods.base import Method, ViewGroup
from simclr_dist.run.same_recipe import differences, refuse_folder_of_other
from tests.support.earlier import as_stored_earlier
from tests.support.two_sizes import NAME

TWO = f"recipe.method.name={NAME}"
SHARED = ("recipe.views.hue=0.1", "recipe.views.blur_probability=0.0")


def complaint(config: str, *overrides: str) -> str:
    """The one line that a bad config gives, which begins with its file."""
    with pytest.raises(UserError) as caught:
        load_config(config, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{config}: ")
    return message.removeprefix(f"{config}: ")


# ---------------------------------------------------------------------------------------------- the method


def test_a_method_is_named_by_its_key_and_simclr_when_none_is(minimal):
    assert load_config(minimal).recipe.method == method_keys("simclr")
    assert load_config(minimal, ["recipe.method={name: simclr}"]) == load_config(minimal)
    assert type(load_config(minimal, [TWO]).recipe.method) is method_class(NAME).Config


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_table_has_keys_groups_and_one_headline(name):
    found = method_class(name)
    assert issubclass(found, Method)
    assert all(isinstance(group, ViewGroup) for group in found.views(method_keys(name)).values())
    roles = [metric.role for metric in found.METRICS.values()]
    assert roles.count("headline") <= 1
    assert roles.count("collapse") <= 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("simclrr", "'simclrr' is not one of simclr"),
        ("simclrr", "did you mean 'simclr'?"),
        ("", "'' is not one of"),
        (":", "':' is not one of"),
        ("x:", "'x:' is not one of"),
        ("3", "'3' is not one of"),
        ("null", "'null' is not one of"),
        ("[a]", "'[a]' is not one of"),
        ("nosuch.package:X", "No module named 'nosuch'; install it, or put its folder on PYTHONPATH"),
        ("tests.support.two_sizes:Nosuch", "tests.support.two_sizes has no 'Nosuch'"),
        ("tests.support.two_sizes:Head", "is no method: it must be a class made from"),
        ("os:path", "is no method"),
        ("tests.support.two_sizes:NAME", "is no method"),
    ],
)
def test_an_unknown_method_is_refused_with_the_nearest_or_the_cure(minimal, name, said):
    message = complaint(minimal, f"recipe.method.name={name}")
    assert message.startswith("recipe.method.name: ")
    assert said in message


@pytest.mark.parametrize(
    ("raised", "said"),
    [("raise AttributeError('inner')", "inner"), ("raise SystemExit(3)", "SystemExit: 3"), ("1 / 0", "division by")],
)
def test_a_module_whose_import_fails_is_named_with_its_error(minimal, tmp_path, monkeypatch, raised, said):
    (tmp_path / "failing_module.py").write_text(raised)
    monkeypatch.syspath_prepend(tmp_path)
    message = complaint(minimal, "recipe.method.name=failing_module:X")
    assert message.startswith("recipe.method.name: importing failing_module fails: ")
    assert said in message


METHOD = """
from __future__ import annotations
from dataclasses import dataclass, field
from simclr_dist.methods.base import Method, MethodKeys, ViewGroup

class Own(Method):
    {config}
    def embed(self, batch): ...
    @classmethod
    def views(cls, config): return {{"{group}": ViewGroup()}}
"""
KEYS = "@dataclass(kw_only=True)\n    class Config(MethodKeys):\n        "


@pytest.mark.parametrize(
    ("config", "group", "said"),
    [
        ("class Config(MethodKeys):\n        rate: float = 0.1", "a", "Config is no dataclass"),
        (
            f"{KEYS}rates: list[float] = field(default_factory=list)",
            "a",
            "Config.rates is list[float]; a key is int, float",
        ),
        (f"{KEYS}rate: float | None = None", "a", "Config.rate is float | None; a key is int, float"),
        (f"{KEYS}rate: float", "a", "Config.rate has no default"),
        (f"{KEYS}rate: Nosuch = 3", "a", "the types of Config are not known: name 'Nosuch' is not defined"),
        ("pass", "hue", "its group of views 'hue' is named like a key of views"),
    ],
    ids=["no dataclass", "a list", "an optional", "no default", "unknown type", "group like a key"],
)
def test_a_method_whose_keys_cannot_be_read_is_refused_and_says_which(
    minimal, tmp_path, monkeypatch, config, group, said
):
    name = re.sub(r"\W", "_", f"own_{said}")
    (tmp_path / f"{name}.py").write_text(METHOD.format(config=config, group=group))
    monkeypatch.syspath_prepend(tmp_path)
    message = complaint(minimal, f"recipe.method.name={name}:Own")
    assert message.startswith(f"recipe.method.name: '{name}:Own': ")
    assert said in message


def test_a_method_without_keys_of_its_own_has_its_name_alone(minimal, monkeypatch):
    module = ModuleType("bare_method")

    class Bare(Method):
        pass

    module.Bare = Bare
    monkeypatch.setitem(sys.modules, "bare_method", module)
    loaded = load_config(minimal, ["recipe.method.name=bare_method:Bare"])
    assert to_dict(loaded.recipe.method) == {"name": "bare_method:Bare"}
    assert list(loaded.recipe.views) == ["global"]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("recipe.method.crops=4", "crops", 4),
        ("recipe.method.scale=3", "scale", 3.0),
        ("recipe.method.scale=1e-3", "scale", 0.001),
        ("recipe.method.centred=false", "centred", False),
        ("recipe.method.label=some words", "label", "some words"),
        ("recipe.method.label='2026'", "label", "2026"),  # which keys are text is known to the method alone
        ("recipe.method.rule=sum", "rule", "sum"),
        ("recipe.method.head.width=3", "head.width", 3),
        ("recipe.method.head={norm: true}", "head.norm", True),
        ("recipe.method.crops=${recipe.epochs}", "crops", 100),
        ("recipe.method.scale=${recipe.epochs}", "scale", 100.0),
        ("recipe.method.scale=${recipe.method.crops}", "scale", 3.0),
        ("recipe.method.label=${recipe.data.source}", "label", "digits"),
        ("recipe.method.head.width=${recipe.method.crops}", "head.width", 3),
    ],
)
def test_a_methods_key_is_read_as_it_is_typed(minimal, override, key, value):
    method = load_config(minimal, [TWO, override]).recipe.method
    read = {name: value for name, value, _ in fields_of(method)}[key]
    assert (read, type(read)) == (value, type(value))
    assert method.name == NAME


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("recipe.method.crops=many", "recipe.method.crops: 'many' is not a whole number"),
        ("recipe.method.crops=2.5", "recipe.method.crops: 2.5 is not a whole number"),
        ("recipe.method.crops=0", "recipe.method.crops: 0 is too small; at least 1"),
        ("recipe.method.crops=null", "recipe.method.crops: None is not a whole number"),
        ("recipe.method.crops=???", "recipe.method.crops: has no value"),
        ("recipe.method.scale=0", "recipe.method.scale: 0.0 must be above 0"),
        ("recipe.method.scale=.nan", "recipe.method.scale: nan is not a finite number"),
        ("recipe.method.centred=maybe", "recipe.method.centred: 'maybe' is not true or false"),
        ("recipe.method.label=[1]", "recipe.method.label: [1] is not text"),
        ("recipe.method.rule=men", "recipe.method.rule: 'men' is not one of mean, sum (did you mean 'mean'?)"),
        ("recipe.method.head=3", "recipe.method.head: expected keys below it, got 3"),
        ("recipe.method.head=null", "recipe.method.head: expected keys below it, got None"),
        ("recipe.method.head.width=wide", "recipe.method.head.width: 'wide' is not a whole number"),
        ("recipe.method.crops=${recipe.data.source}", "recipe.method.crops: 'digits' is not a whole number"),
        ("recipe.method.crops=${recipe.method.nosuch}", "recipe.method.crops: "),
        ("recipe.method.crop=3", "unknown key 'recipe.method.crop' (did you mean 'crops'?)"),
        ("recipe.method.head.widht=3", "unknown key 'recipe.method.head.widht' (did you mean 'width'?)"),
        ("recipe.method.norm=true", "unknown key 'recipe.method.norm' (did you mean 'recipe.method.head.norm'?)"),
        ("recipe.method.epochs=3", "unknown key 'recipe.method.epochs' (did you mean 'recipe.epochs'?)"),
        # SimCLR's, and not this method's.
        ("recipe.method.loss_scale=2", "unknown key 'recipe.method.loss_scale'"),
        ("recipe.method=null", "recipe.method: expected keys below it, got None"),
    ],
)
def test_a_methods_key_that_does_not_fit_is_refused_with_what_does(minimal, override, said):
    assert complaint(minimal, TWO, override).startswith(said)


def test_an_unknown_key_is_like_one_of_the_recipes_own_method(minimal):
    assert "did you mean 'temperature'?" in complaint(minimal, "recipe.method.temperatur=1")
    assert "temperature" not in complaint(minimal, TWO, "recipe.method.temperatur=1")


def test_defaults_are_nobodys_to_change(minimal):
    load_config(minimal, [TWO]).recipe.method.head.width = 99
    load_config(minimal, [TWO]).recipe.views["small"].hue = 0.5
    again = load_config(minimal, [TWO]).recipe
    assert (again.method.head.width, again.views["small"].hue) == (8, 0.2)


def test_another_key_may_take_a_methods_value(minimal):
    given = ["recipe.method.temperature=0.25", "recipe.warmup_epochs=${recipe.method.temperature}"]
    assert load_config(minimal, given).recipe.warmup_epochs == 0.25
    assert load_config(minimal, ["recipe.warmup_epochs=${recipe.method.temperature}"]).recipe.warmup_epochs == 0.1


# ---------------------------------------------------------------------------------------------- views


def test_a_key_directly_under_views_is_every_groups_and_a_groups_own_goes_before_it(minimal):
    views = load_config(minimal, [TWO, *SHARED, "recipe.views.small.hue=0.3"]).recipe.views
    assert list(views) == ["large", "small"]
    assert [group.hue for group in views.values()] == [0.1, 0.3]
    assert [group.blur_probability for group in views.values()] == [0.0, 0.0]
    # What is not given is the method's, group by group.
    assert [(group.count, group.size, group.crop_area_max) for group in views.values()] == [(2, 0, 1.0), (3, 8, 0.4)]


@pytest.mark.parametrize("given", ["recipe.views.hue=0.1", "recipe.views.global.hue=0.1"])
def test_with_one_group_its_key_may_stand_in_either_place(minimal, given):
    assert load_config(minimal, [given]).recipe.views == {"global": ViewGroup(hue=0.1)}


def test_a_group_may_be_another_ones_keys(minimal):
    given = ["recipe.views.small={hue: 0.3, count: 3}", "recipe.views.large.hue=${recipe.views.small.hue}"]
    assert load_config(minimal, [TWO, *given]).recipe.views["large"].hue == 0.3


def test_the_groups_may_depend_on_the_methods_keys(minimal):
    for given in ("recipe.method.crops=5", "recipe.method.crops=${recipe.views.small.count}"):
        views = load_config(minimal, [TWO, given, "recipe.views.small.count=5"]).recipe.views
        assert views["small"].count == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("recipe.views.tiny.hue=0.1", f"recipe.views.tiny: {NAME} has no group of views of that name"),
        ("recipe.views.tiny.hue=0.1", "its groups: large, small"),
        ("recipe.views.smal.hue=0.1", "(did you mean 'small'?)"),
        ("recipe.views.global.hue=0.1", "its groups: large, small"),
        ("recipe.views.smal=5", "unknown key 'recipe.views.smal' (did you mean 'small'?)"),
        ("recipe.views.hu=0.1", "unknown key 'recipe.views.hu' (did you mean 'hue'?)"),
        ("recipe.views.small.hu=0.1", "unknown key 'recipe.views.small.hu' (did you mean 'hue'?)"),
        ("recipe.views.small.large.hue=0.1", "unknown key 'recipe.views.small.large'"),
        ("recipe.views.small=5", "recipe.views.small: expected keys below it, got 5"),
        ("recipe.views=null", "recipe.views: expected keys below it, got None"),
        ("recipe.views=[1]", "recipe.views: expected keys below it, got [1]"),
        ("recipe.views.hue=0.6", "recipe.views.hue: 0.6 is too large; at most 0.5"),
        ("recipe.views.hue={a: 1}", "recipe.views.hue: {'a': 1} is not a finite number"),
        ("recipe.views.hue=???", "recipe.views.hue: has no value"),
        ("recipe.views.small.hue=0.6", "recipe.views.small.hue: 0.6 is too large; at most 0.5"),
        ("recipe.views.small.hue=${recipe.epochs}", "recipe.views.small.hue: 100.0 is too large"),
        ("recipe.views.color_form=exct", "recipe.views.color_form: 'exct' is not one of exact, affine"),
        ("recipe.views.interpolation=cubic", "recipe.views.interpolation: 'cubic' is not one of bilinear, bicubic"),
        ("recipe.views.small.interpolation=3", "recipe.views.small.interpolation: "),
        ("recipe.views.small.size=7", "recipe.views.small.size: 7 pixels are too few; at least 8"),
        ("recipe.views.small.crop_area_min=0.5", "recipe.views.small.crop_area_min: must not exceed"),
        ("recipe.views.large.count=3", "recipe.views.large.count: "),
        ("recipe.views.large.count=3", "takes 2 views of an image, not 3; leave the key out"),
        ("recipe.views.small.count=2", "takes 3 views of an image, not 2; leave the key out"),
        ("recipe.views.count=2", "recipe.views.small.count: "),
        ("recipe.method.crops=255", "recipe.views: 257 views of an image in all groups; at most 256"),
    ],
)
def test_views_that_the_method_does_not_have_are_refused(minimal, override, said):
    assert said in complaint(minimal, TWO, override)


# ---------------------------------------------------------------------------------------------- health


def test_a_band_on_a_metric_of_the_method_or_of_an_online_evaluation_is_taken(minimal):
    bands = "={source: x, bands: {5: [1, 2]}}"
    health = load_config(minimal, [TWO, f"health.spread{bands}", f"health.online_knn_top1{bands}"]).health
    assert {name: each.bands for name, each in health.items()} == {
        "spread": {5: [1, 2]},
        "online_knn_top1": {5: [1, 2]},
    }


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([TWO, "health.contrastive_top1.source=x"], "unknown key 'health.contrastive_top1'"),
        ([TWO, "health.zzz.source=x"], "known here: spread, online_knn_top1, online_linear_top1"),
        ([TWO, "health.spred.source=x"], "unknown key 'health.spred' (did you mean 'spread'?)"),
        (["health.contrastive_top2.source=x"], "(did you mean 'contrastive_top1'?)"),
        (["health.spread.source=x"], "unknown key 'health.spread'"),
        (["health.embedding_std.source=x"], "unknown key 'health.embedding_std'"),  # it has no bands
        (["health=3"], "health: expected keys below it, got 3"),
        (["health.contrastive_top1=3"], "health.contrastive_top1: expected keys below it, got 3"),
        (["health.contrastive_top1.sorce=x"], "(did you mean 'source'?)"),
    ],
)
def test_a_band_on_a_metric_that_the_method_lacks_is_refused(minimal, overrides, said):
    assert said in complaint(minimal, *overrides)


# ---------------------------------------------------------------------------------------------- explain


@pytest.mark.parametrize("name", [*METHODS, NAME])
def test_explain_shows_the_keys_groups_and_metrics_of_a_method_and_of_no_other(name):
    found = method_class(name)
    heads = [line.partition(":")[0] for line in explain(name).splitlines() if not line.startswith(" ")]
    assert len(set(heads)) == len(heads)
    keys = [key for key, _, _ in fields_of(method_keys(name))]
    assert [head for head in heads if head.startswith("recipe.method.")] == [f"recipe.method.{key}" for key in keys]
    groups = list(dict.fromkeys(head.split(".")[2] for head in heads if head.startswith("recipe.views.")))
    assert groups == list(found.views(method_keys(name)))
    metrics = [metric for metric, each in found.METRICS.items() if each.band]
    expected = [*metrics, "online_knn_top1", "online_linear_top1"]
    assert [head for head in heads if head.endswith(".bands")] == [f"health.{metric}.bands" for metric in expected]


def test_explain_has_the_methods_own_texts_and_defaults():
    lines = explain(NAME).splitlines()
    at = lines.index("recipe.method.head.width: int = 8  (at least 1)")
    assert lines[at + 1] == "    Features of the head."
    assert "recipe.method.rule: str = 'mean'  (one of mean, sum)" in lines
    assert "recipe.views.small.size: int = 8  (at least 0, at most 16384)" in lines


def test_a_key_without_a_text_is_explained_by_its_name(monkeypatch):
    made: dict = {"__name__": "nowhere"}
    exec(  # a class whose source stands in no file
        "from dataclasses import dataclass\nfrom simclr_dist.methods.base import Method, MethodKeys\n"
        "class Typed(Method):\n    @dataclass(kw_only=True)\n    class Config(MethodKeys):\n        rate: int = 3\n",
        made,
    )
    module = ModuleType("nowhere")
    module.__dict__.update(made)
    monkeypatch.setitem(sys.modules, "nowhere", module)
    lines = explain("nowhere:Typed").splitlines()
    assert lines[lines.index("recipe.method.rate: int = 3") + 1] == "    rate"


def test_explain_of_an_unknown_method_is_refused_in_one_line(run):
    status, out, err = run("config", "--explain", "simclrr")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "'simclr'" in err
    assert run("config", "--explain", "simclr") == run("config", "--explain")


# ---------------------------------------------------------------------------------------------- and back


RESOLVED = [[], SHARED, [TWO], [TWO, *SHARED, "recipe.views.small.hue=0.3", "recipe.method.head.width=3"]]


@pytest.mark.parametrize("overrides", RESOLVED, ids=["simclr", "shared", "two sizes", "two sizes, changed"])
def test_a_resolved_config_loads_back_from_yaml_and_from_a_checkpoint(minimal, tmp_path, overrides):
    config = load_config(minimal, overrides)
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(config))
    again = load_config(str(path))
    assert again == config
    assert type(again.recipe.method) is type(config.recipe.method)
    stored = to_dict(config.recipe)
    assert recipe_from_dict(stored) == config.recipe
    assert differences(stored, config.recipe) == []


def test_a_stored_recipe_that_no_version_wrote_is_refused_as_such():
    with pytest.raises(UserError, match=r"^the stored recipe: unknown key 'recipe\.method\.zzz'"):
        recipe_from_dict({"method": {"zzz": 1}})
    with pytest.raises(UserError, match=r"^the stored recipe: unknown key 'recipe\.zzz'"):
        recipe_from_dict({"zzz": 1})
    with pytest.raises(UserError, match=r"^the stored recipe: recipe\.epochs: 0 is too small"):
        recipe_from_dict({"epochs": 0})


# ---------------------------------------------------------------------------------------------- resuming


def test_what_differs_from_a_stored_recipe_is_said_key_by_key(minimal):
    stored = to_dict(load_config(minimal, [TWO]).recipe)
    other = load_config(minimal, [TWO, "recipe.views.hue=0.1", "recipe.method.head.width=3"]).recipe
    assert differences(stored, other) == [
        "recipe.method.head.width is 8 there and 3 here",
        "recipe.views.large.hue is 0.2 there and 0.1 here",
        "recipe.views.small.hue is 0.2 there and 0.1 here",
    ]


def test_another_method_is_all_that_is_said(minimal):
    stored = to_dict(load_config(minimal).recipe)
    assert differences(stored, load_config(minimal, [TWO]).recipe) == [
        f"recipe.method.name is 'simclr' there and '{NAME}' here"
    ]


def test_a_key_that_the_stored_recipe_does_not_have_is_the_methods_default(minimal):
    stored = to_dict(load_config(minimal, [TWO]).recipe)
    del stored["method"]["scale"], stored["views"]["small"]["size"]
    assert differences(stored, load_config(minimal, [TWO]).recipe) == []
    other = load_config(minimal, [TWO, "recipe.method.scale=3", "recipe.views.small.size=9"]).recipe
    assert differences(stored, other) == [
        "recipe.method.scale is 2.0 there and 3.0 here",
        "recipe.views.small.size is 8 there and 9 here",
    ]


# ---------------------------------------------------------------------------------------------- earlier versions


EARLIER = """
recipe:
  data: {source: digits}
  method: simclr
  loss: {temperature: 0.5, scale: 2.0}
  projection: {layers: 3, hidden_dim: 64, output_dim: 16, batch_norm: false}
  views: {hue: 0.1}
  anomalies: {anchor_every_steps: 5, collapse_embedding_std: 0.2}
"""


def test_a_config_of_an_earlier_version_is_refused_with_the_new_place_of_every_key(tmp_path):
    path = tmp_path / "earlier.yaml"
    path.write_text(EARLIER)
    message = complaint(str(path))
    assert message.startswith("written for an earlier version: recipe.method is now recipe.method.name, ")
    for old, new in MOVED.items():
        assert f"recipe.{old} is now recipe.{new}" in message


@pytest.mark.parametrize("old", MOVED)
def test_one_key_of_an_earlier_version_is_enough_and_its_new_place_is_a_key(minimal, old):
    assert complaint(minimal, f"recipe.{old}=1").endswith(f"recipe.{old} is now recipe.{MOVED[old]}")
    assert MOVED[old] in [key for key, _, _ in fields_of(Config().recipe)]


def test_a_stored_recipe_of_an_earlier_version_is_the_recipe_of_today(minimal):
    given = [
        "recipe.method.temperature=0.5", "recipe.method.loss_scale=2.0", "recipe.method.projection.output_dim=16",
        "recipe.views.hue=0.1", "recipe.anomalies.rollback_every_steps=5", "recipe.anomalies.collapse_below=0.2",
    ]  # fmt: skip
    recipe = load_config(minimal, given).recipe
    stored = as_stored_earlier(to_dict(recipe))
    before = asdict(recipe)
    assert not {"loss", "projection"} & set(migrated(stored))
    assert recipe_from_dict(stored) == recipe
    assert differences(stored, recipe) == []
    assert asdict(recipe) == before
    assert stored == as_stored_earlier(to_dict(recipe))  # migrating changes no dict of the caller's


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("recipe.method.temperature=0.3", "recipe.method.temperature is 0.1 there and 0.3 here"),
        ("recipe.method.projection.layers=3", "recipe.method.projection.layers is 2 there and 3 here"),
        ("recipe.views.hue=0.1", "recipe.views.global.hue is 0.2 there and 0.1 here"),
        ("recipe.views.size=32", "recipe.views.global.size is 0 there and 32 here"),
        ("recipe.anomalies.collapse_below=0.3", "recipe.anomalies.collapse_below is 0.1 there and 0.3 here"),
        (TWO, f"recipe.method.name is 'simclr' there and '{NAME}' here"),
    ],
)
def test_what_differs_from_a_recipe_of_an_earlier_version_has_its_name_of_today(minimal, override, said):
    stored = as_stored_earlier(to_dict(load_config(minimal).recipe))
    assert differences(stored, load_config(minimal, [override]).recipe) == [said]


def test_a_stored_recipe_from_before_bicubic_crops_has_bilinear_ones_whatever_its_method_has_today(minimal):
    bilinear = load_config(minimal, ["recipe.method.name=byol", "recipe.views.interpolation=bilinear"]).recipe
    stored = to_dict(bilinear)
    for group in stored["views"].values():
        del group["interpolation"]
    assert recipe_from_dict(stored) == bilinear
    assert differences(stored, bilinear) == []
    today = load_config(minimal, ["recipe.method.name=byol"]).recipe
    said = "recipe.views.first.interpolation is 'bilinear' there and 'bicubic' here"
    assert said in differences(stored, today)


def test_a_recipe_of_today_is_migrated_to_itself(minimal):
    for overrides in RESOLVED:
        stored = to_dict(load_config(minimal, overrides).recipe)
        assert migrated(stored) == stored


def test_a_run_folder_of_an_earlier_version_is_one_of_todays_recipe(minimal, tmp_path):
    recipe = load_config(minimal).recipe
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_000000001.pt").write_bytes(b"not read here")
    stored = {"recipe": as_stored_earlier(to_dict(recipe))}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    refuse_folder_of_other(tmp_path, recipe)
    with pytest.raises(UserError, match=r"recipe\.seed is 0 there and 1 here"):
        refuse_folder_of_other(tmp_path, load_config(minimal, ["recipe.seed=1"]).recipe)


def test_another_method_on_the_command_line_leaves_out_the_files_keys_of_its_method_and_its_bands():
    loaded = load_config("digits_demo", ["recipe.method.name=moco", "recipe.method.queue_keys=512"])
    assert loaded.recipe.method == replace(method_keys("moco"), queue_keys=512)
    assert loaded.health == {}
    assert loaded.recipe.views["global"].crop_area_min == 0.3  # the file's views are of every method
    same = load_config("digits_demo", ["recipe.method.name=simclr"])
    assert same == load_config("digits_demo")
    assert load_config("digits_demo", ["recipe.method={name: moco, queue_keys: 512}"]) == loaded


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("moco", "recipe.method.queue_keys=512"),
        ("supcon", "recipe.method.temperature=0.3"),
        ("supcon", "health.online_knn_top1.bands.5=[1,2]"),
    ],
)
def test_a_key_on_the_command_line_counts_before_the_name_of_another_method_as_behind_it(name, key):
    named = f"recipe.method.name={name}"
    before = load_config("digits_demo", [key, "health.online_knn_top1.source=mine", named])
    assert before == load_config("digits_demo", [named, key, "health.online_knn_top1.source=mine"])
    assert before != load_config("digits_demo", [named, "health.online_knn_top1.source=mine"])


def test_the_last_method_that_the_command_line_names_says_whether_the_files_keys_stay():
    there_and_back = ["recipe.method.name=moco", "recipe.method.name=simclr"]
    assert load_config("digits_demo", there_and_back) == load_config("digits_demo")


def test_a_key_that_the_other_method_does_not_have_is_refused_before_its_name_too():
    with pytest.raises(UserError, match=r"unknown key 'recipe\.method\.projection'"):
        load_config("digits_demo", ["recipe.method.projection.layers=3", "recipe.method.name=supcon"])
