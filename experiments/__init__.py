"""One file per claim: a base cell, arms, axes and presets. Each is also a script."""
