"""Balls in a box: how they start, move and look. Times are in seconds, lengths in units of
the box's shorter side, positions (x, y) from its top left corner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (232, 64, 64),
    "orange": (245, 145, 45),
    "yellow": (240, 205, 70),
    "green": (80, 190, 100),
    "blue": (70, 125, 240),
    "purple": (170, 95, 220),
}
BACKGROUND = (34, 36, 46)
RADIUS = (0.11, 0.16)
SPEED = 0.6  # at most, along each axis, to begin with
BOUNCE = 0.9  # of the speed is kept at a wall
EDGE = 4.0  # pixels over which a ball fades out; sharper edges would not survive latents of 4x4 pixels
SUBSTEPS = 16  # of a frame, in which a ball moves a small part of its radius


@dataclass(frozen=True)
class Balls:
    """Arrays over the balls: position (N, 2), velocity (N, 2), radius (N); their colours. box: (2) its size."""

    position: np.ndarray
    velocity: np.ndarray
    radius: np.ndarray
    colours: tuple[str, ...]
    box: np.ndarray


def start(random: np.random.Generator, height: int, width: int, most: int = 2) -> Balls:
    """One ball, or two where `most` allows, apart from each other, in a box of these proportions."""
    count = int(random.integers(1, most + 1))
    radius = random.uniform(*RADIUS, count)
    box = np.array([width, height]) / min(height, width)
    while True:
        position = random.uniform(radius[:, None], box - radius[:, None])
        if count == 1 or np.linalg.norm(position[0] - position[1]) > radius.sum():
            break
    velocity = random.uniform(-SPEED, SPEED, (count, 2))
    colours = tuple(random.choice(list(COLOURS), count, replace=False).tolist())
    return Balls(position, velocity, radius, colours, box)


def simulate(balls: Balls, num_frames: int, fps: float, gravity: tuple[float, float]) -> list[Balls]:
    """The balls at each frame, the first as they are; semi-implicit Euler, reflected at walls and off each other."""
    dt = 1 / fps / SUBSTEPS
    position, velocity, radius = balls.position.copy(), balls.velocity.copy(), balls.radius[:, None]
    states = [balls]
    for _ in range(num_frames - 1):
        for _ in range(SUBSTEPS):
            velocity += np.array(gravity) * dt
            position += velocity * dt
            outside = ((position < radius) & (velocity < 0)) | ((position > balls.box - radius) & (velocity > 0))
            velocity[outside] *= -BOUNCE
            position = np.clip(position, radius, balls.box - radius)
            if len(position) == 2:
                _collide(position, velocity, balls.radius)
        states.append(Balls(position.copy(), velocity.copy(), balls.radius, balls.colours, balls.box))
    return states


def _collide(position: np.ndarray, velocity: np.ndarray, radius: np.ndarray) -> None:
    """Elastic, mass growing with area: where two balls touch and approach, they swap momentum along their line."""
    apart = position[1] - position[0]
    normal = apart / np.linalg.norm(apart)
    approach = float((velocity[0] - velocity[1]) @ normal)
    if np.linalg.norm(apart) < radius.sum() and approach > 0:
        mass = radius**2
        velocity[0] -= 2 * mass[1] / mass.sum() * approach * normal
        velocity[1] += 2 * mass[0] / mass.sum() * approach * normal


def render(balls: Balls, height: int, width: int) -> np.ndarray:
    """The picture, (height, width, 3) uint8 RGB; balls are lit from the front and fade out at the edge."""
    unit = min(height, width)
    y, x = (np.mgrid[:height, :width] + 0.5) / unit
    picture = np.broadcast_to(np.array(BACKGROUND, float), (height, width, 3))
    for position, radius, colour in zip(balls.position, balls.radius, balls.colours, strict=True):
        distance = np.hypot(x - position[0], y - position[1])
        ramp = np.clip((radius - distance) * unit / EDGE + 0.5, 0, 1)
        cover = (ramp * ramp * (3 - 2 * ramp))[..., None]
        light = 1 - 0.3 * np.minimum(distance / radius, 1.2)[..., None] ** 2
        picture = picture * (1 - cover) + np.array(COLOURS[colour]) * light * cover
    return picture.round().astype(np.uint8)


def caption(balls: Balls) -> str:
    """What a person would say of the first frame and where it is going."""
    moves = [
        f"{'an' if colour == 'orange' else 'a'} {colour} ball starts at the {_place(position / balls.box)} "
        f"moving {_direction(velocity)}"
        for colour, position, velocity in zip(balls.colours, balls.position, balls.velocity, strict=True)
    ]
    text = "; ".join(moves)
    return f"{text[0].upper()}{text[1:]}, in a dark box."


def _place(position: np.ndarray) -> str:
    """Of a position in parts of the box."""
    return f"{'top' if position[1] < 0.5 else 'bottom'} {'left' if position[0] < 0.5 else 'right'}"


def _direction(velocity: np.ndarray) -> str:
    """One word where it is within about 22 degrees of an axis, else two."""
    across, down = float(velocity[0]), float(velocity[1])
    words = []
    if abs(down) > 0.4 * abs(across):
        words.append("down" if down > 0 else "up")
    if abs(across) > 0.4 * abs(down):
        words.append("right" if across > 0 else "left")
    return " and ".join(words)
