"""Noise-contrastive estimation: is a score that of data or that of one of K noise samples."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class NCE:
    """Binary classification of data against K noise samples (Gutmann and Hyvarinen 2010; Mnih and Teh 2012).

    With the model's probability p and the noise's q, P(data) = p / (p + K q + epsilon): the log-odds are the score
    minus log(K q + epsilon).

    Args:
        epsilon: of a published code (NPID, CMC: 1e-7), 0 in the formula.
    """

    def __init__(self, epsilon: float = 0.0) -> None:
        self.epsilon = epsilon

    def __call__(self, scores: Tensor, log_noise: Tensor | float) -> Tensor:
        """The losses (queries,): of the data, plus the sum over its noise samples.

        Args:
            scores: log p, (queries, 1 + K); column 0 is the data, the others noise.
            log_noise: log q of each score, or of all.
        """
        samples = scores.shape[1] - 1
        log_noise = torch.as_tensor(log_noise, dtype=scores.dtype, device=scores.device).expand_as(scores)
        rate = samples * log_noise.exp() + self.epsilon
        logits = scores - rate.log()
        # K q / (p + K q + epsilon) = (K q / (K q + epsilon)) sigmoid(-logit); the first factor is a constant.
        kept = (log_noise + math.log(samples) - rate.log())[:, 1:].sum(1)
        return -F.logsigmoid(logits[:, 0]) - F.logsigmoid(-logits[:, 1:]).sum(1) - kept

    @staticmethod
    def mutual_information_bound(loss: Tensor, samples: int) -> Tensor:
        """In nats: at least log K - loss (Tian et al. 2020, arXiv 1910.10699, section 3.2)."""
        return math.log(samples) - loss.detach()
