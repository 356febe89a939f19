"""A folder with masks of the user's own: images/, masks/ and classes.txt."""

import os
from pathlib import Path

from simclr_dist.data.sources.base import IGNORED
from simclr_dist.data.sources.files import reason_of
from simclr_dist.data.sources.folders import find_images, part_by_name, some_of, splits_of
from simclr_dist.data.sources.masked_files import MaskedNames
from simclr_dist.data.sources.torchvision_readers import require_folder
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable


def find_masked(path: Path, split: str) -> MaskedNames:
    """The images below images/, each with a PNG of its name below masks/; for pretraining those of unlabelled/ too.

    They stand in ``path`` or in its splits (folders of the usual names). Where none is held out, one image of five is a
    test image, by the hash of its name. ``classes.txt`` in ``path`` names the classes, one a line, in their order.

    Raises:
        UserError: a folder, the names of the classes, an image or a mask is missing.
    """
    require_folder(path, "")
    splits = splits_of(path)
    root = splits.held_out if split == "test" and splits.held_out else splits.train
    if missing := [name for name in ("images", "masks") if not (root / name).is_dir()]:
        raise UserError(f"recipe.data.path: {printable(str(root))} has no folder {missing[0]}/, beside the other")
    images, masks = find_images(root / "images"), find_images(root / "masks")
    pairs = {name: f"{os.path.splitext(name)[0]}.png" for name in images.names}
    there = set(masks.names)
    if lacking := [name for name, mask in pairs.items() if mask not in there]:
        mask = printable(os.path.join(root, "masks", pairs[lacking[0]]))
        more = f" (and {len(lacking) - 1:,} more images have none)" if len(lacking) > 1 else ""
        raise UserError(
            f"recipe.data.path: {mask} is missing, the mask of images/{printable(lacking[0])}{more}; draw it, or "
            "move the image into unlabelled/ beside images/"
        )
    remarks = [f"held out: {printable(splits.held_out.name)}/"] if splits.held_out and split != "test" else []
    if left_out := images.left_out():
        remarks.append(f"left out: {', '.join(left_out)}")
    if alone := sorted(there - set(pairs.values())):
        remarks.append(f"left out: masks without an image: {some_of(alone)}")
    names = images.names
    if splits.held_out is None:
        names, remark = part_by_name(names, split, of_each_class=False)
        remarks.append(remark)
    if not names:
        raise UserError(f"recipe.data.path: no images in {printable(str(root / 'images'))} for the split '{split}'")
    found = MaskedNames(
        root=root,
        names=[f"images/{name}" for name in names],
        masks=[f"masks/{pairs[name]}" for name in names],
        mask_classes=_class_names(path),
        remarks=remarks,
    )
    if split == "pretrain" and (root / "unlabelled").is_dir():
        others = find_images(root / "unlabelled").names
        found.names += [f"unlabelled/{name}" for name in others]
        found.masks += [""] * len(others)
    return found


def _class_names(path: Path) -> list[str]:
    file = path / "classes.txt"
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"recipe.data.path: {printable(str(file))}: {reason_of(error)}; it names the classes of the masks, one a "
            "line, the first for pixels of 0"
        ) from error
    if not 1 <= len(names) <= IGNORED:
        raise UserError(
            f"recipe.data.path: {printable(str(file))} names {len(names)} classes; at least 1, at most {IGNORED}"
        )
    return names
