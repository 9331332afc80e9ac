"""The learned side: students, where they start, the losses they follow, and the loop that trains a pack of them."""
