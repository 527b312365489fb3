"""A dataset of videos in a folder, each with a caption beside it."""
