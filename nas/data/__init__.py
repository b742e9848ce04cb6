"""Images: where they come from, how they are split, and in which batches."""

from nas.data.splits import Data, DataConfig, Images, Splits, load_data

__all__ = ["Data", "DataConfig", "Images", "Splits", "load_data"]
