"""The families of views that most papers draw from, as defaults of a method's groups."""

from dataclasses import replace

from simclr_dist.config.views import ViewGroup


def like_moco(blur_probability: float = 0.5) -> dict[str, ViewGroup]:
    """Two views drawn alike: MoCo v2's (arXiv 2003.04297), also SimSiam's; SupCon's without the blur."""
    view = ViewGroup(count=2, crop_area_min=0.2, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    return {"global": replace(view, blur_probability=blur_probability)}


def like_byol() -> dict[str, ViewGroup]:
    """BYOL's (arXiv 2006.07733, table 6): the first view always blurred and never solarized, the second seldom both.

    Crops are bicubic, as in the code of BYOL, Barlow Twins, VICReg and DINO.
    """
    view = ViewGroup(count=1, interpolation="bicubic", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    return {
        "first": replace(view, blur_probability=1.0),
        "second": replace(view, blur_probability=0.1, solarize_probability=0.2),
    }


def one_plain(crop_area_min: float, *, size: int = 0, grayscale_probability: float = 0.0) -> dict[str, ViewGroup]:
    """One view, cropped and flipped and its colours left as they are: what pretext tasks and classifiers begin with."""
    view = ViewGroup(count=1, size=size, crop_area_min=crop_area_min, color_probability=0.0, blur_probability=0.0)
    return {"global": replace(view, grayscale_probability=grayscale_probability)}
