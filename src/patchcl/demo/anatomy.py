"""Anatomy of the generated scans: a heart and what lies around it, drawn at random and painted slice by slice.

A left ventricle (LV) inside its muscle (MYO) with the crescent of the right ventricle (RV) at its side, from base to
apex, among chest wall, lungs, liver, stomach and vessels that share their intensities.
"""

from typing import NamedTuple

import numpy as np

CLASSES = ("background", "RV", "MYO", "LV")
RV, MYO, LV = 1, 2, 3
LAYERS = 3
"""Thin layers averaged into every thick slice: what makes edges fade where the heart tapers."""

Random = np.random.Generator


class Tissues(NamedTuple):
    """Brightness of what is in the picture, 0 black to 1 white."""

    left_blood: float
    right_blood: float
    muscle: float
    fat: float
    liver: float
    stomach: float
    body: float
    lung: float


class Heart(NamedTuple):
    """The shape of one heart; lengths in mm, angles in radians."""

    centre: np.ndarray  # (2,) from the middle of the picture
    drift: np.ndarray  # (2,) from base to apex
    septum: float  # direction from LV to RV
    radius: float  # of the LV at the base
    wall: float
    oval: float
    oval_angle: float
    right_width: float
    right_length: float  # relative to the LV with its wall
    right_shift: float
    right_end: float  # depth, 0 base to 1 apex, at which the RV ends


class Plane:
    """Where voxels lie, bent smoothly as bodies are, and shifted by another breath for every slice."""

    def __init__(self, random: Random, shape: tuple[int, ...], slices: int, pixel_mm: float) -> None:
        self.pixel_mm = pixel_mm
        self.axes_mm = [pixel_mm * (np.arange(length) - length / 2) for length in shape]
        layers = np.linspace(random.uniform(0.0, 0.12), random.uniform(0.9, 1.1), slices * LAYERS)
        self.depth = layers[:, None, None]  # 0 base to 1 apex
        breath = np.repeat(random.normal(0, 1.2, (2, slices)), LAYERS, axis=1)[..., None, None]
        self.x = self.axes_mm[0][:, None] + breath[0] + self.waves(random, 7, (50, 130), 2.2)  # to the patient's left
        self.y = self.axes_mm[1] + breath[1] + self.waves(random, 7, (50, 130), 2.2)  # downwards

    def waves(
        self, random: Random, count: int, lengths_mm: tuple[float, float], size: float, tilt: float = 1
    ) -> np.ndarray:
        """A smooth random field (layers, X, Y), its deviation about `size`; with more `tilt` it changes by slice."""
        angle, phase = random.uniform(0, 2 * np.pi, (2, count))
        rate = 2 * np.pi / random.uniform(*lengths_mm, count)
        along_x = np.exp(1j * np.outer(self.axes_mm[0], rate * np.cos(angle)))
        along_y = np.exp(1j * np.outer(rate * np.sin(angle), self.axes_mm[1]))
        along_z = np.exp(1j * (self.depth * random.normal(0, tilt, count) + phase))
        rows = (along_z * along_x).reshape(-1, count)  # flat, as one product of matrices is many times faster
        return np.asarray(size * np.sqrt(2 / count) * (rows @ along_y).real).reshape(
            len(self.depth), -1, along_y.shape[1]
        )

    def ellipse(self, centre: tuple[float, float], half: tuple[float, float], turn: float = 0) -> np.ndarray:
        """About the distance in mm to an ellipse (layers, X, Y), negative inside."""
        x, y = self.x - centre[0], self.y - centre[1]
        along = (x * np.cos(turn) + y * np.sin(turn)) / half[0]
        across = (y * np.cos(turn) - x * np.sin(turn)) / half[1]
        return np.asarray((np.sqrt(along**2 + across**2) - 1) * min(half))  # np.hypot is ten times slower


