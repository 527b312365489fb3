"""The dataset `lerobot`: recordings of robots in LeRobot's format."""
