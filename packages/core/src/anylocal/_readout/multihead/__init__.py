"""The maps of `nn.MultiheadAttention`, which torch computes in one of three places."""
