"""One experiment from a checkpoint to a small file, with the published code's options: `ecqx run`.

Nothing is imported here, so that the command's help does not wait for torch.
"""
