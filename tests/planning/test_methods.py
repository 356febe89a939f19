"""``simclr-dist methods`` and plan's rows: a class says what its method has, and a recipe stands for its number."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from simclr_dist.config import load_config
from simclr_dist.config.about import About
from simclr_dist.config.method_class import check_method_class
from simclr_dist.config.registry import METHODS, method_class
from simclr_dist.configs import shipped
from simclr_dist.errors import UserError
from simclr_dist.methods.base import Method
from simclr_dist.methods.build import build_method
from simclr_dist.planning.answer import Options, plan_recipes
from simclr_dist.planning.methods import described, fitted_to_digits, memory_table, needs, recipe_of, recipes, table
from simclr_dist.planning.traced_step import StepTrace
from tests.support.two_sizes import NAME

DOCS = [Path(__file__).parents[2] / "docs" / name for name in ("methods.md", "pretext.md")]
OF_LARGE_IMAGES = ("jigsaw",)
"""Methods whose patches of an image of CIFAR-10 would show nothing."""
OPTIONS = {
    "gpus": 2, "card": None, "gpu_memory": "80GB", "nodes": None, "bandwidth": "200Gb/s", "node_bandwidth": "200GB/s",
    "images": "1437", "rate": None, "core_rate": None, "cores": None, "suggest": False, "out": None,
}  # fmt: skip


def about(name: str) -> About:
    found = method_class(name).ABOUT
    assert isinstance(found, About)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_what_its_class_says_and_nothing_else(name):
    recipe = load_config("digits_demo", [f"recipe.method.name={name}", *fitted_to_digits(name)]).recipe
    recipe = replace(recipe, method=method_class(name).small(recipe.method, 16), global_batch_images=16)
    built = build_method(recipe, 20)
    second_encoder = any(not parameter.requires_grad for parameter in built.parameters())
    state = [key for key, _ in built.named_buffers(recurse=False)]
    keeps = about(name).keeps
    assert ("second encoder" in keeps) == second_encoder
    assert bool({"queue", "bank", "centre", "permutations", "prior"} & set(keeps)) == bool(state), state
    assert ("prototypes" in keeps) == hasattr(built, "prototypes")
    assert ("labels" in needs(name)) == ("labels" in method_class(name).needs)


@pytest.mark.parametrize("name", [name for name in METHODS if about(name).published])
def test_a_methods_recipe_names_its_number_and_its_paper_and_has_its_epochs(name):
    found = recipe_of(name)
    assert found, "no shipped recipe names the number in its heading"
    recipe, text = load_config(found).recipe, next(path for path in shipped() if path.stem == found).read_text()
    assert (recipe.method.name, recipe.data.source, recipe.encoder.name) == (name, "imagenet", "resnet50")
    assert about(name).arxiv in text
    number = about(name).published
    assert number
    assert number.epochs == recipe.epochs
    published = " ".join(text.partition("# Published")[2].partition("# Source")[0].replace("#", "").split())
    assert number.from_memory == ("from memory" in published.partition(";")[0])
    sources = {"imagenet"} if name in OF_LARGE_IMAGES else {"imagenet", "cifar10"}
    assert {load_config(each).recipe.data.source for each in recipes(name)} >= sources


@pytest.mark.parametrize("name", [name for name in METHODS if not about(name).published])
def test_a_recipe_of_a_method_without_a_number_on_imagenet_names_its_paper(name):
    for found in recipes(name):
        recipe, text = load_config(found).recipe, next(path for path in shipped() if path.stem == found).read_text()
        assert recipe.method.name == name
        assert recipe.encoder.name == "resnet50" or recipe.data.source.startswith("cifar")
        assert about(name).arxiv in text
    assert recipes(name)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_equation_is_the_one_of_the_document_which_has_a_paragraph_of_it(name):
    document = " ".join(" ".join(path.read_text(encoding="utf-8") for path in DOCS).split())
    assert f"**`{name}`**" in document
    assert " ".join(about(name).equation.split()) in document


def test_the_table_has_a_line_for_each_method_with_its_paper_and_its_recipe():
    lines = table().splitlines()
    for name in METHODS:
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert about(name).arxiv in line
        assert line.endswith(str(recipe_of(name)))
        assert not about(name).published or f"{about(name).published.top1:g} %" in line
    assert max(map(len, lines)) <= 120


def test_a_method_that_says_nothing_of_itself_is_described_by_its_class():
    text = described(NAME)
    assert text.startswith(f"{NAME}\n\n{method_class(NAME).__doc__}")
    assert "needs      5 views" in text
    assert "recipe.views.small.size=8" in text


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_gives_to_try_has_a_source_with_all_that_the_method_needs(name):
    words = shlex.split(described(name).rpartition("try it ")[2])
    assert words[:2] == ["simclr-dist", "pretrain"]
    config = load_config(words[2], words[3:])
    assert config.recipe.method.name == name
    digits = {"labels", "geometry"}  # each of the others has a source of its own
    has = {"digits": digits, "frames": {"time"}, "folder_with_masks": {"masks", "geometry"}, "folder": {"color"}}
    assert method_class(name).needs <= has[config.recipe.data.source]
    assert config.recipe.data.source == "digits" or config.recipe.data.path == "FOLDER"


def test_what_a_method_says_of_itself_must_be_an_about():
    class Own(Method):
        ABOUT = "the best one"

    with pytest.raises(UserError, match="ABOUT must be an About"):
        check_method_class("own", Own)


def test_the_memory_of_a_method_is_shown_beside_simclrs():
    trace = StepTrace(
        local_images=256, processes=1, peak_bytes=10**9, at_peak={}, pass_bytes=0, update_bytes=0, resting_bytes=10**8,
        kept_bytes=0, loss_bytes=0, held_bytes=0.0, flops=0, embed_flops=0, norm_bytes=0, collectives={}, payload={},
    )  # fmt: skip
    lines = memory_table({"simclr": trace, "other": replace(trace, peak_bytes=3 * trace.peak_bytes)}).splitlines()
    assert [line.split()[3] for line in lines[2:]] == ["1.00x", "3.00x"]


def test_several_recipes_have_a_row_each_on_the_same_gpus_and_one_that_cannot_be_says_why():
    own = {"demo": [], "odd": ["recipe.global_batch_images=127"]}
    configs = {name: load_config("digits_demo", overrides) for name, overrides in own.items()}
    lines = plan_recipes(configs, Options(**OPTIONS)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["recipe", "demo", "refused:"]
    assert lines[2].endswith("yes, as it is")
    assert "127" in lines[-1]


@pytest.mark.parametrize(
    ("options", "said"), [({"images": None}, "--images: "), ({"suggest": True}, "--suggest: is for one CONFIG")]
)
def test_what_is_said_of_several_recipes_needs_the_images_and_no_suggestion(options, said):
    with pytest.raises(UserError, match=said):
        plan_recipes({"a": load_config("digits_demo")}, Options(**OPTIONS | options))
