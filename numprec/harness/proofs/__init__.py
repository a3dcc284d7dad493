"""Commands that prove what is too long for the tests; their output is kept in data/results/."""