class Canvas:
    """A picture that later layers are painted over, with edges about a pixel wide."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.picture = np.zeros(plane.x.shape)

    def paint(self, distance: np.ndarray, brightness: np.ndarray | float) -> None:
        """Cover what lies inside, where the signed `distance` (mm) is negative."""
        cover = np.clip(0.5 - distance / self.plane.pixel_mm, 0, 1)
        self.picture += cover * (brightness - self.picture)


def draw_heart(random: Random) -> Heart:
    """A heart of a shape of its own, at a phase of its beat."""
    contraction = random.uniform(0, 1)  # 0 filled, 1 squeezed: a smaller pool inside a thicker wall
    return Heart(
        centre=np.array([8.0, 0.0]) + random.normal(0, 9, 2),
        drift=random.normal(0, 5, 2),
        septum=np.pi + random.normal(0.25, 0.5),
        radius=random.uniform(21, 30) * (1 - 0.35 * contraction),
        wall=random.uniform(6, 10) * (1 + 0.5 * contraction),
        oval=random.uniform(0, 0.13),
        oval_angle=random.uniform(0, np.pi),
        right_width=random.uniform(15, 34) * (1 - 0.3 * contraction),
        right_length=random.uniform(0.85, 1.3),
        right_shift=random.uniform(-0.3, 0.3),
        right_end=random.uniform(0.75, 1.0),
    )


def draw_tissues(random: Random) -> Tissues:
    """One of two scanners, each with a spread of its own: the second shows less contrast between blood and muscle."""
    vivid = Tissues(0.95, 0.90, 0.28, 0.85, 0.36, 0.80, 0.24, 0.05)
    dull = Tissues(0.68, 0.62, 0.40, 0.62, 0.46, 0.62, 0.34, 0.10)
    chosen = np.array(vivid if random.uniform() < 0.5 else dull)
    return Tissues(*(chosen * random.normal(1, 0.09, len(chosen))).tolist())


class Distances(NamedTuple):
    """Signed distances in mm, negative inside; (layers, X, Y)."""

    pool: np.ndarray  # blood of the LV
    outside: np.ndarray  # LV with its wall
    right: np.ndarray  # blood of the RV
    right_outside: np.ndarray  # RV with its thin wall


def distances_to(plane: Plane, heart: Heart) -> Distances:
    """Where the parts of the heart end, at every voxel."""
    x = plane.x - heart.centre[0] - heart.drift[0] * plane.depth
    y = plane.y - heart.centre[1] - heart.drift[1] * plane.depth
    along = x * np.cos(heart.septum) + y * np.sin(heart.septum)
    across = -x * np.sin(heart.septum) + y * np.cos(heart.septum)
    angle = np.arctan2(across, along)
    taper = np.sqrt(np.clip(1 - plane.depth**2, 0, None))
    radius = np.hypot(along, across)
    inner = heart.radius * (1.1 * taper - 0.1) * (1 + heart.oval * np.cos(2 * (angle - heart.oval_angle)))
    outer = inner + heart.wall * (0.5 + 0.5 * taper) * (1 + 0.15 * np.cos(angle - 2 * heart.oval_angle))
    reach = heart.radius * taper + heart.wall
    width = heart.right_width * np.sqrt(np.clip(1 - (plane.depth / heart.right_end) ** 2, 0, None))
    half = 0.35 * reach + width
    ellipse = np.hypot((along - 0.65 * reach) / half, across / (heart.right_length * reach) - heart.right_shift) - 1
    ellipse = np.where(width > 4, ellipse * np.minimum(half, reach), 99.0)
    return Distances(radius - inner, radius - outer, np.maximum(ellipse, outer - radius), ellipse - 3)


def class_mask(distances: Distances) -> np.ndarray:
    """The class of every voxel, (layers, X, Y) uint8."""
    mask = np.where(distances.right < 0, RV, 0)
    mask = np.where(distances.outside < 0, MYO, mask)
    return np.where(distances.pool < 0, LV, mask).astype(np.uint8)


def paint_anatomy(random: Random, plane: Plane, heart: Heart, distances: Distances, tissues: Tissues) -> np.ndarray:
    """Brightness of every layer, (layers, X, Y), before it is scanned."""
    canvas = Canvas(plane)
    _paint_chest(random, canvas, heart, tissues)
    _paint_organs(random, canvas, heart, tissues)
    _paint_vessels(random, canvas, heart, tissues)
    _paint_heart(random, canvas, distances, tissues)
    _paint_papillary(random, canvas, heart, distances, tissues)
    return np.asarray(canvas.picture * (1 + plane.waves(random, 14, (4, 14), 0.05, tilt=9)))


def _paint_chest(random: Random, canvas: Canvas, heart: Heart, tissues: Tissues) -> None:
    """Skin and fat, the chest wall with its ribs, the lungs, and the fat that the heart rests in."""
    plane, size = canvas.plane, heart.radius + heart.wall
    front, away = random.normal(-2.1, 0.4), size + random.uniform(22, 48)
    centre = _towards(heart.centre, front + np.pi, 105 - away)
    body = plane.ellipse(centre, (125, 105), random.uniform(-0.5, 0.5))
    wall_mm = random.uniform(10, 18)
    canvas.paint(body, tissues.fat)
    canvas.paint(body + random.uniform(5, 14), tissues.body)
    ribs = plane.waves(random, 3, (14, 24), 1, tilt=4) > 0.3
    canvas.paint(np.abs(body + wall_mm) - 3, np.where(ribs, 0.7 * tissues.fat, tissues.body))
    canvas.paint(body + wall_mm + 6, tissues.lung)
    bed = plane.ellipse(_towards(heart.centre, heart.septum + random.normal(0, 0.5), size), (size, 0.7 * size))
    canvas.paint(np.maximum(bed, body + wall_mm) + plane.waves(random, 6, (20, 60), 4), 0.8 * tissues.fat)


def _paint_organs(random: Random, canvas: Canvas, heart: Heart, tissues: Tissues) -> None:
    """Liver and stomach below the diaphragm, as bright as muscle and blood, and close to both."""
    plane, size = canvas.plane, heart.radius + heart.wall
    liver = _towards(heart.centre, random.normal(1.9, 0.25), size + random.uniform(28, 46))
    canvas.paint(plane.ellipse(liver, (random.uniform(50, 75), 30), random.uniform(-0.3, 0.5)), tissues.liver)
    half = (random.uniform(14, 28), random.uniform(10, 20))
    centre = _towards(heart.centre, random.normal(0.9, 0.4), size + random.uniform(18, 34))
    stomach = plane.ellipse(centre, half, random.uniform(0, 3))
    canvas.paint(stomach - random.uniform(2, 6), tissues.muscle)
    canvas.paint(stomach, tissues.stomach * (1 + plane.waves(random, 8, (10, 30), 0.12)))


def _paint_vessels(random: Random, canvas: Canvas, heart: Heart, tissues: Tissues) -> None:
    """Blood outside the heart: the aorta, which looks like a small LV, the lung's vessels, the pulmonary trunk."""
    plane, size = canvas.plane, heart.radius + heart.wall
    radius = random.uniform(9, 13)
    aorta = plane.ellipse(
        _towards(heart.centre, random.uniform(0, 0.7), size + random.uniform(16, 32)), (radius, radius)
    )
    canvas.paint(aorta - 3, tissues.muscle)
    canvas.paint(aorta, tissues.left_blood)
    for _ in range(int(random.integers(6, 14))):
        centre = _towards(heart.centre, random.uniform(-2.2, 1.2), size + random.uniform(8, 40))
        half = random.uniform(1.5, 5, 2)
        canvas.paint(plane.ellipse(centre, (half[0], half[1]), random.uniform(0, 3)), 0.8 * tissues.left_blood)
    trunk = plane.ellipse(_towards(heart.centre, heart.septum + 1.1, size + 6), (16, 11), heart.septum)
    canvas.paint(trunk + 60 * np.clip(plane.depth - 0.15, 0, 1), tissues.right_blood)


