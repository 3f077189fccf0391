"""What Lightning needs from us: strategy, gradient averaging, checkpoints, metrics, progress."""
