"""The matrix product, which most of a training's time goes to."""
