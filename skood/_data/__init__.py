"""Reading and checking X and y: arrays, frames, Datasets, loaders, labels."""
