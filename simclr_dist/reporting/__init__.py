"""``simclr-dist report``: what a run did and learned, on one HTML page that needs nothing but itself."""


class Missing(Exception):
    """A part of the page that cannot be made; the message is the sentence that stands in its place."""
