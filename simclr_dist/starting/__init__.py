"""The first recipe for a folder of pictures: what ``simclr-dist init`` finds, chooses and writes."""
