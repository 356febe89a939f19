"""Which part of a traced step is the method's loss, and which is its embedding."""

from simclr_dist.methods.base import Batch, Method, Tensors
from simclr_dist.planning.tracker import StepTracker


class MethodWatch:
    """Counts what the loss of ``method`` makes as ``loss``, in both passes, and the operations of ``embed``.

    The backward pass is in the loss from the loss itself until the first gradient has reached an embedding: autograd
    takes what was computed last first.
    """

    def __init__(self, method: Method, tracker: StepTracker) -> None:
        self.embed_flops = 0
        """Operations of ``embed``, forward passes alone, of all calls."""
        embed, loss = method.embed, method.global_loss

        def counted_embed(batch: Batch) -> Tensors:
            before = tracker.flops
            embeddings = embed(batch)
            self.embed_flops += tracker.flops - before
            return embeddings

        def counted_loss(embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
            with tracker.category("loss"):
                outputs = loss(embeddings, targets, batch)
            if outputs["loss"].requires_grad:
                outputs["loss"].register_hook(lambda _: tracker.switch("loss"))
            for embedding in embeddings.values():
                if embedding.requires_grad:
                    embedding.register_hook(lambda _: tracker.switch(None))
            return outputs

        method.embed = counted_embed  # type: ignore[method-assign]
        method.global_loss = counted_loss  # type: ignore[method-assign]
