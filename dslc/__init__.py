"""dslc: a compiler for neural networks written as text files (`.dl`)."""
