"""How long meta-steps take, beside plain loops and other libraries."""
