"""What kernels are written in: ladders and their rungs, helpers, number formats, instructions, indices, and parts of
error bounds."""
