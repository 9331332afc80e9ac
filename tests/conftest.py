"""Also puts this folder on the import path, so that every test can say `from problems import ...`."""

import torch

# Small batched products are slower on two threads than on one, and sums are ordered by the number of threads.
torch.set_num_threads(1)
