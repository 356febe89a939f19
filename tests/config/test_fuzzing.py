"""Whatever a checkpoint or a config holds, the answer is its contents or one clear complaint.

SIMCLR_DIST_FUZZ_EXAMPLES=10000 tries more than the suite has time for.
"""

import hashlib
import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simclr_dist.config import Config, load_config, to_yaml
from simclr_dist.config.loading import fields_of
from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run.checksum import COMMENT_BYTES, MARK
from tests.support.checkpoints import sealed, state

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
  epochs: 200
  data: {source: folder, path: /data/photos, mean: [0.5, 0.5, 0.5]}
  optimizer: {name: lars, classic_momentum: true}
machine: {precision: bfloat16}
health: {contrastive_top1: {bands: {10: [1, 2]}, source: a paper}}
"""
KEYS = [key for key, _, _ in fields_of(Config())]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.lists(st.floats(), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["${recipe.epochs}", "${oc.env:HOME}", "???", "${", "[", "{a: ", "1e999", ".nan", "0x1F", "~"]),
)  # fmt: skip
OVERRIDES = st.lists(
    st.one_of(
        st.builds(
            "{}={}".format, st.sampled_from([*KEYS, "recipe", "machine.run_dir.a", "a.b", "recipe.", ""]), VALUES
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
