"""Processes that no longer hold the same run are found, named and stopped before anything is saved."""

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from simclr_dist.config import Config
from simclr_dist.config.recipe import Data
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.errors import AgreedError, UserError
from simclr_dist.guards.replicas import DriftCheck, digest
from simclr_dist.guards.same_config import refuse_other_configs, refuse_to_join
from simclr_dist.training import trainer
from tests.support.processes import assert_bit_equal, final_state, losses, pretrain_here, run_distributed, tiny_config


def flip(tensor: Tensor, place: int, bit: int) -> None:
    """Flip one bit of a tensor, in place."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.view(-1).view(integers[tensor.element_size()])
    flat[place] ^= -(1 << bit) if bit == 8 * tensor.element_size() - 1 and bit > 7 else 1 << bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8])
def test_every_flipped_bit_changes_the_digest(dtype, monkeypatch):
    monkeypatch.setattr("simclr_dist.guards.replicas._PART", 64)
    random = torch.Generator().manual_seed(0)
    sizes = ((3, 5), (), (64,), (7, 11), (2, 3))  # small ones that are joined, and large ones in parts
    tensors = [(torch.randn(size, generator=random) * 50).to(dtype) for size in sizes]
    plain = digest(tensors)
    assert digest([tensor.clone() for tensor in tensors]) == plain
    for tensor in tensors:
        for place in {0, tensor.numel() // 2, tensor.numel() - 1}:
            for bit in (0, 8 * tensor.element_size() - 1):
                flip(tensor, place, bit)
                assert digest(tensors) != plain
                flip(tensor, place, bit)
    assert digest(tensors) == plain
    assert digest(tensors[::-1]) != plain


def _complaint(config: Config, rank: int, step: int, part: str) -> str:
    """The complaint of this process, one bit of whose weights or optimizer state is flipped after ``step``."""
    undisturbed = trainer.Trainer.train_step

    def disturbed(self: trainer.Trainer, images: Tensor) -> dict[str, float]:
        values = undisturbed(self, images)
        if process_rank() == rank and self.steps_done + 1 == step:
            weight = next(self.step.method.parameters())
            flip(weight.detach() if part == "weights" else self.step.optimizer.state[weight]["momentum_buffer"], 3, 0)
        return values

    trainer.Trainer.train_step = disturbed
    try:
        pretrain_here(config)
    except UserError as error:
        return str(error) if isinstance(error, AgreedError) else f"for itself: {error}"
    finally:
        trainer.Trainer.train_step = undisturbed
    return "continued"


def test_of_three_processes_the_one_with_a_flipped_bit_is_named_and_nothing_is_saved_after_it(tmp_path):
    config = tiny_config(tmp_path, "recipe.global_batch_images=24", "machine.compare_every_steps=2",
                         "machine.save_every_steps=3")  # fmt: skip
    messages = run_distributed(3, _complaint, config, 1, 3, "weights")
    for message in messages:
        assert message.startswith("the weights of the processes differ after step 3 (encoder.")  # before the save
        assert ": process 1 on " in message
        assert " against the other 2. " in message
        assert "no checkpoint was written yet" in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def _several(folder: Path, config: Config) -> list[str]:
    def there(name: str, **changes: object) -> Config:
        machine = dataclasses.replace(config.machine, run_dir=str(folder / name), **changes)
        return dataclasses.replace(config, machine=machine)

    other = there("config")
    if process_rank():
        # So that one process makes the groups of batch norm and the other none: it must be told before.
        other = dataclasses.replace(other, recipe=dataclasses.replace(other.recipe, seed=5, batch_norm_group_images=0))
    never = there("never", compare_every_steps=3 * process_rank())
    images = there("images", compare_every_steps=0)
    data = Data(source="folder", path=str(folder / f"images_{process_rank()}"), image_size=8)
    images = dataclasses.replace(images, recipe=dataclasses.replace(images.recipe, data=data))
    found = [_complaint(there("optimizer"), 1, 2, "optimizer")]
    found += [_complaint(each, -1, 0, "") for each in (other, never, images)]
    for every in (0, 1):
        pretrain_here(there(f"every_{every}", compare_every_steps=every, stop_after_steps=4))
    return found


def test_two_processes_disagree_about_optimizer_config_or_images_and_comparing_leaves_the_trajectory_alone(tmp_path):
    for rank in (0, 1):
        (tmp_path / f"images_{rank}").mkdir()
        for number in range(40):
            Image.new("RGB", (8, 8)).save(tmp_path / f"images_{rank}" / f"{number + rank}.png")
    config = tiny_config(tmp_path, "machine.compare_every_steps=3", "recipe.batch_norm_group_images=8")
    for optimizer, other, never, images in run_distributed(2, _several, tmp_path, config):
        assert "optimizer state of the processes differ after step 3" in optimizer
        assert "processes disagree: 0 on " in optimizer
        assert " | 1 on " in optimizer
        assert "the config of the processes differs (recipe.seed, recipe.batch_norm_group_images): processes" in other
        assert "the config of the processes differs (machine.compare_every_steps): processes disagree: 0 on " in never
        assert "the sample positions of the processes differ after step 0: processes disagree: 0 on " in images
        assert "Give all processes the same images" in images
    assert losses(tmp_path / "every_1") == losses(tmp_path / "every_0")
    assert_bit_equal(final_state(tmp_path / "every_1"), final_state(tmp_path / "every_0"))


def _refusals(folder: Path) -> list[str]:
    found = []
    keys = ("precision=float16", "recompute=blocks", "debug_numerics=true", "channels_last=true")
    for override in (f"machine.{key}" for key in keys):
        own = folder / str(process_rank())
        own.mkdir(exist_ok=True)
        config = tiny_config(own, *([override] if process_rank() else []))
        try:
            refuse_other_configs(config)
            found.append("taken")
        except UserError as error:
            found.append(str(error))
    return found


def test_processes_of_another_precision_or_layout_or_with_other_collectives_in_a_step_are_refused(tmp_path):
    for precision, recompute, debug, layout in run_distributed(2, _refusals, tmp_path):
        assert "the config of the processes differs (machine.precision): " in precision
        assert "(machine.recompute): " in recompute
        assert "(machine.debug_numerics): " in debug
        assert "(machine.channels_last): " in layout


def test_a_nodes_own_copy_of_the_images_has_other_times_and_is_no_other_images():
    network = torch.nn.Linear(1, 1)

    def positions(**images: str) -> int:
        order = SampleOrder(seed=0, images=8, global_batch_images=4)
        return DriftCheck(0, order, images, network, torch.optim.SGD(network.parameters()))._positions(1)

    assert positions(sizes="a", times="1") == positions(sizes="a", times="2") != positions(sizes="b", times="1")


def test_a_process_with_another_config_is_not_taken_in_and_one_whose_weights_are_not_read_yet_is(tmp_path):
    said: list[str] = []

    def first(own: str) -> str:
        said.append(own)
        return said[0]

    begun = tiny_config(tmp_path, "recipe.initial.sha256=" + "a" * 64, "recipe.initial.weights=x")
    refuse_to_join(begun, first)
    refuse_to_join(tiny_config(tmp_path, "recipe.initial.weights=x"), first)
    with pytest.raises(UserError, match=r"another config .*\(machine\.save_every_steps\)") as refused:
        refuse_to_join(tiny_config(tmp_path, "recipe.initial.weights=x", "machine.save_every_steps=3"), first)
    assert not isinstance(refused.value, AgreedError)
