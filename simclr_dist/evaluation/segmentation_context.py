"""An encoder and the images with masks that it is fine-tuned and evaluated on."""

from functools import cached_property

from simclr_dist.config.recipe import SOURCES_WITH_MASKS, dilated_stages
from simclr_dist.data.sources.base import with_masks
from simclr_dist.errors import AgreedError, UserError
from simclr_dist.evaluation.context import OpenedImages
from simclr_dist.evaluation.features import features_digest
from simclr_dist.models.resnet import resnets_of

_STRIDE_FROM_OUTSIDE = 32


class SegmentationContext(OpenedImages):
    """What a fine-tuning with masks is given."""

    def _examine(self) -> None:
        """Take the masks.

        Raises:
            UserError: the images have no masks, or the encoder has no maps.
        """
        train, test = with_masks(self.train), with_masks(self.test)
        if train is None or test is None:
            raise UserError(
                f"segment: the images of '{self.data.source}' have no masks; name some with --on: a folder with images/"
                f" and masks/, a config, or {', '.join(SOURCES_WITH_MASKS)} (docs/data.md)"
            )
        if train.mask_classes != test.mask_classes:
            raise UserError(f"segment: '{self.data.source}' has other classes in its test masks than in the others")
        self.masked_train, self.masked_test = train, test
        self.class_names = train.mask_classes
        self.pretrained.encoder.require_map()

    @cached_property
    def images_digests(self) -> list[str]:
        """Of the encoder with the training and with the test images; every process asks."""
        both = (self.train, self.test)
        return [features_digest(self.pretrained.encoder, each, self.data.image_size, self.how) for each in both]

    def images_with_masks(self, asked: int | None) -> int:
        """How many to learn from: as asked, or (None) all.

        Raises:
            UserError: there are not so many, or one alone, of which a batch has no statistics.
        """
        there = len(self.train)
        if asked is not None and asked > there:
            raise AgreedError(
                f"--images: {asked}, but '{self.data.source}' has {there} training images; ask for fewer, or for all"
            )
        if (asked or there) < 2:
            raise AgreedError("--images: batch norm needs two images at least; ask for more")
        return asked or there

    def output_stride(self, asked: int) -> int:
        """Of the encoder's map while it is fine-tuned: as asked, or (0) the recipe's, or half the network's own.

        0 for an encoder from outside, whose stride is its own affair.

        Raises:
            UserError: it is none that the encoder can have.
        """
        keys = self.recipe.encoder
        if not resnets_of(self.pretrained.encoder.backbone):
            if asked:
                raise AgreedError("--output-stride: has no meaning for an encoder from outside; its stride is its own")
            return 0
        own = 8 if keys.stem == "small" else 32
        chosen = asked or (keys.output_stride if keys.output_stride not in (0, own) else own // 2)
        try:
            dilated_stages(keys.stem, chosen)
        except ValueError as error:
            raise AgreedError(f"--output-stride: {str(error).partition(': ')[2]}") from error
        return chosen

    @staticmethod
    def filled_up_to(output_stride: int) -> int:
        """To a multiple of how many pixels whole images are filled up."""
        return output_stride or _STRIDE_FROM_OUTSIDE
