"""Reformer: attention within chunks, sorted by hashes or local."""

from anylocal_bert._family import Family

FAMILY = Family(unsupported={r"(LSH|Local)SelfAttention": "attention within chunks, whose map is never assembled"})