def _paint_heart(random: Random, canvas: Canvas, distances: Distances, tissues: Tissues) -> None:
    """The two chambers in their walls, wrapped in fat of uneven thickness."""
    plane, right = canvas.plane, distances.right
    fat_mm = np.clip(2 + plane.waves(random, 6, (25, 60), 2.5), 0, 7)
    whole = np.minimum(distances.outside, distances.right_outside)
    canvas.paint(whole - fat_mm, tissues.fat * random.uniform(0.5, 1))
    canvas.paint(distances.right_outside, tissues.muscle)
    flow = 1 + plane.waves(random, 8, (12, 40), 0.09, tilt=3)
    canvas.paint(right, tissues.right_blood * flow)
    strands = plane.waves(random, 10, (7, 14), 1, tilt=2) > 1.1
    canvas.paint(np.where(strands, np.maximum(right, -right - 8), 99), 0.75 * tissues.right_blood)
    canvas.paint(distances.outside, tissues.muscle)
    canvas.paint(distances.pool, tissues.left_blood * flow)


def _paint_papillary(random: Random, canvas: Canvas, heart: Heart, distances: Distances, tissues: Tissues) -> None:
    """Two muscles inside the LV that belong to it, as annotators have agreed."""
    present = (canvas.plane.depth > 0.25) & (canvas.plane.depth < 0.75)
    for side in (-1, 1):
        centre = _towards(heart.centre, heart.septum + np.pi + side * random.uniform(0.6, 1.1), 0.62 * heart.radius)
        radius = random.uniform(2, 4.5)
        blob = np.maximum(canvas.plane.ellipse(centre, (radius, radius)), distances.pool + 1)
        canvas.paint(np.where(present, blob, 99), 1.15 * tissues.muscle)


def _towards(start: np.ndarray, direction: float, away_mm: float) -> tuple[float, float]:
    """The point `away_mm` from `start`, `direction` in radians from x to y."""
    return float(start[0] + away_mm * np.cos(direction)), float(start[1] + away_mm * np.sin(direction))
