"""Means with confidence intervals, and paired comparisons."""
