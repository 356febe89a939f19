"""recipe.encoder.options and frozen: keys that timm's models alone have."""

import pytest

from simclr_dist.config import load_config
from simclr_dist.config.explain import explain
from simclr_dist.config.loading import to_dict, to_yaml
from simclr_dist.errors import UserError
from simclr_dist.run.same_recipe import differences

OF_FILE = """
recipe:
  data: {source: digits, image_size: 32}
  encoder: {name: timm/resnet18, options: {layers: [1, 1, 1, 1]}}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OF_FILE)
    return str(path)


def test_options_stand_beside_those_of_the_file_and_the_config_is_read_back_as_it_is(file, tmp_path):
    config = load_config(file, ["recipe.encoder.options.drop_path_rate=0.1"])
    assert config.recipe.encoder.options == {"layers": [1, 1, 1, 1], "drop_path_rate": 0.1}
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(str(tmp_path / "again.yaml")).recipe == config.recipe


def test_another_encoder_on_the_command_line_leaves_out_the_files_options_and_keeps_its_own(file):
    words = ["recipe.encoder.options.drop_path_rate=0.1", "recipe.encoder.name=timm/convnext_atto"]
    assert load_config(file, words).recipe.encoder.options == {"drop_path_rate": 0.1}
    assert load_config(file, ["recipe.encoder.name=resnet18"]).recipe.encoder.options == {}


def test_a_run_with_other_options_is_another_recipe(file):
    stored = to_dict(load_config(file).recipe)
    other = load_config(file, ["recipe.encoder.options.drop_path_rate=0.1"]).recipe
    assert [each.partition(" ")[0] for each in differences(stored, other)] == ["recipe.encoder.options"]
    del stored["encoder"]["options"], stored["encoder"]["frozen"]  # of a version that had no such keys
    stored["encoder"]["name"] = "resnet18"
    assert differences(stored, load_config(file, ["recipe.encoder.name=resnet18"]).recipe) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("recipe.encoder.name=resnet18 recipe.encoder.options.drop_path_rate=0.1", "options: is for timm's models"),
        ("recipe.encoder.name=resnet18 recipe.encoder.frozen=patch_projection", "frozen: is for timm's models"),
        ("recipe.encoder.options={drop_path_rate: {a: 1}}", "options.drop_path_rate: .* is no number, text"),
        ("recipe.encoder.options=3", "options: 3 is not names with values"),
        ("recipe.encoder.name=convnext_atto", "no timm/NAME and no package.module:Name"),
        ("recipe.encoder.name=timm/", "no timm/NAME"),
        ("recipe.encoder.name=timm/vgg11 machine.recompute=all machine.compile=true", "machine.compile: is not for"),
    ],
)
def test_options_that_say_nothing_of_the_encoder_are_refused(file, override, line):
    with pytest.raises(UserError, match=line):
        load_config(file, override.replace(" recipe", "\nrecipe").replace(" machine", "\nmachine").split("\n"))


def test_explain_has_both_keys_with_their_text():
    text = explain()
    assert "recipe.encoder.options: {name: value} = {}" in text
    assert "recipe.encoder.frozen: str = 'none'  (one of none, patch_projection)" in text
