"""The laboratory: reward tables of small spaces, and what chooses on them. Nothing live imports it."""
