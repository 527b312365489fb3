"""The dataset `webdataset`: videos and captions in tar files."""
