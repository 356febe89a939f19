"""A method that breaks a rule of the seam is refused before the first step, by name."""

import re

import pytest
import torch

from simclr_dist.errors import UserError
from simclr_dist.methods.base import Method
from simclr_dist.training.convolution_rules import refusing_unwritten_gradients
from tests.support import toy_methods
from tests.support.methods import method_config
from tests.support.processes import assert_bit_equal, final_state, pretrain_here, run_distributed, tiny_config
from tests.support.toy_methods import name_of

REFUSED = [
    (toy_methods.TrainedInLoss, "the trained parameter prototypes.weight acts in loss()"),
    (toy_methods.BufferInLoss, "the buffer centre moves before the update"),
    (toy_methods.UndescribedMetric, "METRICS does not have 'surprise'"),
    (toy_methods.AbsentMetric, "METRICS has, and loss() does not return 'spread'"),
    (toy_methods.NoLoss, "loss() returns no 'loss'"),
    (toy_methods.NothingTrained, "the loss does not depend on the embeddings"),
]


@pytest.mark.parametrize(("method", "why"), REFUSED)
def test_a_method_that_breaks_a_rule_is_refused_before_the_first_step(tmp_path, method, why):
    with pytest.raises(UserError) as refusal:
        pretrain_here(tiny_config(tmp_path, f"recipe.method.name={name_of(method)}"))
    assert str(refusal.value).startswith(f"recipe.method.name: {name_of(method)}: {why}")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("chunk_images", [0, 1, 4])
def test_groups_of_one_image_are_refused_where_a_head_normalises_one_row_of_each_however_many_groups_a_chunk_has(
    tmp_path, chunk_images
):
    overrides = ("recipe.batch_norm_group_images=1", f"machine.images_per_chunk={chunk_images}")
    with pytest.raises(UserError, match=r"^recipe\.batch_norm_group_images: .* take larger groups"):
        pretrain_here(method_config("byol", tmp_path, *overrides))


@pytest.mark.parametrize("method", ["jigsaw", "relative_patch"])
def test_on_a_cpu_in_half_precision_a_convolution_whose_map_is_smaller_than_its_stride_is_refused(tmp_path, method):
    """Views of 8 pixels have patches of 1 or 2, and the encoder of the tiny recipe three strides of 2."""
    overrides = ("machine.stop_after_steps=1", "machine.device=cpu")
    with pytest.raises(UserError) as refusal:
        pretrain_here(method_config(method, tmp_path, "machine.precision=bfloat16", *overrides))
    layer = r"encoder\.backbone\.layer\d\.0\.conv1 has the stride 2 and gets maps of 1 x 1 pixels"
    assert re.match(
        rf"machine\.precision: bfloat16 on a CPU: {layer}.* set machine\.precision=float32", str(refusal.value)
    )
    pretrain_here(method_config(method, tmp_path, "machine.precision=float32", *overrides))


def test_a_convolution_whose_gradient_is_written_is_taken_in_half_precision():
    """Of one pixel, or of a map as large as its stride, or one that is not trained."""
    one, larger = torch.nn.Conv2d(2, 2, 1, stride=2), torch.nn.Conv2d(2, 2, 3, stride=2, padding=1)
    with refusing_unwritten_gradients(torch.nn.ModuleList([one, larger]), torch.bfloat16):
        one(torch.zeros(1, 2, 1, 1))
        larger(torch.zeros(1, 2, 2, 2))
        with torch.no_grad():
            larger(torch.zeros(1, 2, 1, 1))
        with pytest.raises(UserError, match="1 x 2 pixels"):
            larger(torch.zeros(1, 2, 1, 2))


def _refusal(folder, method: type[Method]) -> str:
    try:
        pretrain_here(tiny_config(folder, f"recipe.method.name={name_of(method)}", "machine.images_per_chunk=8",
                                  "recipe.batch_norm_group_images=8"))  # fmt: skip
    except UserError as error:
        return str(error)
    return "done"


def test_all_processes_refuse_a_trained_parameter_in_the_loss(tmp_path):
    for complaint in run_distributed(2, _refusal, tmp_path, toy_methods.TrainedInLoss):
        assert "the processes' weights would drift apart" in complaint


def test_the_check_of_the_rules_leaves_no_trace_in_weights_buffers_and_random_numbers(tmp_path, monkeypatch):
    def run(name: str) -> dict:
        config = tiny_config(
            tmp_path, f"recipe.method.name={name_of(toy_methods.Toy)}", "machine.stop_after_steps=2",
            f"machine.run_dir={tmp_path / name}",
        )  # fmt: skip
        torch.manual_seed(0)
        pretrain_here(config)
        return final_state(tmp_path / name) | {"random": torch.get_rng_state()}

    checked = run("checked")
    monkeypatch.setattr("simclr_dist.training.step.check_rules", lambda *_: None)
    assert_bit_equal(checked, run("unchecked"))
