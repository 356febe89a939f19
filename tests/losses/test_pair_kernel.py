"""The kernel's numbers in Triton's interpreter, and when it is chosen. Its binaries: tests/benchmarks."""

from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from simclr_dist.losses import nt_xent, pair_kernel
from tests.support.interpreted_pairs import interpreted, loss_and_gradients
from tests.support.processes import relative_error

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def views(images: int, width: int, kind: str) -> tuple[Tensor, Tensor]:
    """Unit float32 embeddings of two views, (images, width) each."""
    generator = torch.Generator().manual_seed(0)
    z_1, noise = torch.randn(2, images, width, generator=generator, dtype=torch.float64)
    z_2 = z_1 + noise
    if kind == "separated":
        z_1 = F.one_hot(torch.arange(images) % width, width) + 0.01 * z_1
        z_2 = z_1 + 0.01 * noise
    if kind == "collapsed":
        z_1, z_2 = 1 + 1e-3 * z_1, 1 + 1e-3 * z_2
    return F.normalize(z_1, dim=1).float(), F.normalize(z_2, dim=1).float()


# images, width, kind, temperature. 45 images: 90 rows, one block of rows and two of columns, neither of them full.
# Of 200 images some tiles hold negatives alone. Of more than 64 numbers, up to 128, a tile serves its rows and its
# columns: of 1, 2, 4 and 5 blocks.
CASES = {
    f"{kind}, {images} images, d {width}, T {temperature}": (images, width, kind, temperature)
    for images, width, kind, temperature in [
        (45, 128, "related", 1.0), (45, 128, "related", 0.1), (45, 128, "related", 0.02), (45, 128, "separated", 0.1),
        (45, 128, "separated", 0.02), (45, 128, "collapsed", 0.5), (45, 128, "collapsed", 0.05),
        (200, 48, "related", 0.1), (120, 100, "related", 0.1), (200, 100, "related", 0.1), (290, 128, "collapsed", 0.1),
        (21, 200, "related", 0.2),
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    if version("triton").startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton 3.6's interpreter asks numpy for scalars of arrays, which numpy 2.4 refuses")
    losses = {name: (*views(*shape), temperature) for name, (*shape, temperature) in CASES.items()}
    # 3 processes of 26 rows: their rows begin and end within blocks of columns.
    return interpreted(losses, (torch.cat(views(39, 64, "related")), 26, 0.1), tmp_path_factory.mktemp("interpreted"))


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_ranks_are_float64s_on_the_same_numbers(name, found):
    *shape, temperature = CASES[name]
    expected = loss_and_gradients(*(z.double() for z in views(*shape)), temperature, "tiles")
    assert found[name]["loss"].item() == pytest.approx(expected["loss"].item(), rel=2e-6)
    assert relative_error(found[name]["gradient"], expected["gradient"]) < 1e-5
    # The loss rounds its rows to float32 again, so the ranks of nearly equal embeddings are another matter.
    assert shape[2] == "collapsed" or found[name]["metrics"].equal(expected["metrics"])


@needs_triton
def test_the_rows_of_several_processes_have_their_share_of_the_whole_batchs_loss_and_gradient(found):
    columns = torch.cat(views(39, 64, "related"))
    z = columns.double().view(3, 2, 13, 64).transpose(0, 1).flatten(1, 2)  # both views of all processes
    expected = loss_and_gradients(*z, 0.1, "tiles")
    gradient = expected["gradient"].view(2, 3, 13, 64).transpose(0, 1).flatten(0, 2)
    assert found["processes"]["loss"].item() == pytest.approx(expected["loss"].item(), rel=2e-6)
    assert relative_error(found["processes"]["gradient"], gradient) < 1e-5
    assert found["processes"]["metrics"].equal(expected["metrics"])


@needs_triton
@pytest.mark.parametrize(("first", "count"), [(0, 400), (400, 400), (96, 26), (0, 1024)])
def test_a_tile_without_the_rule_holds_negatives_alone(first, count):
    from simclr_dist.losses.pair_programs import two_views_special

    row, column = np.ogrid[:count, : first + 2 * count]
    special = (column - first == row) | (column - first == (row + count // 2) % count)
    plain = 0
    for i in range(0, count, 128):
        for j in range(0, special.shape[1], 64):
            asked = two_views_special.fn(i, j, first, count, 128, 64)
            assert asked or not special[i : i + 128, j : j + 64].any()
            plain += not asked
    assert plain > 0


@pytest.mark.parametrize("row_blocks", [1, 3, 8, 64, 96, 256, 1000])
def test_shares_of_the_columns_fill_whole_waves_of_processors(row_blocks):
    programs = row_blocks * pair_kernel._shares(row_blocks, blocks=1024)
    waves = -(-programs // pair_kernel._PROCESSORS)
    assert programs >= 0.9 * waves * pair_kernel._PROCESSORS
    assert pair_kernel._shares(row_blocks, blocks=1) == 1


@needs_triton
def test_the_kernel_is_chosen_on_a_gpu_that_it_was_compiled_for(monkeypatch):
    with FakeTensorMode():
        columns = torch.empty(64, 128, device="cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(pair_kernel, "starts_programs", lambda: True)
    assert pair_kernel.available(columns, 0.1)
    assert not pair_kernel.available(torch.empty(64, 128), 0.1)
    assert not pair_kernel.available(columns, 1 / 61)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert not pair_kernel.available(columns, 0.1)
    monkeypatch.setattr(pair_kernel, "find_spec", lambda _: None)
    assert pair_kernel.refusal(columns, 0.1) == "Triton is not installed"


@needs_triton
@pytest.mark.parametrize(
    ("width", "dtype", "temperature", "reason"),
    [
        (128, torch.float64, 0.1, "float64"), (300, torch.float32, 0.1, "wider than 256"),
        (128, torch.float32, 0.01, "below 1/60"),
    ],
)  # fmt: skip
def test_a_kernel_that_is_asked_for_where_it_is_not_proved_is_refused(width, dtype, temperature, reason):
    z = torch.randn(4, width, dtype=dtype)
    with pytest.raises(ValueError, match=reason):
        nt_xent(z, z, temperature, pairs="kernel")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.05, 0.02])
@pytest.mark.parametrize("kind", ["related", "separated", "collapsed"])
@pytest.mark.parametrize(("images", "width"), [(1501, 128), (700, 48), (4096, 128)])
def test_on_a_gpu_loss_and_gradient_are_float64s_and_the_same_bits_again(images, width, kind, temperature):
    z = [tensor.cuda() for tensor in views(images, width, kind)]
    expected = loss_and_gradients(*(tensor.double() for tensor in z), temperature, "tiles")
    value = loss_and_gradients(*z, temperature, "kernel")
    loss = abs(value["loss"].item() / expected["loss"].item() - 1)
    gradient = relative_error(value["gradient"], expected["gradient"])
    same = loss_and_gradients(*z, temperature, "kernel")["gradient"].equal(value["gradient"])
    # Tensor cores round towards zero as they add: up to 1e-7 of a similarity of 1, times 1 / T in its exponential.
    most = 2e-6 * max(1, 0.1 / temperature)
    message = (
        f"loss {loss:.1e} (at most {most:.0e}), gradient {gradient:.1e} (at most 1e-5), the same bits again: {same}"
    )
    assert loss <= most and gradient < 1e-5 and same, message  # noqa: PT018 - all three in one message
