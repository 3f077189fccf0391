"""Pure meta-learning: tensors in, tensors out. No module, buffer or random state is modified here."""
