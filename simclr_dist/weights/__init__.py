"""Encoders in and out: read from runs and from other projects' files, written for other programs, compared."""
