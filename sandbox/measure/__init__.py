"""What is read off a trained student: pure functions, in float64, each with its null."""
