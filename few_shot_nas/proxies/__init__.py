"""Scores of an architecture without training and without query labels."""
