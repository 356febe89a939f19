"""Encoders, projection heads and grouped batch norm."""
