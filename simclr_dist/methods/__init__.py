"""Pretraining methods. Each is one file, made of ``base.Method``, and one line of ``config/registry.py``."""
