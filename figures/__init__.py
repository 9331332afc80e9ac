"""One file per figure: NEEDS names its experiment, COLUMNS its numbers, and draw(table) draws them. None of them
trains."""
