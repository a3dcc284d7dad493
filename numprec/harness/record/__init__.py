"""What a run leaves behind: rows, their schema, the files that hold them, and what they were measured on."""
