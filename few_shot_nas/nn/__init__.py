"""Layers and starting weights that every network is made of."""
