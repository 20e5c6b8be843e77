"""The commands of `python -m aigidetect.training`, one file a step: each adds its parsers and names the function to run."""
