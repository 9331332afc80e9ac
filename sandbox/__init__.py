"""A laboratory for distribution matching distillation with exact teachers."""

import os

# MKL chooses its kernels by the alignment of its operands unless told not to, so that one student's sums would depend
# on its place in the pack. Read at MKL's first call, hence before torch is imported; an explicit setting wins.
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
