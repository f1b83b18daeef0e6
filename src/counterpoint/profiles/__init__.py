"""Who wants what: reading, writing, enumerating and learning profiles."""

from counterpoint.profiles.bounds import Bounds, format_bounds, in_force, parse_bounds
from counterpoint.profiles.parse import check_name, format_profile, parse_profile, unknown_name
from counterpoint.profiles.sets import corners, dirichlet, grid

__all__ = [
    "Bounds",
    "check_name",
    "corners",
    "dirichlet",
    "format_bounds",
    "format_profile",
    "grid",
    "in_force",
    "parse_bounds",
    "parse_profile",
    "unknown_name",
]
