"""Who wants what: reading, writing, enumerating and inferring profiles."""

from counterpoint.profiles.infer import InferredProfile, infer_profile
from counterpoint.profiles.parse import check_name, format_profile, parse_profile, unknown_name
from counterpoint.profiles.sets import corners, dirichlet, grid

__all__ = [
    "InferredProfile",
    "check_name",
    "corners",
    "dirichlet",
    "format_profile",
    "grid",
    "infer_profile",
    "parse_profile",
    "unknown_name",
]
