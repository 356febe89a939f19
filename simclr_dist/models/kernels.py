"""What torch's kernels may do: how exact they are in float32, and whether they give the same bits again."""

import os

import torch


def set_kernels(*, deterministic: bool, precision: str = "float32") -> None:
    """Set both for the whole process; before the process group and the first kernel, as cuBLAS and NCCL read it once.

    A GPU may round what it multiplies to TF32, 10 bits, which torch allows convolutions by default: an error of 3e-4
    of the result, and another one for another shape. Here ``precision`` tf32 alone allows it, and for convolutions
    alone: the products of heads and losses are float32 always, as an error of a similarity is divided by the
    temperature and then in an exponent.

    Args:
        deterministic: the same bits again on the same machine.
        precision: ``machine.precision``.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
        # Inductor is told by it too: it then chooses no kernel by its time that adds in another order.
        torch.use_deterministic_algorithms(True, warn_only=True)
        # A debugging aid that costs a pass over every new tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    # Not cuda.matmul.allow_tf32: that leaves the CPU's setting as it was, and torch refuses to read two that differ.
    torch.set_float32_matmul_precision("highest")
