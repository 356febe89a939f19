"""Pixel contrast with one matrix of similarities and masks, as its paper and its release write it down.

What the tiles of ``pixel_contrast.py`` are held against; nothing of theirs is used here.
"""

import torch
from torch import Tensor


def _paper(
    anchors: Tensor, own: Tensor, candidates: Tensor, labels: Tensor, whole: Tensor, temperature: float
) -> Tensor:
    """``whole``: the candidates that are any anchor's, and not only those of their own class."""
    same = (own[:, None] == labels) & (labels != 255)
    allowed = (whole | same) & (labels != 255)
    s = anchors @ candidates.T / temperature
    normaliser = s.masked_fill(~allowed, -torch.inf).logsumexp(1)
    losses = normaliser - s.masked_fill(~same, 0).sum(1) / same.sum(1).clamp_min(1)
    counted = own != 255
    return losses[counted & same.any(1)].sum() / counted.sum().clamp_min(1)


def _release(rows: Tensor, labels: Tensor, image: Tensor, temperature: float) -> Tensor:
    counted = labels != 255
    rows, labels, image = rows[counted], labels[counted], image[counted]
    same = labels[:, None] == labels
    negative = ~same & (image[:, None] == image)
    s = rows @ rows.T / temperature
    negatives = s.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    losses = (torch.logaddexp(s, negatives) - s).masked_fill(~same, 0).sum(1) / same.sum(1)
    return losses.sum() / max(1, len(losses))


def plain_pixel_contrast(
    z: Tensor, labels: Tensor, temperature: float, loss: str, form: str, partners: Tensor
) -> Tensor:
    """As :func:`simclr_dist.losses.pixel_contrast.pixel_contrast`, of a whole global batch."""
    if loss == "batch":
        rows, classes = z.transpose(0, 1).flatten(1, 2), labels.transpose(0, 1).flatten(1)
        if form == "paper":
            whole = torch.ones_like(classes[1], dtype=torch.bool)
            return _paper(rows[0], classes[0], rows[1], classes[1], whole, temperature)
        return sum(
            (_release(rows[view], classes[view], torch.zeros_like(classes[view]), temperature) for view in (0, 1)),
            z.new_zeros(()),
        )
    found = []
    for image, partner in enumerate(partners.tolist()):
        (own, copy), (classes, of_copy) = z[image], labels[image]
        theirs, of_theirs = z[partner, 1], labels[partner, 1].where(labels[partner, 1] < 255, 255)
        if loss == "within" or partner == image:  # an image itself is no other one
            theirs, of_theirs = theirs[:0], of_theirs[:0]
        if form == "paper":
            whole = torch.arange(len(copy) + len(theirs), device=z.device) < len(copy)
            candidates, of_candidates = torch.cat((copy, theirs)), torch.cat((of_copy, of_theirs))
            found.append(_paper(own, classes, candidates, of_candidates, whole, temperature))
        elif loss == "cross":
            number = torch.arange(len(own) + len(theirs), device=z.device) // len(own)
            found.append(_release(torch.cat((own, theirs)), torch.cat((classes, of_theirs)), number, temperature))
        else:
            zero = torch.zeros_like(classes)
            found.append(_release(own, classes, zero, temperature) + _release(copy, of_copy, zero, temperature))
    return torch.stack(found).mean()
