"""One run, from a checkpoint to a scored file: the pipeline's jobs, and `ecqx run`.

Nothing is imported here, so that the command's help does not wait for torch.
"""
