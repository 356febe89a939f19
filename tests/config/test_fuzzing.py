"""Whatever a checkpoint or a config holds, the answer is its contents or one clear complaint.

SIMCLR_DIST_FUZZ_EXAMPLES=10000 tries more than the suite has time for.
"""

import hashlib
import os
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simclr_dist.config import load_config, to_yaml
from simclr_dist.config.explain import everything
from simclr_dist.config.loading import fields_of, recipe_from_dict
from simclr_dist.config.recipe import Recipe
from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run.checksum import COMMENT_BYTES, MARK
from simclr_dist.run.same_recipe import differences
from tests.support.checkpoints import sealed, state
from tests.support.two_sizes import NAME

# Not from hypothesis's own folder of failures: a run of the suite leaves nothing behind.
often = settings(
    max_examples=int(os.environ.get("SIMCLR_DIST_FUZZ_EXAMPLES", "200")),
    deadline=None,
    database=None,
    derandomize="SIMCLR_DIST_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WHOLE = sealed({"format": 1, **state(2), "step": 2})


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` after some edits: bytes replaced, put in, left out, moved."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 64))
        put = draw(st.one_of(st.binary(max_size=64), st.just(content[length : 2 * length])))
        content = content[:at] + put + content[at + draw(st.sampled_from([len(put), length, 0])) :]
    return content


def outcome(path: Path) -> str:
    try:
        loaded = checkpoint.load(path)
    except checkpoint.DamagedCheckpointError as error:
        return "damaged" if str(error) else "unexplained"
    except UserError as error:
        return "newer" if "newer simclr_dist" in str(error) else "unexplained"
    return "loaded" if isinstance(loaded["step"], int) else "loaded, and no checkpoint"


@often
@given(content=st.one_of(st.binary(max_size=300), damaged(WHOLE)))
def test_a_file_that_is_not_what_was_written_is_damaged_and_nothing_else(tmp_path, content):
    path = tmp_path / "step_000000002.pt"
    path.write_bytes(content)
    assert outcome(path) == ("loaded" if content == WHOLE else "damaged")


@often
@given(body=damaged(WHOLE[:-COMMENT_BYTES]))
def test_a_file_whose_checksum_holds_is_read_or_refused_whatever_is_in_it(tmp_path, body):
    path = tmp_path / "step_000000002.pt"
    path.write_bytes(body + MARK + hashlib.sha256(body).hexdigest().encode())
    assert outcome(path) in ("loaded", "damaged", "newer")


PLAIN = b"""recipe:
  method: {name: simclr, temperature: 0.5, projection: {output_dim: 16}}
  views: {hue: 0.1, global: {blur_probability: 0.0}}
  epochs: 200
  data: {source: folder, path: /data/photos, mean: [0.5, 0.5, 0.5]}
  optimizer: {name: lars, classic_momentum: true}
machine: {precision: bfloat16}
health: {contrastive_top1: {bands: {10: [1, 2]}, source: a paper}}
"""
KEYS = [key for key, _, _ in fields_of(everything())]
# Where what may stand depends on the method, and words of what may.
BRANCHES = ["recipe.method", "recipe.method.name", "recipe.method.projection", "recipe.views", "recipe.views.global",
            "recipe.views.hue", "recipe.views.local", "recipe.loss", "health", "health.contrastive_top1"]  # fmt: skip
WORDS = ["name", "simclr", NAME, "temperature", "projection", "global", "large", "hue", "count", "size", "bands",
         "source", "contrastive_top1", "spread", 5, None, "", "???"]  # fmt: skip
NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)),
    max_leaves=8,
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.lists(st.floats(), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["${recipe.epochs}", "${oc.env:HOME}", "???", "${", "[", "{a: ", "1e999", ".nan", "0x1F", "~"]),
)  # fmt: skip
OVERRIDES = st.lists(
    st.one_of(
        st.builds(
            "{}={}".format,
            st.sampled_from([*KEYS, *BRANCHES, "recipe", "machine.run_dir.a", "a.b", "recipe.", ""]),
            VALUES,
        ),
        st.text(max_size=30),
    ),
    max_size=3,
)


@often
@given(text=st.one_of(st.text(max_size=80).map(lambda text: text.encode()), damaged(PLAIN)), overrides=OVERRIDES)
def test_a_config_of_any_text_is_loaded_or_refused_and_nothing_else(tmp_path, text, overrides):
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(text)
    assert_loaded_or_refused(path, overrides)


@often
@given(
    recipe=st.fixed_dictionaries({}, optional={"method": NESTED, "views": NESTED}),
    name=st.sampled_from(["simclr", NAME, None]),
    health=st.one_of(st.none(), NESTED),
    overrides=OVERRIDES,
)
def test_method_views_and_health_of_any_shape_are_loaded_or_refused_and_nothing_else(
    tmp_path, recipe, name, health, overrides
):
    if name and isinstance(recipe.get("method", {}), dict):
        recipe["method"] = recipe.get("method", {}) | {"name": name}
    whole = {"recipe": {"data": {"source": "digits"}} | recipe} | ({} if health is None else {"health": health})
    path = tmp_path / "fuzz.yaml"
    path.write_text(yaml.safe_dump(whole))
    assert_loaded_or_refused(path, overrides)


@often
@given(
    stored=st.dictionaries(
        st.sampled_from(["method", "views", "loss", "projection", "anomalies", "epochs"]), NESTED, max_size=3
    )
)
def test_a_stored_recipe_of_any_shape_is_a_recipe_or_refused_and_nothing_else(stored):
    differing, complaint = [], "the stored recipe: "
    try:
        differing = differences(stored, recipe_from_dict(stored))
    except UserError as error:
        complaint = str(error)
    assert differing == []
    assert complaint.startswith("the stored recipe: ")


@often
@given(stored=st.dictionaries(st.sampled_from(["method", "views", "loss", "anomalies", "epochs"]), NESTED, max_size=3))
def test_any_stored_recipe_is_compared_or_refused_and_nothing_else(stored):
    # What stands in a folder is compared before anything is judged.
    said = ["refused"]
    try:
        said = differences(stored, Recipe())
    except UserError as error:
        said = [str(error)]
    assert all(each.startswith("recipe.") for each in said)


def assert_loaded_or_refused(path: Path, overrides: list[str]) -> None:
    """A config that loads survives its way through YAML; one that does not is refused in words."""
    try:
        told = load_config(str(path), overrides)
    except UserError as error:
        told = str(error)
    if isinstance(told, str):
        assert len(told) > 10
        assert "Traceback" not in told
    else:
        path.write_text(to_yaml(told))
        assert load_config(str(path)) == told
