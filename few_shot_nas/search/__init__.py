"""Turning a trained supernet into one architecture."""
