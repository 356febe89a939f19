"""What the environment asks of NCCL that is against a promise of this project."""

import os

from simclr_dist.log import log


def allows_nvls(algorithms: str) -> bool:
    """Whether a value of ``NCCL_ALGO`` lets NCCL reduce in the NVLink switches (NVLS, NVLSTree).

    ``Ring,Tree`` names all that may be used, ``^NVLS`` what may not, ``allreduce:tree;broadcast:ring`` a list for each
    collective (NCCL's documentation of its environment variables).
    """
    lists = [each.rpartition(":")[2].strip().lower() for each in algorithms.split(";")]
    named = [{name.strip() for name in each.removeprefix("^").split(",")} for each in lists]
    return any(
        "nvls" not in names if each.startswith("^") else not names.isdisjoint({"nvls", "nvlstree"})
        for each, names in zip(lists, named, strict=True)
        if each
    )


def warn_of_nvls() -> None:
    """Say that the environment's ``NCCL_ALGO`` takes the place of torch's own choice in deterministic mode, ``^NVLS``.

    Sums in NVLink's switches come out other from call to call (github.com/NVIDIA/nccl/issues/1497).
    """
    algorithms = os.environ.get("NCCL_ALGO", "")
    if allows_nvls(algorithms):
        log.warning(
            "NCCL_ALGO=%s allows NVLS, whose sums differ from run to run: machine.deterministic does not hold; unset "
            "it, or set NCCL_ALGO=^NVLS",
            algorithms,
        )
