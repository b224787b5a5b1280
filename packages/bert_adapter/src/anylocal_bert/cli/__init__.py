"""The commands of ``python -m anylocal_bert``, which the library itself never imports."""
