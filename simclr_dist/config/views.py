"""How the views of an image are drawn, group by group."""

from dataclasses import dataclass

from simclr_dist.config.fields import MOST_PIXELS, number, one_of

COLOR_FORMS = ("exact", "affine")
INTERPOLATIONS = ("bilinear", "bicubic")
FRAMES = ("own", "near", "camera")


@dataclass(kw_only=True)
class Views:
    crop_area_min: float = number(0.08, above=0.0, high=1.0)
    """Smallest share of the image's area that a random resized crop takes."""
    crop_area_max: float = number(1.0, above=0.0, high=1.0)
    """Largest share of the image's area that a random resized crop takes."""
    interpolation: str = one_of("bilinear", INTERPOLATIONS)
    """How a crop is resized to the view, with antialiasing. `bilinear`: torchvision's default (MoCo, SimSiam, SwAV).
    `bicubic`: sharper (Google's SimCLR and BYOL, Barlow Twins, VICReg, DINO)."""
    flip_probability: float = number(0.5, low=0.0, high=1.0)
    """Probability of a left-right flip."""
    color_strength: float = number(1.0, low=0.0, high=2.0)
    """The paper's s: multiplies brightness, contrast, saturation and hue below (1 for ImageNet, 0.5 for CIFAR)."""
    color_probability: float = number(0.8, low=0.0, high=1.0)
    """Probability that the four colour operations are applied (in random order)."""
    brightness: float = number(0.8, low=0.0)
    """Brightness factor is drawn from 1 - b*s .. 1 + b*s, not below 0."""
    contrast: float = number(0.8, low=0.0)
    """Contrast factor is drawn from 1 - c*s .. 1 + c*s, not below 0."""
    saturation: float = number(0.8, low=0.0)
    """Saturation factor is drawn from 1 - t*s .. 1 + t*s, not below 0."""
    hue: float = number(0.2, low=0.0, high=0.5)
    """Hue shift is drawn from -h*s .. h*s of the full circle; h*s at most 0.5."""
    color_form: str = one_of("exact", COLOR_FORMS)
    """`exact`: torchvision's four operations one after the other. `affine`: fused into one matrix an image, faster, but
    without clamping between them and with hue as a rotation: views that are 5/255 apart in the mean (photos, s = 1)."""
    grayscale_probability: float = number(0.2, low=0.0, high=1.0)
    """Probability of dropping the colour."""
    blur_probability: float = number(0.5, low=0.0, high=1.0)
    """Probability of a Gaussian blur; the kernel is 10 % of the image's side, made odd."""
    blur_sigma_min: float = number(0.1, above=0.0)
    """Smallest standard deviation of the blur, pixels."""
    blur_sigma_max: float = number(2.0, above=0.0)
    """Largest standard deviation of the blur, pixels."""
    solarize_probability: float = number(0.0, low=0.0, high=1.0)
    """Probability of inverting all pixels of 128 and more (BYOL's; SimCLR has none)."""


@dataclass(kw_only=True)
class ViewGroup(Views):
    """Views of one size and one distribution. The method names its groups; a key directly under ``views`` means all."""

    count: int = number(2, low=1, high=64)
    """Views of an image in this group. Most methods fix it."""
    size: int = number(0, low=0, high=MOST_PIXELS)
    """Side of these views in pixels; 0: recipe.data.image_size."""
    crop_of: str = ""
    """Name of a group before this one: these views take the crop and flip of its first, so both show the same places,
    each with colours of its own (pixel contrast). Empty: crops and flips of their own."""
    frame: str = one_of("own", FRAMES)
    """Which frame these views show, of sources with time: the sample's `own`, one `near` it in its sequence and camera,
    or one of another `camera`; drawn from (seed, epoch, sample id)."""
    frame_distance: int = number(0, low=0, high=10**9)
    """How many frame numbers that one is away, at most. 0 with `camera`: the same moment."""

    def side(self, image_size: int) -> int:
        """Side of these views in pixels, where ``image_size`` is recipe.data.image_size."""
        return self.size or image_size
