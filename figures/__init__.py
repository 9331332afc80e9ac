"""One file per figure: NEEDS names its experiment, columns its numbers, and draw(table) draws them. None of them
trains."""
