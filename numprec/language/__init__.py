"""What kernels are written in: ladders and their rungs, number formats, instructions, and parts of error bounds."""
