"""A decision tree, from sorting a column to growing all nodes of a level."""
