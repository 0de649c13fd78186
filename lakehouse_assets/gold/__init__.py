"""Tables on a gapless grid, for models and for people."""
