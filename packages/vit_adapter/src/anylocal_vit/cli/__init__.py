"""The command line: pictures of a model's attention, and statistics over a data set."""
